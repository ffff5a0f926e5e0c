"""LFM2's gated short convolution. Costed, not built."""

from typing import ClassVar, Self

from hybrid_core.factors import Factors
from hybrid_core.mixers.base import Entry, Mixer
from hybrid_core.mixers.sized import Matrix, SizedCosts, Sizes
from hybrid_core.validation import Dim, quiet


class ShortConvMixer(Mixer):
    """LFM2's gated short convolution. Its cache holds only the last inputs of the convolution."""

    entry: ClassVar[Entry] = Entry(
        name="short_conv",
        meaning="LFM2's gated convolution over a few positions, which are its only state.",
        label="Short convolution",
        letter="C",
        colour="#88CCEE",
        matrices=("in_proj", "out"),
    )
    d_conv: Dim = 3
    bias: bool = quiet(False)

    def shrunk(self, factors: Factors) -> Self:
        """Unchanged: it has no width or length."""
        return self

    def costs(self, d_model: int) -> SizedCosts:
        return SizedCosts(
            d_model,
            Sizes(
                matrices=(
                    ("in_proj", Matrix(d_model, 3 * d_model)),
                    ("out", Matrix(d_model, d_model)),
                ),
                vectors=4 * d_model * self.bias,
                conv_channels=d_model,
                d_conv=self.d_conv,
                conv_bias=self.bias,
            ),
        )
