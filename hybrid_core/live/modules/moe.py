"""Mixture of experts: token choice, balanced by a bias instead of a loss (paper, Appendix L).
Costs: costs/ffn.py."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.live.modules.ffn import GatedFFN, PlainFFN, activate
from kernels.grouped_linear import grouped_linear

BIAS_STEP = 1e-3


class MixtureOfExperts(nn.Module):
    """x [B, T, d_model] -> [B, T, d_model]: shared experts for all tokens plus the top k routed
    ones, each weighted by its score.

    The bias moves which experts are chosen, never their weight. No token is dropped. With a
    `d_latent`, the routed experts read `latent` of x, and `out` brings their sum back."""

    gate_up: Tensor  # of gated experts
    up: Tensor  # of plain ones

    def __init__(self, spec: MoE, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        self.router = nn.Linear(d_model, spec.n_routed, bias=False)
        width = spec.d_latent or d_model
        widened = torch.empty(spec.n_routed, spec.d_expert * (2 if spec.gated else 1), width)
        self.register_parameter("gate_up" if spec.gated else "up", nn.Parameter(widened))
        self.down = nn.Parameter(torch.empty(spec.n_routed, width, spec.d_expert))
        self.shared = self._shared(d_model) if spec.shared_width else None
        self.latent = nn.Linear(d_model, width, bias=False) if spec.d_latent else None
        self.out = nn.Linear(width, d_model, bias=False) if spec.d_latent else None
        # float32 whatever the weights are: steps of 1e-3 and counts of tokens are lost in half
        # precision.
        self.register_buffer("bias", torch.zeros(spec.n_routed, dtype=torch.float32))
        self.register_buffer(
            "load", torch.zeros(spec.n_routed, dtype=torch.float32), persistent=False
        )
        self.bias: Tensor
        self.load: Tensor

    def _shared(self, d_model: int) -> nn.Module:
        """The shared experts, which are one feed-forward of their common width."""
        activation = self.spec.activation
        assert activation != "clamped_swiglu"
        if self.spec.gated:
            return GatedFFN(SwiGLU(d_ff=self.spec.shared_width, activation=activation), d_model)
        return PlainFFN(Mlp(d_ff=self.spec.shared_width, activation=activation), d_model)

    @torch.no_grad()
    def initialise(self) -> None:
        """Balanced, as far as is known."""
        self.bias.zero_()
        self.load.zero_()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        logits = self.router(rows).float()
        scores = (
            torch.sigmoid(logits) if self.spec.score == "sigmoid" else torch.softmax(logits, -1)
        )
        chosen = torch.topk(scores + self.bias, self.spec.top_k, sorted=False).indices  # [rows, k]
        flat = chosen.flatten()
        order = torch.argsort(flat, stable=True)
        counts = F.one_hot(flat, self.spec.n_routed).sum(0)
        if self.training:
            self.load += counts
        source = order // self.spec.top_k
        read = rows if self.latent is None else self.latent(rows)
        expert_out = self._experts(read, source, counts)
        weight = self._weights(scores.gather(1, chosen)).flatten()[order].to(x.dtype)
        out = torch.zeros_like(read).index_add(0, source, expert_out * weight[:, None])
        out = (out if self.out is None else self.out(out)).view_as(x)
        return out if self.shared is None else out + self.shared(x)

    def _experts(self, rows: Tensor, source: Tensor, counts: Tensor) -> Tensor:
        """Rows number `source`, sorted by expert, `counts` of them for each, through theirs."""
        activation = self.spec.activation
        assert activation != "clamped_swiglu"
        if self.spec.gated:
            gate, up = grouped_linear(rows[source], self.gate_up, counts).chunk(2, -1)
            inside = activate(gate, activation) * up
        else:
            inside = activate(grouped_linear(rows[source], self.up, counts), activation)
        return grouped_linear(inside, self.down, counts)

    def _weights(self, scores: Tensor) -> Tensor:
        """Of the chosen experts [rows, k]: their scores, which may be made to sum to 1 and
        scaled."""
        if self.spec.norm_top_k:
            scores = scores / (scores.sum(-1, keepdim=True) + 1e-20)
        return scores if self.spec.scale == 1 else scores * self.spec.scale

    @torch.no_grad()
    def update_balance(self) -> None:
        """After an optimiser step: raise the bias of experts that got less than the mean, lower the
        others', forget the load."""
        self.bias += BIAS_STEP * torch.sign(self.load.mean() - self.load)
        self.load.zero_()
