"""Mamba-1 (arXiv 2312.00752).

Shape letters: B sequences, T tokens, E channels (d_ssm), N states per channel, R rank of dt. The
closed forms are in mixers/mamba1.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.live.modules.cache import CacheDtypes, Position, SSMCache
from hybrid_core.live.modules.norm import BareRMSNorm, RMSNorm
from hybrid_core.live.modules.ssm import initialise_conv, initialise_dt_bias, scan_dtype
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from kernels.causal_conv1d import causal_conv1d
from kernels.selective_scan import selective_scan, selective_scan_step


class Mamba1Heads(nn.Module):
    """Projection to x and z, convolution, dt, B and C from x, and the selective scan.

    Gate and output projection are left to the module that uses it.
    """

    def __init__(self, spec: Mamba1Mixer, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        self.widths = [spec.dt_rank, spec.d_state, spec.d_state]
        self.in_proj = nn.Linear(d_model, 2 * spec.d_ssm, bias=spec.proj_bias)
        self.conv_weight = nn.Parameter(torch.empty(spec.d_ssm, spec.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(spec.d_ssm))
        head_width = spec.d_ssm // spec.n_heads
        self.x_proj = nn.Linear(
            head_width,
            spec.n_heads * sum(self.widths),
            bias=False,
        )
        self.dt_proj = nn.Linear(spec.dt_rank, spec.d_ssm)
        self.A_log = nn.Parameter(torch.empty(spec.d_ssm, spec.d_state))
        self.D = nn.Parameter(torch.empty(spec.d_ssm))
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
        """As in the reference implementation.

        A = -1, -2, ..., -N in every channel; dt log-uniform in [0.001, 0.1] at zero input; D = 1.
        """
        initialise_conv(self.conv_weight, self.conv_bias)
        bound = self.spec.dt_rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        initialise_dt_bias(self.dt_proj.bias)
        states = torch.arange(1, self.spec.d_state + 1, device=self.A_log.device)
        self.A_log.copy_(states.log().expand_as(self.A_log))
        self.D.fill_(1.0)

    def scan(self, hidden: Tensor, cache: SSMCache | None) -> tuple[Tensor, Tensor]:
        """hidden [B, T, d_model] -> (y, z), both [B, T, E]."""
        x, z = self.in_proj(hidden).chunk(2, -1)
        past = None if cache is None else cache.conv
        x, conv_state = causal_conv1d(x, self.conv_weight, self.conv_bias, past)
        if cache is not None:
            cache.conv.copy_(conv_state)
        y = self._scan(x, cache)
        return y, z

    def _scan(self, x: Tensor, cache: SSMCache | None) -> Tensor:
        """x after the convolution [B, T, E] -> y [B, T, E].

        Head by head, since each head has its own dt, B and C.
        """
        n = self.spec.n_heads
        state = None if cache is None else cache.state
        weights = (
            self.x_proj.weight,
            self.dt_proj.weight,
            self.dt_proj.bias,
            self.A_log,
            self.D,
        )
        if n == 1:
            return self._scan_head(x, *weights, state)
        per_head = [weight.chunk(n) for weight in weights]
        states = [None] * n if state is None else state.chunk(n, 1)
        heads = zip(x.chunk(n, -1), *per_head, states, strict=True)
        return torch.cat([self._scan_head(*head) for head in heads], -1)

    def _scan_head(
        self,
        x: Tensor,
        x_proj: Tensor,
        dt_proj: Tensor,
        dt_bias: Tensor,
        A_log: Tensor,
        D: Tensor,
        held: Tensor | None,
    ) -> Tensor:
        """The scan of the channels that share dt, B and C. `held` is their state, overwritten."""
        dt, B, C = F.linear(x, x_proj).split(self.widths, -1)
        dt = self.dt_norm(dt)
        B = self.B_norm(B)
        C = self.C_norm(C)
        exact = scan_dtype(x.dtype)
        dt = F.softplus(F.linear(dt, dt_proj).to(exact) + dt_bias.to(exact))
        A = -torch.exp(A_log.to(exact))
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

    def new_cache(
        self,
        batch: int,
        capacity: int,
        dtypes: CacheDtypes,
        device: torch.device,
    ) -> SSMCache:
        s = self.spec
        state = torch.zeros(
            batch,
            s.d_ssm,
            s.d_state,
            dtype=dtypes.state,
            device=device,
        )
        conv = torch.zeros(
            batch,
            s.d_conv - 1,
            s.d_ssm,
            dtype=dtypes.conv,
            device=device,
        )
        return SSMCache(state, conv)


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
        out: Tensor = self.out(y * F.silu(z))
        return out
