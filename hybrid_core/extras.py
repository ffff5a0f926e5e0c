"""Optional dependencies: the modules that each extra needs, and the command that installs it.

`pip install hybrid-explorer` installs everything that costs, evidence, configs and reports need.
Torch and the page server are extras (`[project.optional-dependencies]` in pyproject.toml)."""

from importlib.util import find_spec

from hybrid_core.validation import SpecError

# One module for each distribution that the extra requires.
MODULES = {
    "live": ("torch", "fvcore", "transformers", "safetensors"),
    "app": ("streamlit",),
}


def missing(extra: str) -> str | None:
    """The first module of an extra that is not installed, or None if all are."""
    for module in MODULES[extra]:
        if find_spec(module) is None:
            return module
    return None


def require(extra: str, what: str) -> None:
    """Raise SpecError, with the install command, if the extra that `what` needs is missing."""
    module = missing(extra)
    if module is not None:
        command = f"pip install 'hybrid-explorer[{extra}]'"
        raise SpecError(f"{what}: {module} is not installed - `{command}` installs it")
