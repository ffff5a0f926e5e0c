"""The operations and their implementations by name, and the packages that each needs.

No torch here, because the pages and the command line import this, too.
"""

from importlib.util import find_spec
from typing import NamedTuple

IMPLEMENTATIONS = ("eager", "triton", "mamba_ssm")


class CannotRun(RuntimeError):
    """A requested implementation cannot run here. The message is one line."""


class Operation(NamedTuple):
    """An operation in kernels/<folder>/. Every implementation there is a function with its name."""

    folder: str
    eager: str  # a description of the eager implementation
    implementations: tuple[str, ...] = ("eager", "triton")
    trains: tuple[str, ...] = ("eager", "triton")  # those with a backward pass


MODULES = {
    "eager": "eager",
    "triton": "triton_kernel",
    "mamba_ssm": "mamba_ssm_kernel",
}
OPERATIONS = {
    "attention": Operation("attention", "torch scaled_dot_product_attention"),
    "attention_step": Operation(
        "attention", "torch scaled_dot_product_attention", trains=("eager",)
    ),
    "branch_fusion": Operation("branch_fusion", "eager torch"),
    "causal_conv1d": Operation("causal_conv1d", "eager torch"),
    "gated_rms_norm": Operation("gated_rms_norm", "eager torch"),
    "grouped_linear": Operation("grouped_linear", "eager torch"),
    "mamba2_step": Operation("mamba2_step", "eager torch", trains=("eager",)),
    "rms_norm": Operation("rms_norm", "eager torch"),
    "selective_scan": Operation("selective_scan", "eager torch, piece by piece"),
    "selective_scan_step": Operation("selective_scan", "eager torch", trains=("eager",)),
    "ssd": Operation("ssd", "eager torch, chunk by chunk", IMPLEMENTATIONS, IMPLEMENTATIONS),
    "ssd_step": Operation("ssd", "eager torch", IMPLEMENTATIONS, ("eager",)),
}

# What an implementation imports besides torch, and the command that installs it. Some builds of
# torch include Triton.
NEEDS = {
    "eager": (),
    "triton": ("triton",),
    "mamba_ssm": ("mamba_ssm", "triton"),
}
INSTALL = {
    "triton": ".venv/bin/pip install triton==3.9.0",
    "mamba_ssm": "sh tools/install-mamba.sh .venv",
}


def not_installed(implementation: str) -> str | None:
    """Which package an implementation lacks, with the command that installs it, or None."""
    for module in NEEDS[implementation]:
        if find_spec(module) is None:
            command = INSTALL[module]
            return (
                f"{module} is not installed; `{command}` installs it, and it runs on a CUDA device"
            )
    return None


def require_known(operation: str, implementation: str) -> None:
    """Raise ValueError for an operation or an implementation that does not exist.

    The message lists those that do.
    """
    if operation not in OPERATIONS:
        raise ValueError(
            f"no operation is called {operation!r} - there are {', '.join(OPERATIONS)}"
        )
    if implementation not in OPERATIONS[operation].implementations:
        names = ", ".join(OPERATIONS[operation].implementations)
        raise ValueError(f"{operation} has no implementation {implementation!r} - it has {names}")


def from_environment(value: str) -> dict[str, str]:
    """The implementation of each operation that HYBRID_KERNELS names.

    "eager" means every operation, "ssd=eager,attention=triton" those two. Raises ValueError.
    """
    if not value.strip():
        return {}
    if "=" not in value:
        pairs = dict.fromkeys(OPERATIONS, value.strip())
    else:
        pairs = dict(map(_pair, value.split(",")))
    for operation, implementation in pairs.items():
        require_known(operation, implementation)
    return pairs


def _pair(item: str) -> tuple[str, str]:
    """The operation and the implementation in an item like "ssd=eager". Raises ValueError."""
    item = item.strip()
    operation, equals, implementation = item.partition("=")
    if not equals:
        raise ValueError(f"{item!r} - must be OPERATION=IMPLEMENTATION, separated by commas")
    return operation, implementation


def require_installed(value: str) -> None:
    """Raise CannotRun if a value of HYBRID_KERNELS names something unknown or not installed."""
    try:
        chosen = from_environment(value)
    except ValueError as error:
        raise CannotRun(f"HYBRID_KERNELS: {value!r} - {error}") from None
    for implementation in chosen.values():
        lacking = not_installed(implementation)
        if lacking:
            raise CannotRun(f"HYBRID_KERNELS: {value!r} - {lacking}")
