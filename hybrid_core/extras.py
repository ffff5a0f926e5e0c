"""The package's optional parts: which modules each needs, and the line that says how to install it.

`pip install hybrid-explorer` brings what costs, evidence, configs and reports need. Torch and the
server of the pages are extras (`[project.optional-dependencies]` in pyproject.toml)."""

from importlib.util import find_spec

from hybrid_core.validation import SpecError

# One module per distribution of the extra: those that it cannot do without.
MODULES = {
    "live": ("torch", "fvcore", "transformers", "safetensors"),
    "app": ("streamlit",),
}


def missing(extra: str) -> str | None:
    """The first module of an extra that is not installed, or None where all are."""
    for module in MODULES[extra]:
        if find_spec(module) is None:
            return module
    return None


def require(extra: str, what: str) -> None:
    """Raise SpecError, with the command that installs the extra, where `what` lacks it."""
    module = missing(extra)
    if module is not None:
        command = f"pip install 'hybrid-explorer[{extra}]'"
        raise SpecError(f"{what}: {module} is not installed - `{command}` installs it")
