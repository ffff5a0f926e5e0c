"""The feed-forward without a gate. Twin of live/modules/ffn.py."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from hybrid_core.factors import Factors, scaled
from hybrid_core.ffns.base import (
    Activation,
    Entry,
    FeedForward,
    FfnCosts,
    Sizes,
    in_and_out,
    n_bias_params,
    n_matrix_params,
    plain_workspace,
)
from hybrid_core.terms import Num, Terms
from hybrid_core.validation import Dim, quiet


class Mlp(FeedForward):
    """Feed-forward without a gate: down(activation(up(x)))."""

    entry: ClassVar[Entry] = Entry(
        label="MLP",
        module="hybrid_core.live.modules.ffn:PlainFFN",
        built=frozenset({"bias"}),
    )
    kind: Literal["mlp"] = "mlp"
    d_ff: Dim
    activation: Activation = "relu2"
    bias: bool = quiet(False)

    def costs(self, d_model: int) -> "MlpCosts":
        return MlpCosts(self, d_model)

    def shrunk(self, factors: Factors) -> Self:
        return self.changed(d_ff=scaled(self.d_ff, factors.width, 8))


@dataclass(frozen=True)
class MlpCosts(FfnCosts):
    """Two matrices: 2 d_model d_ff parameters."""

    spec: Mlp
    d_model: int

    def _sizes(self) -> Sizes:
        d_ff = self.spec.d_ff
        return Sizes(
            matrices=n_matrix_params(self.d_model, d_ff, gated=False),
            vectors=self.spec.bias * n_bias_params(self.d_model, d_ff, gated=False),
        )

    def forward_flops(self, tokens: Num) -> Terms:
        return in_and_out(
            "ffn",
            tokens,
            self.d_model,
            self.spec.d_ff,
            gated=False,
        )

    def workspace(self, tokens: Num, width: int) -> Num:
        return width * tokens * plain_workspace(self.d_model, self.spec.d_ff)
