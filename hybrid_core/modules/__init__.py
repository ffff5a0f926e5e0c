"""The torch modules that a design becomes: `build(spec, device, dtype)` makes the model."""

from hybrid_core.modules.generate import generate
from hybrid_core.modules.model import HybridLM, build

__all__ = ["HybridLM", "build", "generate"]
