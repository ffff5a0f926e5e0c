"""LFM2's gated short convolution. Costed, not built."""

from typing import ClassVar

from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.sized import Matrix, SizedCosts, Sizes
from hybrid_core.validation import Dim, quiet


class ShortConvMixer(Mixer):
    """LFM2's gated short convolution: its window of inputs is all the state that it has."""

    kind: ClassVar[str] = "short_conv"
    letter: ClassVar[str] = "R"
    d_conv: Dim = 3
    bias: bool = quiet(False)

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
