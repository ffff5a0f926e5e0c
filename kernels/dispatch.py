"""Choose the implementation of each operation, and record what ran.

Implementations are named "eager" (plain torch, any device and dtype), "triton" and "mamba_ssm".
Each call takes the first of these that applies:

1. the implementation that `use` forces
2. the one that the environment variable HYBRID_KERNELS names ("eager", or
   "ssd=eager,attention=triton")
3. Triton on a CUDA device, if it can run
4. eager

A forced implementation that cannot run is an error. `explain` shows beforehand what will run, and
`ran` shows afterwards what did.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.compiled import constant_in_graph
from kernels.implementations import (
    MODULES,
    OPERATIONS,
    CannotRun,
    from_environment,
    not_installed,
    require_known,
)

TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Implementation = Callable[..., Any]
Limit = Callable[..., str | None]  # why an implementation does not support some arguments
Loaded = tuple[Implementation, Limit | None]

_forced: dict[str, str] = {}  # operation -> implementation
_loaded: dict[tuple[str, str], Loaded] = {}  # by operation and implementation
_ran: set[tuple[str, str]] = set()  # operation, and a description of what ran


def run(operation: str, counted: Callable[..., Any], *args: Any) -> Any:
    """Call the implementation of `operation` that these arguments select.

    The first argument is a tensor and decides device and dtype. On the meta device the call goes to
    `counted`, the node that FLOP counters know. Raises CannotRun if a forced implementation cannot
    run.
    """
    device = args[0].device
    if device.type == "meta":
        return counted(*args)
    if device.type == "cpu" and operation not in _forced:
        # A shortcut, because a decode step on a CPU makes hundreds of these calls.
        _ran.add((operation, "eager"))
        implementation, _ = _load(operation, "eager")
        return implementation(*args)
    name, reason = _choose(operation, args)
    _ran.add((operation, f"{name} ({reason})" if reason else name))
    implementation, _ = _load(operation, name)
    if device.type == "cuda" and name != "eager":
        # Triton launches on the current device, whatever the device of the tensors.
        with torch.cuda.device(device):
            return implementation(*args)
    return implementation(*args)


@contextmanager
def use(operation: str, implementation: str) -> Iterator[None]:
    """Force the implementation of one operation inside the context.

    Raises ValueError for an operation or implementation that does not exist.
    """
    require_known(operation, implementation)
    before = _forced.get(operation)
    _forced[operation] = implementation
    try:
        yield
    finally:
        if before is None:
            del _forced[operation]
        else:
            _forced[operation] = before


def ran() -> dict[str, str]:
    """The implementations that each operation has used since `forget`.

    {"ssd": "triton", "attention": "eager (...)"}: the reason is given if Triton was expected.
    """
    found: dict[str, str] = {}
    for operation, words in sorted(_ran):
        if operation in found:
            found[operation] += f", {words}"
        else:
            found[operation] = words
    return found


def forget() -> None:
    """Clear the record of `ran`."""
    _ran.clear()


def explain(device_type: str, dtype: torch.dtype = torch.bfloat16) -> dict[str, str]:
    """Describe what each operation would run on a type of device ("cpu", "cuda", "meta").

    If that is not the fastest implementation, the description gives the reason.
    """
    return {operation: _in_words(operation, device_type, dtype) for operation in OPERATIONS}


def require_forced(device_type: str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Raise CannotRun if a forced implementation cannot run on a device of this type.

    Call this before doing any work.
    """
    for operation, name in _forced.items():
        obstacle = _obstacle(operation, name, device_type, dtype, training=False)
        if obstacle:
            raise CannotRun(
                f"HYBRID_KERNELS: {operation}={name} - cannot run on {device_type}: {obstacle}"
            )


def _in_words(operation: str, device_type: str, dtype: torch.dtype) -> str:
    if device_type == "meta":
        return "counted, not computed"
    forced = _forced.get(operation)
    eager = OPERATIONS[operation].eager
    name = _preferred(operation, device_type)
    obstacle = _obstacle(operation, name, device_type, dtype, training=False)
    words = eager if name == "eager" else name
    if forced and obstacle:
        return f"{words}, forced, cannot run: {obstacle}"
    if forced:
        return f"{words}, forced"
    if obstacle:
        return f"{eager} ({obstacle})"
    if name not in OPERATIONS[operation].trains:
        return f"{words}; with gradients {eager}"
    return words


def _preferred(operation: str, device_type: str) -> str:
    """The forced implementation, or else the fastest one for this type of device."""
    forced = _forced.get(operation)
    if forced is not None:
        return forced
    return "triton" if device_type == "cuda" else "eager"


def _choose(operation: str, args: tuple[Any, ...]) -> tuple[str, str | None]:
    """The implementation for a call, and the reason if it replaces the preferred one."""
    device_type = args[0].device.type
    name = _preferred(operation, device_type)
    training = torch.is_grad_enabled() and any(map(_wants_gradient, args))
    obstacle = _obstacle(operation, name, device_type, args[0].dtype, training)
    if obstacle is None:
        obstacle = _limit(operation, name, args)
    if obstacle is None:
        return name, None
    if operation in _forced:
        raise CannotRun(f"{operation}: {name} was requested but cannot run: {obstacle}")
    return "eager", obstacle


def _wants_gradient(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.requires_grad


def _obstacle(
    operation: str,
    implementation: str,
    device_type: str,
    dtype: torch.dtype,
    training: bool,
) -> str | None:
    """Why an implementation cannot run, or None if it can."""
    if implementation == "eager":
        return None
    reason: str | None = _reason(
        operation,
        implementation,
        device_type,
        dtype,
        training,
        interpreted=os.environ.get("TRITON_INTERPRET") == "1",
    )
    return reason


@constant_in_graph
@cache  # asked by every call
def _reason(
    operation: str,
    implementation: str,
    device_type: str,
    dtype: torch.dtype,
    training: bool,
    interpreted: bool,
) -> str | None:
    absent = not_installed(implementation)
    if absent is not None:
        return absent
    emulated = interpreted and implementation == "triton"
    if device_type != "cuda" and not emulated:
        return f"a {device_type} tensor, and {implementation} needs a CUDA device"
    if dtype not in TRITON_DTYPES:
        return f"{dtype} - {implementation} takes {', '.join(map(str, TRITON_DTYPES))}"
    if training and implementation not in OPERATIONS[operation].trains:
        return "a gradient is wanted, and it has no backward pass"
    return None


def _limit(
    operation: str,
    implementation: str,
    args: tuple[Any, ...],
) -> str | None:
    """Why an implementation does not support these arguments, by its `<operation>_limit`."""
    _, limit = _load(operation, implementation)
    if limit is None:
        return None
    return limit(*args)


def _load(operation: str, implementation: str) -> Loaded:
    """An implementation and its limit, imported on first use."""
    loaded = _loaded.get((operation, implementation))
    if loaded is not None:
        return loaded
    _import(operation, implementation)
    return _loaded[operation, implementation]


# torch.compile cannot trace an import, so it runs this at trace time.
@constant_in_graph
def _import(operation: str, implementation: str) -> bool:
    """Put an implementation and its limit in `_loaded`."""
    folder = OPERATIONS[operation].folder
    module = importlib.import_module(f"kernels.{folder}.{MODULES[implementation]}")
    function = getattr(module, operation)
    limit = getattr(module, f"{operation}_limit", None)
    _loaded[operation, implementation] = (function, limit)
    return True


_forced.update(from_environment(os.environ.get("HYBRID_KERNELS", "")))
