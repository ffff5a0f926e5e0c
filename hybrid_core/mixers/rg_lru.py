"""RG-LRU. Costed, not built."""

from math import gcd
from typing import ClassVar, Self

from pydantic import model_validator

from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.base import Entry, Mixer
from hybrid_core.mixers.sized import Matrix, SizedCosts, Sizes
from hybrid_core.validation import Dim, divides


class RgLruMixer(Mixer):
    """RG-LRU (arXiv 2402.19427): a gated linear recurrence of `width` channels. Its gates are
    block-diagonal matrices of `n_blocks` blocks."""

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
        """Two projections in and one out, all with biases; two gates of `n_blocks` square blocks,
        with biases; a decay per channel. The recurrence is one multiply-add per channel."""
        in_biases = 2 * self.width
        gate_biases = 2 * self.width
        decay = self.width
        block = self.width // self.n_blocks
        return SizedCosts(
            d_model,
            Sizes(
                matrices=(
                    ("in_proj", Matrix(d_model, self.width, copies=2)),
                    ("gates", Matrix(block, block, copies=2 * self.n_blocks)),
                    ("out", Matrix(self.width, d_model)),
                ),
                vectors=in_biases + d_model + gate_biases + decay,
                conv_channels=self.width,
                d_conv=self.d_conv,
                conv_bias=True,
                state=self.width,
                scan_flops=2 * self.width,
            ),
        )
