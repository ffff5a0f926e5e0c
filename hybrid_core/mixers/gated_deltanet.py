"""Gated DeltaNet. Costed, not built."""

from typing import ClassVar, Self

from pydantic import model_validator

from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.base import Entry, Mixer
from hybrid_core.mixers.sized import Matrix, SizedCosts, Sizes
from hybrid_core.validation import Dim, divides


class GatedDeltaNetMixer(Mixer):
    """Gated DeltaNet (arXiv 2412.06464) as in Qwen3-Next. Each value head has a state of key by
    value channels, updated by the delta rule."""

    entry: ClassVar[Entry] = Entry(
        name="gated_deltanet",
        meaning="Linear attention that corrects what its state recalls, with a decay per head.",
        label="Gated DeltaNet",
        letter="G",
        colour="#44AA99",
        matrices=("in_proj", "decay, step", "out"),
        symbols={"megatron": "G"},
    )
    n_k_heads: Dim
    n_v_heads: Dim
    k_head_dim: Dim
    v_head_dim: Dim
    d_conv: Dim = 4

    @model_validator(mode="after")
    def _rules(self) -> Self:
        divides("n_v_heads", self.n_v_heads, "n_k_heads", self.n_k_heads)
        return self

    def shrunk(self, factors: Factors) -> Self:
        """Key channels shrink like a state. The number of heads follows from the total width of the
        keys. Values keep their width relative to the model."""
        k_head_dim = scaled(self.k_head_dim, factors.state, 4, 8)
        n_k_heads = scaled(self.n_k_heads * self.k_head_dim, factors.width / k_head_dim)
        n_v_heads = n_k_heads * max(1, round(self.n_v_heads / self.n_k_heads))
        d_v = self.n_v_heads * self.v_head_dim
        return self.changed(
            n_k_heads=n_k_heads,
            n_v_heads=n_v_heads,
            k_head_dim=k_head_dim,
            v_head_dim=scaled(d_v, factors.width / n_v_heads, 4, 8),
        )

    def costs(self, d_model: int) -> SizedCosts:
        """`in_proj` computes q, k, v and the gate z. Each head has a decay and a step, each with a
        matrix and a bias. There is one norm as wide as a value head.

        The scan takes 7 FLOPs per token and state element: decay (1), recall by the key (2),
        writing the correction (2), reading by the query (2)."""
        d_k = self.n_k_heads * self.k_head_dim
        d_v = self.n_v_heads * self.v_head_dim
        state = self.n_v_heads * self.k_head_dim * self.v_head_dim
        return SizedCosts(
            d_model,
            Sizes(
                matrices=(
                    ("in_proj", Matrix(d_model, 2 * d_k + 2 * d_v)),
                    ("decay, step", Matrix(d_model, 2 * self.n_v_heads)),
                    ("out", Matrix(d_v, d_model)),
                ),
                vectors=2 * self.n_v_heads + self.v_head_dim,
                conv_channels=2 * d_k + d_v,
                d_conv=self.d_conv,
                state=state,
                scan_flops=7 * state,
            ),
        )
