"""The operations and their implementations by name, and what each needs installed. No torch: pages
and the command line ask here too."""

from importlib.util import find_spec
from typing import NamedTuple

IMPLEMENTATIONS = ("eager", "triton", "mamba_ssm")


class CannotRun(RuntimeError):
    """An implementation was asked for that cannot run here; the message is one line."""


class Operation(NamedTuple):
    """`implementations` lie in kernels/<folder>/, each under the operation's name; `trains` says
    which of them have a backward pass."""

    folder: str
    eager: str  # in words
    implementations: tuple[str, ...] = ("eager", "triton")
    trains: tuple[str, ...] = ("eager", "triton")


MODULES = {"eager": "eager", "triton": "triton_kernel", "mamba_ssm": "mamba_ssm_kernel"}
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

# What an implementation imports beside torch, and the command that installs it where torch's own
# build did not bring it.
NEEDS = {"eager": (), "triton": ("triton",), "mamba_ssm": ("mamba_ssm", "triton")}
INSTALL = {
    "triton": ".venv/bin/pip install triton==3.9.0",
    "mamba_ssm": "sh tools/install-mamba.sh .venv",
}


def not_installed(implementation: str) -> str | None:
    """What an implementation lacks, with the command that installs it; None where nothing is
    missing."""
    for module in NEEDS[implementation]:
        if find_spec(module) is None:
            return f"{module} is not installed; `{INSTALL[module]}` installs it, and it runs on a CUDA device"
    return None


def require_known(operation: str, implementation: str) -> None:
    """Raise ValueError, with what there is, for an operation or an implementation of it that does
    not exist."""
    if operation not in OPERATIONS:
        raise ValueError(
            f"no operation is called {operation!r} - there are {', '.join(OPERATIONS)}"
        )
    if implementation not in OPERATIONS[operation].implementations:
        names = ", ".join(OPERATIONS[operation].implementations)
        raise ValueError(f"{operation} has no implementation {implementation!r} - it has {names}")


def from_environment(value: str) -> dict[str, str]:
    """Read HYBRID_KERNELS: "eager" means every operation, "ssd=eager,attention=triton" those named.
    Raises ValueError."""
    if not value.strip():
        return {}
    if "=" not in value:
        pairs = dict.fromkeys(OPERATIONS, value.strip())
    else:
        pairs = {}
        for item in value.split(","):
            operation, equals, implementation = item.strip().partition("=")
            if not equals:
                raise ValueError(
                    f"{item.strip()!r} - must be OPERATION=IMPLEMENTATION, with commas between"
                )
            pairs[operation] = implementation
    for operation, implementation in pairs.items():
        require_known(operation, implementation)
    return pairs


def require_installed(value: str) -> None:
    """Raise CannotRun for a HYBRID_KERNELS that names what does not exist or is not installed, in
    one line."""
    try:
        chosen = from_environment(value)
    except ValueError as error:
        raise CannotRun(f"HYBRID_KERNELS: {value!r} - {error}") from None
    for implementation in chosen.values():
        if lacking := not_installed(implementation):
            raise CannotRun(f"HYBRID_KERNELS: {value!r} - {lacking}")
