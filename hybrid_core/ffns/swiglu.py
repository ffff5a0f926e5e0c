"""The gated feed-forward. Twin of live/modules/ffn.py."""

from typing import Literal

from hybrid_core.ffns.base import Activation
from hybrid_core.validation import Dim, Frozen, quiet


class SwiGLU(Frozen):
    """Gated feed-forward: down(activation(gate(x)) * up(x))."""

    kind: Literal["swiglu"] = "swiglu"
    d_ff: Dim
    activation: Activation = quiet("silu")
    bias: bool = quiet(False)
