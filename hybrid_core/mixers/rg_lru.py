"""RG-LRU. Costed, not built."""

from math import gcd
from typing import ClassVar, Self

from pydantic import model_validator

from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.base import Entry, Mixer
from hybrid_core.mixers.sized import Matrix, SizedCosts, Sizes
from hybrid_core.validation import Dim, divides


class RgLruMixer(Mixer):
    """RG-LRU (arXiv 2402.19427): a gated linear recurrence of `width` channels, gates
    block-diagonal over `n_blocks`."""

    entry: ClassVar[Entry] = Entry(
        name="rg_lru",
        meaning="A gated linear recurrence with one number of state per channel (Griffin).",
        label="RG-LRU",
        letter="R",
        colour="#332288",
        matrices=("in_proj", "gates", "out"),
        not_linear=("gates",),
    )
    width: Dim
    n_blocks: Dim
    d_conv: Dim = 4

    @model_validator(mode="after")
    def _rules(self) -> Self:
        divides("width", self.width, "n_blocks", self.n_blocks)
        return self

    def shrunk(self, factors: Factors) -> Self:
        width = scaled(self.width, factors.width, 16)
        return self.changed(width=width, n_blocks=gcd(self.n_blocks, width))

    def costs(self, d_model: int) -> SizedCosts:
        """Two projections in, one out, all with biases; two gates of n_blocks square blocks; a
        decay per channel."""
        block = self.width // self.n_blocks
        return SizedCosts(
            d_model,
            Sizes(
                matrices=(
                    ("in_proj", Matrix(d_model, self.width, copies=2)),
                    ("gates", Matrix(block, block, copies=2 * self.n_blocks)),
                    ("out", Matrix(self.width, d_model)),
                ),
                vectors=2 * self.width + d_model + 2 * self.width + self.width,
                conv_channels=self.width,
                d_conv=self.d_conv,
                conv_bias=True,
                state=self.width,
                scan_flops=2 * self.width,
            ),
        )
