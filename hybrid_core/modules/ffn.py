"""The gated feed-forward (SwiGLU). Costs: costs/ffn.py."""

import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.spec import SwiGLU


class GatedFFN(nn.Module):
    """x [B, T, d_model] -> [B, T, d_model]: down(silu(gate(x)) * up(x))."""

    def __init__(self, spec: SwiGLU, d_model: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * spec.d_ff, bias=False)
        self.down = nn.Linear(spec.d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out
