"""The feed-forward without a gate. Twin of live/modules/ffn.py."""

from typing import Literal

from hybrid_core.ffns.base import Activation
from hybrid_core.validation import Dim, Frozen, quiet


class Mlp(Frozen):
    """Feed-forward without a gate: down(activation(up(x)))."""

    kind: Literal["mlp"] = "mlp"
    d_ff: Dim
    activation: Activation = "relu2"
    bias: bool = quiet(False)
