"""The gated feed-forward. Twin of live/modules/ffn.py."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from hybrid_core.factors import Factors, scaled
from hybrid_core.ffns.base import (
    Activation,
    Entry,
    FeedForward,
    FfnCosts,
    Sizes,
    gated_workspace,
    in_and_out,
    n_bias_params,
    n_matrix_params,
)
from hybrid_core.terms import Num, Terms
from hybrid_core.validation import Dim, quiet


class SwiGLU(FeedForward):
    """Gated feed-forward: down(activation(gate(x)) * up(x))."""

    entry: ClassVar[Entry] = Entry(
        label="SwiGLU",
        module="hybrid_core.live.modules.ffn:GatedFFN",
        built=frozenset({"activation", "bias"}),
    )
    kind: Literal["swiglu"] = "swiglu"
    d_ff: Dim
    activation: Activation = quiet("silu")
    bias: bool = quiet(False)

    def costs(self, d_model: int) -> "SwiGLUCosts":
        return SwiGLUCosts(self, d_model)

    def shrunk(self, factors: Factors) -> Self:
        return self.changed(d_ff=scaled(self.d_ff, factors.width, 8))


@dataclass(frozen=True)
class SwiGLUCosts(FfnCosts):
    """Three matrices: 3 d_model d_ff parameters."""

    spec: SwiGLU
    d_model: int

    def _sizes(self) -> Sizes:
        d_ff = self.spec.d_ff
        return Sizes(
            matrices=n_matrix_params(self.d_model, d_ff, gated=True),
            vectors=self.spec.bias * n_bias_params(self.d_model, d_ff, gated=True),
        )

    def forward_flops(self, tokens: Num) -> Terms:
        return in_and_out(
            "ffn",
            tokens,
            self.d_model,
            self.spec.d_ff,
            gated=True,
        )

    def workspace(self, tokens: Num, width: int) -> Num:
        return width * tokens * gated_workspace(self.d_model, self.spec.d_ff)
