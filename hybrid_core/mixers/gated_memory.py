"""The gated memory unit. Costed, not built."""

from typing import ClassVar

from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.sized import Matrix, SizedCosts, Sizes
from hybrid_core.validation import Dim, quiet


class GatedMemoryMixer(Mixer):
    """Gated memory unit (arXiv 2507.06607): gates what an earlier scan put out, `d_memory` wide; it
    has no cache of its own."""

    kind: ClassVar[str] = "gated_memory"
    letter: ClassVar[str] = "R"
    d_memory: Dim
    bias: bool = quiet(False)

    def costs(self, d_model: int) -> SizedCosts:
        matrices = (
            ("in_proj", Matrix(d_model, self.d_memory)),
            ("out", Matrix(self.d_memory, d_model)),
        )
        return SizedCosts(d_model, Sizes(matrices, vectors=self.bias * (self.d_memory + d_model)))
