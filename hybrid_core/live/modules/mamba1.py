"""Mamba-1 (arXiv 2312.00752, Section 3.4 and Algorithm 2).

Every channel e and state n follow h_t = exp(dt_t A) h_(t-1) + dt_t B_t x_t and y_t = C_t h_t + D
x_t, where dt, B and C depend on the input.

Shape letters: B sequences, T tokens, E channels (d_ssm), N states per channel, R rank of dt. B and
C also name the scan's input and output matrices, as in the paper. The closed forms are in
mixers/mamba1.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.live.modules.cache import CacheDtypes, Position, SSMCache
from hybrid_core.live.modules.norm import BareRMSNorm, RMSNorm
from hybrid_core.live.modules.ssm import (
    convolved,
    initialise_conv,
    initialise_dt_bias,
    scan_dtype,
    undrawn,
)
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from kernels.selective_scan import selective_scan, selective_scan_step


class HeadWeights(NamedTuple):
    """The weights of the channels that share dt, B and C; E are the channels of one head."""

    x_proj: Tensor  # [R + 2 N, E]: dt, B and C from x
    dt_proj: Tensor  # [E, R]
    dt_bias: Tensor  # [E]
    A_log: Tensor  # [E, N]
    D: Tensor  # [E]


class Mamba1Heads(nn.Module):
    """Projection to x and z, convolution, dt, B and C from x, and the selective scan.

    The gate and the output projection belong to the module that uses these heads. With several
    heads (Zamba, arXiv 2405.16712), each head has its own dt, B and C.
    """

    def __init__(self, spec: Mamba1Mixer, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        self.widths = [spec.dt_rank, spec.d_state, spec.d_state]
        d_ssm = spec.d_ssm
        self.in_proj = nn.Linear(d_model, 2 * d_ssm, bias=spec.proj_bias)
        self.conv_weight = undrawn(d_ssm, spec.d_conv)
        self.conv_bias = undrawn(d_ssm)
        head_width = d_ssm // spec.n_heads
        self.x_proj = nn.Linear(
            head_width,
            spec.n_heads * sum(self.widths),
            bias=False,
        )
        self.dt_proj = nn.Linear(spec.dt_rank, d_ssm)
        self.A_log = undrawn(d_ssm, spec.d_state)
        self.D = undrawn(d_ssm)
        self.dt_norm = self._norm(spec.dt_rank)
        self.B_norm = self._norm(spec.d_state)
        self.C_norm = self._norm(spec.d_state)

    def _norm(self, width: int) -> nn.Module:
        if not self.spec.dt_bc_norm:
            return nn.Identity()
        if self.spec.dt_bc_weight:
            return RMSNorm(width)
        return BareRMSNorm(self.spec.dt_bc_eps or RMSNorm.eps)

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the weights as mamba_ssm/modules/mamba_simple.py does.

        A = -1, -2, ..., -N in every channel; dt log-uniform in [0.001, 0.1] at zero input; D = 1.
        """
        initialise_conv(self.conv_weight, self.conv_bias)
        bound = self.spec.dt_rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        initialise_dt_bias(self.dt_proj.bias)
        n_states = self.spec.d_state
        minus_a = torch.arange(1, n_states + 1, device=self.A_log.device)
        self.A_log.copy_(minus_a.log().expand_as(self.A_log))
        self.D.fill_(1.0)

    def scan(self, hidden: Tensor, cache: SSMCache | None) -> tuple[Tensor, Tensor]:
        """hidden [B, T, d_model] -> the scan's output y and the gate z, both [B, T, E]."""
        x, z = self.in_proj(hidden).chunk(2, -1)
        x = convolved(x, self.conv_weight, self.conv_bias, cache)
        state = None if cache is None else cache.state
        y = self._scan(x, state)
        return y, z

    def _scan(self, x: Tensor, state: Tensor | None) -> Tensor:
        """x after the convolution [B, T, E] -> y [B, T, E]; overwrites state [B, E, N]."""
        n = self.spec.n_heads
        weights = HeadWeights(
            self.x_proj.weight,
            self.dt_proj.weight,
            self.dt_proj.bias,
            self.A_log,
            self.D,
        )
        if n == 1:
            return self._scan_head(x, weights, state)
        per_head = zip(*[weight.chunk(n) for weight in weights], strict=True)
        states: Sequence[Tensor | None] = [None] * n
        if state is not None:
            states = state.chunk(n, 1)
        outputs = []
        for x_head, head, own_state in zip(x.chunk(n, -1), per_head, states, strict=True):
            outputs.append(self._scan_head(x_head, HeadWeights(*head), own_state))
        return torch.cat(outputs, -1)

    def _scan_head(
        self,
        x: Tensor,
        weights: HeadWeights,
        held: Tensor | None,
    ) -> Tensor:
        """The scan of the channels of one head; overwrites their state, `held`."""
        # The projection is not bound to a name: if dt, B and C have norms, it is freed before the
        # scan.
        dt, B, C = F.linear(x, weights.x_proj).split(self.widths, -1)
        dt = self._step_sizes(dt, weights)
        B = self.B_norm(B)
        C = self.C_norm(C)
        D = weights.D
        exact = scan_dtype(x.dtype)
        A = -torch.exp(weights.A_log.to(exact))
        if held is None:
            return selective_scan(x, dt, A, B, C, D)[0]
        if x.shape[1] == 1:
            return selective_scan_step(x, dt, A, B, C, D, held)
        y, state = selective_scan(
            x,
            dt,
            A,
            B,
            C,
            D,
            state=held.to(exact),
        )
        held.copy_(state)
        return y

    def _step_sizes(self, dt: Tensor, weights: HeadWeights) -> Tensor:
        """dt [B, T, R] before its projection -> dt [B, T, E], positive, in the scan's dtype."""
        exact = scan_dtype(dt.dtype)
        bias = weights.dt_bias.to(exact)
        # As above, the projection is not bound to a name, so that its sum with the bias replaces
        # it.
        return F.softplus(
            F.linear(self.dt_norm(dt), weights.dt_proj).to(exact) + bias,
        )

    def new_cache(
        self,
        batch: int,
        capacity: int,
        dtypes: CacheDtypes,
        device: torch.device,
    ) -> SSMCache:
        s = self.spec
        state = (s.d_ssm, s.d_state)
        conv = (s.d_conv - 1, s.d_ssm)
        return SSMCache.zeros(batch, state, conv, dtypes, device)


class Mamba1(Mamba1Heads):
    """x [B, T, d_model] -> [B, T, d_model]: heads, gate silu(z), output projection."""

    def __init__(
        self,
        spec: Mamba1Mixer,
        d_model: int,
        layer_index: int,
    ) -> None:
        super().__init__(spec, d_model)
        self.out = nn.Linear(spec.d_ssm, d_model, bias=spec.proj_bias)

    def forward(
        self,
        x: Tensor,
        cache: SSMCache | None = None,
        start: Position = 0,
    ) -> Tensor:
        y, z = self.scan(x, cache)
        gated = y * F.silu(z)
        out: Tensor = self.out(gated)
        return out
