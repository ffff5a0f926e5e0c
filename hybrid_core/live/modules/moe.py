"""Mixture of experts: each token chooses its experts, balanced by a bias instead of a loss.

This is the feed-forward of arXiv 2510.04800, Appendix L: fine-grained and shared experts as in
DeepSeekMoE (arXiv 2401.06066), with the balancing bias of arXiv 2408.15664.

Shape letters: B sequences, T tokens, k routed experts per token. A row is one token of one
sequence; a pair is a row with one of its k experts. The closed forms are in ffns/moe.py.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.live.modules.ffn import GatedFFN, PlainFFN, activate
from kernels.grouped_linear import grouped_linear

BIAS_STEP = 1e-3


class Routing(NamedTuple):
    """The pairs of rows and experts, sorted by expert."""

    source: Tensor  # [pairs]: the row that the expert reads
    weight: Tensor  # [pairs]: the weight of the expert's output
    counts: Tensor  # [n_routed]: pairs of each expert


class MixtureOfExperts(nn.Module):
    """x [B, T, d_model] -> [B, T, d_model]: shared experts plus the top k routed ones.

    Every token goes through the shared experts. Its routed experts are weighted by their scores.
    The bias changes which experts are chosen, never their weight. No token is dropped. With a
    `d_latent`, the routed experts read `latent` of x, and `out` widens their sum again.
    """

    gate_up: Tensor  # for gated experts
    up: Tensor  # for plain experts

    def __init__(self, spec: MoE, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        self.router = nn.Linear(d_model, spec.n_routed, bias=False)
        width = spec.d_latent or d_model
        self._add_experts(width)
        self.shared: nn.Module | None = None
        if spec.shared_width:
            self.shared = self._shared(d_model)
        self.latent: nn.Linear | None = None
        self.out: nn.Linear | None = None
        if spec.d_latent:
            self.latent = nn.Linear(d_model, width, bias=False)
            self.out = nn.Linear(width, d_model, bias=False)
        self._add_balance()

    def _add_experts(self, width: int) -> None:
        """The weights of all routed experts, which read and write rows of `width` channels."""
        n = self.spec.n_routed
        d_expert = self.spec.d_expert
        if self.spec.gated:
            self.gate_up = nn.Parameter(torch.empty(n, 2 * d_expert, width))
        else:
            self.up = nn.Parameter(torch.empty(n, d_expert, width))
        self.down = nn.Parameter(torch.empty(n, width, d_expert))

    def _shared(self, d_model: int) -> nn.Module:
        """The shared experts as one feed-forward of their common width."""
        d_ff = self.spec.shared_width
        activation = self.spec.activation
        assert activation != "clamped_swiglu"
        if self.spec.gated:
            return GatedFFN(SwiGLU(d_ff=d_ff, activation=activation), d_model)
        return PlainFFN(Mlp(d_ff=d_ff, activation=activation), d_model)

    def _add_balance(self) -> None:
        """The bias on the scores, and the tokens per expert since the bias was last updated."""
        # Always float32: half precision would round away steps of 1e-3 and token counts.
        bias = torch.zeros(self.spec.n_routed, dtype=torch.float32)
        load = torch.zeros(self.spec.n_routed, dtype=torch.float32)
        self.register_buffer("bias", bias)
        self.register_buffer("load", load, persistent=False)
        self.bias: Tensor
        self.load: Tensor

    @torch.no_grad()
    def initialise(self) -> None:
        """Start with no preference among the experts."""
        self.bias.zero_()
        self.load.zero_()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        routing = self._route(rows)
        if self.training:
            self.load += routing.counts
        read = rows if self.latent is None else self.latent(rows)
        # The experts' outputs stay alive until the end, so the closed form counts them together
        # with the shared experts.
        expert_out = self._experts(read, routing)
        out = torch.zeros_like(read).index_add(
            0,
            routing.source,
            expert_out * routing.weight[:, None],
        )
        if self.out is not None:
            out = self.out(out)
        out = out.view_as(x)
        if self.shared is None:
            return out
        combined: Tensor = out + self.shared(x)
        return combined

    def _route(self, rows: Tensor) -> Routing:
        """Choose k experts for each row, and sort the pairs by expert.

        This gives every expert one contiguous group of rows.
        """
        k = self.spec.top_k
        scores = self._scores(rows)
        biased = scores + self.bias
        chosen = torch.topk(biased, k, sorted=False).indices  # [rows, k]
        weights = self._weights(scores.gather(1, chosen)).flatten()
        expert_of_pair = chosen.flatten()
        order = torch.argsort(expert_of_pair, stable=True)
        return Routing(
            source=order // k,
            weight=weights[order].to(rows.dtype),
            counts=F.one_hot(expert_of_pair, self.spec.n_routed).sum(0),
        )

    def _scores(self, rows: Tensor) -> Tensor:
        """The router's scores in float32 [rows, n_routed]."""
        logits: Tensor = self.router(rows).float()
        if self.spec.score == "sigmoid":
            return torch.sigmoid(logits)
        return torch.softmax(logits, -1)

    def _experts(self, rows: Tensor, routing: Routing) -> Tensor:
        """The expert's output for each pair, [pairs, width of the rows]."""
        source = routing.source
        counts = routing.counts
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

        With `norm_top_k`, the weights of a row sum to 1 before they are multiplied by `scale`.
        """
        if self.spec.norm_top_k:
            total = scores.sum(-1, keepdim=True)
            scores = scores / (total + 1e-20)
        if self.spec.scale == 1:
            return scores
        return scores * self.spec.scale

    @torch.no_grad()
    def update_balance(self) -> None:
        """Update the bias after an optimiser step, and reset the load counts.

        The bias of experts with fewer tokens than the mean rises by BIAS_STEP, and that of the
        others falls by as much (arXiv 2408.15664, Algorithm 1).
        """
        missing_load = self.load.mean() - self.load
        self.bias += BIAS_STEP * torch.sign(missing_load)
        self.load.zero_()
