"""Mamba-1 (arXiv 2312.00752). E channels (d_ssm), state N per channel, R rank of dt. Costs: costs/mamba1.py."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.modules.cache import CacheDtypes, Position, SSMCache
from hybrid_core.modules.norm import RMSNorm
from hybrid_core.modules.ssm import initialise_conv, initialise_dt_bias, scan_dtype
from hybrid_core.spec import Mamba1Mixer
from kernels.causal_conv1d import causal_conv1d
from kernels.selective_scan import selective_scan, selective_scan_step


class Mamba1(nn.Module):
    """x [B, T, d_model] -> [B, T, d_model]: projection to x and z, convolution, dt, B and C from x, selective scan, gate silu(z), out."""

    def __init__(self, spec: Mamba1Mixer, d_model: int, layer_index: int) -> None:
        super().__init__()
        self.spec = spec
        self.widths = [spec.dt_rank, spec.d_state, spec.d_state]
        self.in_proj = nn.Linear(d_model, 2 * spec.d_ssm, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(spec.d_ssm, spec.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(spec.d_ssm))
        self.x_proj = nn.Linear(spec.d_ssm, sum(self.widths), bias=False)
        self.dt_proj = nn.Linear(spec.dt_rank, spec.d_ssm)
        self.A_log = nn.Parameter(torch.empty(spec.d_ssm, spec.d_state))
        self.D = nn.Parameter(torch.empty(spec.d_ssm))
        self.dt_norm, self.B_norm, self.C_norm = (RMSNorm(width) if spec.dt_bc_norm else nn.Identity() for width in self.widths)
        self.out = nn.Linear(spec.d_ssm, d_model, bias=False)

    @torch.no_grad()
    def initialise(self) -> None:
        """As the reference: A = -1, -2, ..., -N in every channel; dt log-uniform in [0.001, 0.1] at zero input; D = 1."""
        initialise_conv(self.conv_weight, self.conv_bias)
        bound = self.spec.dt_rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        initialise_dt_bias(self.dt_proj.bias)
        self.A_log.copy_(torch.arange(1, self.spec.d_state + 1, device=self.A_log.device).log().expand_as(self.A_log))
        self.D.fill_(1.0)

    def forward(self, x: Tensor, cache: SSMCache | None = None, start: Position = 0) -> Tensor:
        x, z = self.in_proj(x).chunk(2, -1)
        x, conv_state = causal_conv1d(x, self.conv_weight, self.conv_bias, None if cache is None else cache.conv)
        if cache is not None:
            cache.conv.copy_(conv_state)
        out: Tensor = self.out(self._scan(x, cache) * F.silu(z))
        return out

    def _scan(self, x: Tensor, cache: SSMCache | None) -> Tensor:
        """x after the convolution [B, T, E] -> y [B, T, E]."""
        dt, B, C = self.x_proj(x).split(self.widths, -1)
        dt, B, C = self.dt_norm(dt), self.B_norm(B), self.C_norm(C)
        exact = scan_dtype(x.dtype)
        dt = F.softplus(F.linear(dt, self.dt_proj.weight).to(exact) + self.dt_proj.bias.to(exact))
        A = -torch.exp(self.A_log.to(exact))
        if cache is None:
            return selective_scan(x, dt, A, B, C, self.D)[0]
        if x.shape[1] == 1:
            return selective_scan_step(x, dt, A, B, C, self.D, cache.state)
        y, state = selective_scan(x, dt, A, B, C, self.D, state=cache.state.to(exact))
        cache.state.copy_(state)
        return y

    def new_cache(self, batch: int, capacity: int, dtypes: CacheDtypes, device: torch.device) -> SSMCache:
        s = self.spec
        state = torch.zeros(batch, s.d_ssm, s.d_state, dtype=dtypes.state, device=device)
        return SSMCache(state, torch.zeros(batch, s.d_conv - 1, s.d_ssm, dtype=dtypes.conv, device=device))
