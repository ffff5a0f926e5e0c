"""The gated memory unit. Costed, not built."""

from typing import ClassVar, Self

from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.base import Entry, Mixer
from hybrid_core.mixers.sized import Matrix, SizedCosts, Sizes
from hybrid_core.validation import Dim, quiet


class GatedMemoryMixer(Mixer):
    """Gated memory unit (arXiv 2507.06607). It gates the output of an earlier scan, which is
    `d_memory` wide, and has no cache."""

    entry: ClassVar[Entry] = Entry(
        name="gated_memory",
        meaning="Gates the output of an earlier scan; it has no cache.",
        label="Gated memory unit",
        letter="U",
        colour="#AAAA00",
        matrices=("in_proj", "out"),
    )
    d_memory: Dim
    bias: bool = quiet(False)

    def shrunk(self, factors: Factors) -> Self:
        # Rounded to the same multiple as the Mamba-1 scan that it reads.
        return self.changed(d_memory=scaled(self.d_memory, factors.width, 16))

    def costs(self, d_model: int) -> SizedCosts:
        matrices = (
            ("in_proj", Matrix(d_model, self.d_memory)),
            ("out", Matrix(self.d_memory, d_model)),
        )
        biases = self.d_memory + d_model if self.bias else 0
        return SizedCosts(d_model, Sizes(matrices, vectors=biases))
