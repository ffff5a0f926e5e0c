"""Feed-forwards without experts: gated (arXiv 2002.05202) and plain (arXiv 1706.03762).

The closed forms are in ffns/swiglu.py and ffns/mlp.py. Shape letters: B sequences, T tokens.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.ffns.base import Activation
from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.swiglu import SwiGLU


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Apply a feed-forward's activation, elementwise.

    "relu2" is the squared ReLU of Primer (arXiv 2109.08668).
    """
    if activation == "relu2":
        return F.relu(x).square()
    if activation == "silu":
        return F.silu(x)
    if activation == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    return F.gelu(x)


class GatedFFN(nn.Module):
    """x [B, T, d_model] -> [B, T, d_model]: down(activation(gate(x)) * up(x))."""

    def __init__(self, spec: SwiGLU, d_model: int) -> None:
        super().__init__()
        self.activation = spec.activation
        self.gate_up = nn.Linear(d_model, 2 * spec.d_ff, bias=spec.bias)
        self.down = nn.Linear(spec.d_ff, d_model, bias=spec.bias)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """`extra` [B, T, 2 * d_ff], an adapter's output, is added to gate and up."""
        widened = self.gate_up(x)
        if extra is not None:
            widened = widened + extra
        gate, up = widened.chunk(2, -1)
        del widened
        # The product is not bound to a name, so that only `down` keeps it alive.
        out: Tensor = self.down(
            activate(gate, self.activation) * up,
        )
        return out


class PlainFFN(nn.Module):
    """x [B, T, d_model] -> [B, T, d_model]: down(activation(up(x)))."""

    def __init__(self, spec: Mlp, d_model: int) -> None:
        super().__init__()
        self.activation = spec.activation
        self.up = nn.Linear(d_model, spec.d_ff, bias=spec.bias)
        self.down = nn.Linear(spec.d_ff, d_model, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(
            activate(self.up(x), self.activation),
        )
        return out
