"""Kimi Delta Attention. Costed, not built."""

from typing import ClassVar, Self

from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.base import Entry, Mixer
from hybrid_core.mixers.sized import Matrix, SizedCosts, Sizes
from hybrid_core.validation import Dim


class KimiDeltaMixer(Mixer):
    """Kimi Delta Attention: the delta rule with a decay per channel. The forget gate and the output
    gate go through a bottleneck of `head_dim`."""

    entry: ClassVar[Entry] = Entry(
        name="kda",
        meaning="The delta rule with a decay per channel (Kimi Linear).",
        label="Kimi Delta Attention",
        letter="K",
        colour="#66C2A5",
        matrices=("in_proj", "gates", "step", "out"),
    )
    n_heads: Dim
    head_dim: Dim
    d_conv: Dim = 4

    def shrunk(self, factors: Factors) -> Self:
        """Like Gated DeltaNet, but keys and values have the same width."""
        head_dim = scaled(self.head_dim, factors.state, 4, 8)
        width = self.n_heads * self.head_dim
        return self.changed(
            head_dim=head_dim,
            n_heads=scaled(width, factors.width / head_dim),
        )

    def costs(self, d_model: int) -> SizedCosts:
        """`in_proj` computes q, k and v. `gates` are the bottlenecks of the two gates. `step` gives
        one number per head. Vectors: dt's bias per channel, a decay per head, and a norm as wide as
        a head. The scan costs the same as Gated DeltaNet's."""
        width = self.n_heads * self.head_dim
        state = width * self.head_dim
        return SizedCosts(
            d_model,
            Sizes(
                matrices=(
                    ("in_proj", Matrix(d_model, 3 * width)),
                    ("gates", Matrix(d_model, self.head_dim, copies=2)),
                    ("gates", Matrix(self.head_dim, width, copies=2)),
                    ("step", Matrix(d_model, self.n_heads)),
                    ("out", Matrix(width, d_model)),
                ),
                vectors=width + self.n_heads + self.head_dim,
                conv_channels=3 * width,
                d_conv=self.d_conv,
                state=state,
                scan_flops=7 * state,
            ),
        )
