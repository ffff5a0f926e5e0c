"""Mixture of experts: token choice, balanced by a bias instead of a loss (paper, Appendix L).

The closed forms are in ffns/moe.py.
"""

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
    """x [B, T, d_model] -> [B, T, d_model]: shared experts plus the top k routed ones.

    Every token goes through the shared experts. Its routed experts are weighted by their scores.
    The bias changes which experts are chosen, never their weight. No token is dropped. With a
    `d_latent`, the routed experts read `latent` of x, and `out` widens their sum again.
    """

    gate_up: Tensor  # of gated experts
    up: Tensor  # of plain ones

    def __init__(self, spec: MoE, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        self.router = nn.Linear(d_model, spec.n_routed, bias=False)
        width = spec.d_latent or d_model
        if spec.gated:
            widened = torch.empty(spec.n_routed, 2 * spec.d_expert, width)
            self.gate_up = nn.Parameter(widened)
        else:
            widened = torch.empty(spec.n_routed, spec.d_expert, width)
            self.up = nn.Parameter(widened)
        self.down = nn.Parameter(torch.empty(spec.n_routed, width, spec.d_expert))
        self.shared = self._shared(d_model) if spec.shared_width else None
        self.latent: nn.Linear | None = None
        self.out: nn.Linear | None = None
        if spec.d_latent:
            self.latent = nn.Linear(d_model, width, bias=False)
            self.out = nn.Linear(width, d_model, bias=False)
        # Always float32: half precision would lose steps of 1e-3 and counts of tokens.
        bias = torch.zeros(spec.n_routed, dtype=torch.float32)
        load = torch.zeros(spec.n_routed, dtype=torch.float32)
        self.register_buffer("bias", bias)
        self.register_buffer("load", load, persistent=False)
        self.bias: Tensor
        self.load: Tensor

    def _shared(self, d_model: int) -> nn.Module:
        """The shared experts as one feed-forward of their common width."""
        activation = self.spec.activation
        assert activation != "clamped_swiglu"
        if self.spec.gated:
            return GatedFFN(SwiGLU(d_ff=self.spec.shared_width, activation=activation), d_model)
        return PlainFFN(Mlp(d_ff=self.spec.shared_width, activation=activation), d_model)

    @torch.no_grad()
    def initialise(self) -> None:
        """Start without any preference among the experts."""
        self.bias.zero_()
        self.load.zero_()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        scores = self._scores(rows)
        biased = scores + self.bias
        chosen = torch.topk(biased, self.spec.top_k, sorted=False).indices  # [rows, k]
        # Each row is read by k experts. Sort these pairs by expert, so that every expert gets one
        # contiguous group of rows.
        flat = chosen.flatten()
        order = torch.argsort(flat, stable=True)
        counts = F.one_hot(flat, self.spec.n_routed).sum(0)
        if self.training:
            self.load += counts
        source = order // self.spec.top_k
        read = rows if self.latent is None else self.latent(rows)
        expert_out = self._experts(read, source, counts)
        weights = self._weights(scores.gather(1, chosen)).flatten()
        weight = weights[order].to(x.dtype)
        out = torch.zeros_like(read).index_add(
            0,
            source,
            expert_out * weight[:, None],
        )
        if self.out is not None:
            out = self.out(out)
        out = out.view_as(x)
        if self.shared is None:
            return out
        combined: Tensor = out + self.shared(x)
        return combined

    def _scores(self, rows: Tensor) -> Tensor:
        """The router's scores in float32 [rows, n_routed]."""
        logits: Tensor = self.router(rows).float()
        if self.spec.score == "sigmoid":
            return torch.sigmoid(logits)
        return torch.softmax(logits, -1)

    def _experts(
        self,
        rows: Tensor,
        source: Tensor,
        counts: Tensor,
    ) -> Tensor:
        """Run each of the rows `source` through its expert.

        `source` is sorted by expert; `counts` says how many rows each expert gets.
        """
        activation = self.spec.activation
        assert activation != "clamped_swiglu"
        if self.spec.gated:
            gate, up = grouped_linear(rows[source], self.gate_up, counts).chunk(2, -1)
            inside = activate(gate, activation) * up
        else:
            up = grouped_linear(rows[source], self.up, counts)
            inside = activate(up, activation)
        return grouped_linear(inside, self.down, counts)

    def _weights(self, scores: Tensor) -> Tensor:
        """The weights of the chosen experts from their scores, both [rows, k].

        With `norm_top_k` they sum to 1 for each row, before they are multiplied by `scale`.
        """
        if self.spec.norm_top_k:
            scores = scores / (scores.sum(-1, keepdim=True) + 1e-20)
        if self.spec.scale == 1:
            return scores
        return scores * self.spec.scale

    @torch.no_grad()
    def update_balance(self) -> None:
        """Update the bias after an optimiser step, and start to count the load anew.

        Experts that got fewer tokens than the mean gain BIAS_STEP, the others lose as much.
        """
        self.bias += BIAS_STEP * torch.sign(self.load.mean() - self.load)
        self.load.zero_()
