"""Which implementation of an operation runs, and which did run.

Implementations are named "eager" (plain torch, any device and dtype), "triton" and "mamba_ssm". One
of them is chosen for each call: the one that `use` forces, or that the environment variable
HYBRID_KERNELS names ("eager", or "ssd=eager,attention=triton"), else Triton on a CUDA device
wherever it can run, else eager. A forced one that cannot run is an error. A choice is never hidden:
`explain` says beforehand what will run, `ran` afterwards what did."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.implementations import (
    MODULES,
    OPERATIONS,
    CannotRun,
    from_environment,
    not_installed,
    require_known,
)

TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_forced: dict[str, str] = {}
_loaded: dict[tuple[str, str], tuple[Callable[..., Any], Callable[..., str | None] | None]] = {}
_ran: set[tuple[str, str]] = set()


def run(operation: str, counted: Callable[..., Any], *args: Any) -> Any:
    """Call the implementation of `operation` that is due for these arguments; `counted` is the node
    that stands for it on meta.

    The first argument is a tensor and decides device and dtype. Raises CannotRun where a forced
    implementation cannot run."""
    if args[0].is_meta:
        return counted(*args)
    if (
        args[0].is_cpu and operation not in _forced
    ):  # the shortest way: a decode step on a CPU makes hundreds of these calls
        _ran.add((operation, "eager"))
        return _load(operation, "eager")[0](*args)
    name, reason = _choose(operation, args)
    _ran.add((operation, f"{name} ({reason})" if reason else name))
    implementation, _ = _load(operation, name)
    if args[0].device.type == "cuda" and name != "eager":
        with torch.cuda.device(
            args[0].device
        ):  # Triton launches on the current device, whatever the tensors' is
            return implementation(*args)
    return implementation(*args)


@contextmanager
def use(operation: str, implementation: str) -> Iterator[None]:
    """Force an implementation of one operation while the context is open. Raises ValueError for one
    that does not exist."""
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
    """What each operation has run since `forget`, and why it was eager where Triton was due:
    {"ssd": "triton", "attention": "eager"}."""
    return {
        operation: ", ".join(sorted(words for name, words in _ran if name == operation))
        for operation in sorted({o for o, _ in _ran})
    }


def forget() -> None:
    """Begin the record of `ran` anew."""
    _ran.clear()


def explain(device_type: str, dtype: torch.dtype = torch.bfloat16) -> dict[str, str]:
    """What each operation runs on a device of this type ("cpu", "cuda", "meta"), and why it is not
    what a faster one would be."""
    return {operation: _in_words(operation, device_type, dtype) for operation in OPERATIONS}


def require_forced(device_type: str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Raise CannotRun for an implementation that was asked for and cannot run on a device of this
    type, before any work is done."""
    for operation, name in _forced.items():
        obstacle = _obstacle(operation, name, device_type, dtype, training=False)
        if obstacle:
            raise CannotRun(
                f"HYBRID_KERNELS: {operation}={name} - cannot run on {device_type}: {obstacle}"
            )


def _in_words(operation: str, device_type: str, dtype: torch.dtype) -> str:
    if device_type == "meta":
        return "counted, not computed"
    forced, eager = _forced.get(operation), OPERATIONS[operation].eager
    due = forced or ("triton" if device_type == "cuda" else "eager")
    obstacle = _obstacle(operation, due, device_type, dtype, training=False)
    words = eager if due == "eager" else due
    if forced:
        return f"{words}, forced" + (f", cannot run: {obstacle}" if obstacle else "")
    if obstacle:
        return f"{eager} ({obstacle})"
    return words if due in OPERATIONS[operation].trains else f"{words}; with gradients {eager}"


def _choose(operation: str, args: tuple[Any, ...]) -> tuple[str, str | None]:
    """The implementation for a call, and why it is eager where Triton was due."""
    device_type, dtype = args[0].device.type, args[0].dtype
    training = torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in args
    )
    forced = _forced.get(operation)
    due = forced or ("triton" if device_type == "cuda" else "eager")
    obstacle = _obstacle(operation, due, device_type, dtype, training) or _limit(
        operation, due, args
    )
    if forced and obstacle:
        raise CannotRun(f"{operation}: {forced} was asked for and cannot run: {obstacle}")
    return ("eager", obstacle) if obstacle else (due, None)


def _obstacle(
    operation: str, implementation: str, device_type: str, dtype: torch.dtype, training: bool
) -> str | None:
    """Why an implementation cannot run, if so."""
    if implementation == "eager":
        return None
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    reason: str | None = _reason(
        operation, implementation, device_type, dtype, training, interpreted
    )
    return reason


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
@cache  # asked at every call
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
    obstacles = {
        f"a {device_type} tensor, and {implementation} needs a CUDA device": device_type != "cuda"
        and not (interpreted and implementation == "triton"),
        f"{dtype} - {implementation} takes {', '.join(map(str, TRITON_DTYPES))}": dtype
        not in TRITON_DTYPES,
        "a gradient is wanted, and it has no backward pass": training
        and implementation not in OPERATIONS[operation].trains,
    }
    return next((reason for reason, holds in obstacles.items() if holds), None)


def _limit(operation: str, implementation: str, args: tuple[Any, ...]) -> str | None:
    """Why an implementation cannot take these very arguments, if so: what the function
    `<operation>_limit` beside it says."""
    _, limit = _load(operation, implementation)
    return limit(*args) if limit else None


def _load(
    operation: str, implementation: str
) -> tuple[Callable[..., Any], Callable[..., str | None] | None]:
    """An implementation and its limit."""
    if (loaded := _loaded.get((operation, implementation))) is not None:
        return loaded
    _imported(operation, implementation)
    return _loaded[operation, implementation]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # imports cannot be traced
def _imported(operation: str, implementation: str) -> bool:
    """Put an implementation in `_loaded`."""
    module = importlib.import_module(
        f"kernels.{OPERATIONS[operation].folder}.{MODULES[implementation]}"
    )
    _loaded[operation, implementation] = (
        getattr(module, operation),
        getattr(module, f"{operation}_limit", None),
    )
    return True


_forced.update(from_environment(os.environ.get("HYBRID_KERNELS", "")))
