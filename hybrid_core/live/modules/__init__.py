"""The torch modules that a design becomes: `build(spec, device, dtype)` makes the model."""

from hybrid_core.live.modules.generate import generate
from hybrid_core.live.modules.model import HybridLM, build

__all__ = ["HybridLM", "build", "generate"]
