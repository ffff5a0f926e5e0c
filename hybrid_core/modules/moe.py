"""Mixture of experts: token choice, balanced by a bias instead of a loss (paper, Appendix L). Costs: costs/ffn.py."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.modules.ffn import GatedFFN
from hybrid_core.spec import MoE, SwiGLU
from kernels.grouped_linear import grouped_linear

BIAS_STEP = 1e-3


class MixtureOfExperts(nn.Module):
    """x [B, T, d_model] -> [B, T, d_model]: shared experts for all tokens plus the top k routed ones, each weighted by its score.

    The bias moves which experts are chosen, never their weight. No token is dropped.
    """

    def __init__(self, spec: MoE, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        self.router = nn.Linear(d_model, spec.n_routed, bias=False)
        self.gate_up = nn.Parameter(torch.empty(spec.n_routed, 2 * spec.d_expert, d_model))
        self.down = nn.Parameter(torch.empty(spec.n_routed, d_model, spec.d_expert))
        self.shared = GatedFFN(SwiGLU(d_ff=spec.shared_width), d_model) if spec.shared_width else None
        # float32 whatever the weights are: steps of 1e-3 and counts of tokens are lost in half precision.
        self.register_buffer("bias", torch.zeros(spec.n_routed, dtype=torch.float32))
        self.register_buffer("load", torch.zeros(spec.n_routed, dtype=torch.float32), persistent=False)
        self.bias: Tensor
        self.load: Tensor

    @torch.no_grad()
    def initialise(self) -> None:
        """Balanced, as far as is known."""
        self.bias.zero_()
        self.load.zero_()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        logits = self.router(rows).float()
        scores = torch.sigmoid(logits) if self.spec.score == "sigmoid" else torch.softmax(logits, -1)
        chosen = torch.topk(scores + self.bias, self.spec.top_k, sorted=False).indices  # [rows, k]
        flat = chosen.flatten()
        order = torch.argsort(flat, stable=True)
        counts = F.one_hot(flat, self.spec.n_routed).sum(0)
        if self.training:
            self.load += counts
        source = order // self.spec.top_k
        gate, up = grouped_linear(rows[source], self.gate_up, counts).chunk(2, -1)
        expert_out = grouped_linear(F.silu(gate) * up, self.down, counts)
        weight = self._weights(scores.gather(1, chosen)).flatten()[order].to(x.dtype)
        out = torch.zeros_like(rows).index_add(0, source, expert_out * weight[:, None])
        out = out.view_as(x)
        return out if self.shared is None else out + self.shared(x)

    def _weights(self, scores: Tensor) -> Tensor:
        """Of the chosen experts [rows, k]: their scores, which may be made to sum to 1 and scaled."""
        if self.spec.norm_top_k:
            scores = scores / (scores.sum(-1, keepdim=True) + 1e-20)
        return scores if self.spec.scale == 1 else scores * self.spec.scale

    @torch.no_grad()
    def update_balance(self) -> None:
        """After an optimiser step: raise the bias of experts that got less than the mean, lower the others', forget the load."""
        self.bias += BIAS_STEP * torch.sign(self.load.mean() - self.load)
        self.load.zero_()
