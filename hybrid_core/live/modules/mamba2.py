"""Mamba-2 (arXiv 2405.21060). H heads of width P, state N, G groups that share B and C. Costs:
costs/mamba2.py."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.live.modules.cache import CacheDtypes, Position, SSMCache
from hybrid_core.live.modules.norm import GatedRMSNorm, NormThenGate
from hybrid_core.live.modules.ssm import initialise_conv, initialise_dt_bias, scan_dtype
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from kernels.causal_conv1d import causal_conv1d
from kernels.mamba2_step import mamba2_step
from kernels.ssd import ssd

A_RANGE = (0.01, 2.0)  # the paper's (Appendix E)


class Mamba2Heads(nn.Module):
    """Input projection to z, x, B, C, dt, convolution and scan, without gate, norm and output
    projection.

    With `own_x=False` x comes from outside: the intra-hybrid block's shared values.
    """

    def __init__(self, spec: Mamba2Mixer, d_model: int, own_x: bool = True) -> None:
        super().__init__()
        self.spec = spec
        d_bc = 2 * spec.n_groups * spec.d_state
        self.widths = [spec.d_ssm, (spec.d_ssm if own_x else 0) + d_bc, spec.n_heads]
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=spec.in_bias)
        self.conv_weight = nn.Parameter(torch.empty(spec.d_xbc, spec.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(spec.d_xbc))
        self.A_log = nn.Parameter(torch.empty(spec.n_heads))
        self.D = nn.Parameter(torch.empty(spec.n_heads))
        self.dt_bias = nn.Parameter(torch.empty(spec.n_heads))

    @torch.no_grad()
    def initialise(self) -> None:
        """A uniform in [0.01, 2]; dt log-uniform in [0.001, 0.1] through the inverse of softplus; D
        = 1; conv as torch's default."""
        initialise_conv(self.conv_weight, self.conv_bias)
        self.A_log.copy_(torch.empty_like(self.A_log, dtype=torch.float32).uniform_(*A_RANGE).log())
        initialise_dt_bias(self.dt_bias)
        self.D.fill_(1.0)

    def scan(
        self, hidden: Tensor, cache: SSMCache | None, shared_x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """hidden [B, T, d_model], and x [B, T, d_ssm] when it is shared -> (y, z), both [B, T,
        d_ssm]."""
        s, projected = self.spec, self.in_proj(hidden)
        z, xbc, dt = projected.split(self.widths, -1)
        if cache is not None and hidden.shape[1] == 1:
            return self._step(projected[:, 0], cache, None if shared_x is None else shared_x[:, 0])[
                :, None
            ], z
        if shared_x is not None:
            xbc = torch.cat([shared_x, xbc], -1)
        xbc, conv_state = causal_conv1d(
            xbc, self.conv_weight, self.conv_bias, None if cache is None else cache.conv
        )
        x, B, C = xbc.split([s.d_ssm, s.n_groups * s.d_state, s.n_groups * s.d_state], -1)
        x = x.unflatten(-1, (s.n_heads, s.head_dim))
        B, C = (v.unflatten(-1, (s.n_groups, s.d_state)) for v in (B, C))
        exact = scan_dtype(dt.dtype)
        dt = F.softplus(dt.to(exact) + self.dt_bias.to(exact))
        if s.dt_min is not None:
            dt = dt.clamp(min=s.dt_min)
        A = -torch.exp(self.A_log.to(exact))
        if cache is None:
            return ssd(x, dt, A, B, C, self.D, chunk_size=s.chunk_size)[0].flatten(2), z
        cache.conv.copy_(conv_state)
        y, state = ssd(x, dt, A, B, C, self.D, chunk_size=s.chunk_size, state=cache.state.to(exact))
        cache.state.copy_(state)
        return y.flatten(2), z

    def _step(self, projected: Tensor, cache: SSMCache, shared_x: Tensor | None) -> Tensor:
        """One token from the input projection on: y [B, d_ssm]."""
        return mamba2_step(
            projected, cache.conv, cache.state, self.conv_weight, self.conv_bias, self.dt_bias, self.A_log, self.D,
            n_groups=self.spec.n_groups, shared_x=shared_x, gated=False, dt_min=self.spec.dt_min or 0.0,
        )  # fmt: skip

    def gated(
        self, hidden: Tensor, cache: SSMCache | None, shared_x: Tensor | None = None
    ) -> Tensor:
        """y * silu(z) of `scan`, for blocks whose norm stands elsewhere."""
        y, z = self.scan(hidden, cache, shared_x)
        return y * F.silu(z)

    def new_cache(
        self, batch: int, capacity: int, dtypes: CacheDtypes, device: torch.device
    ) -> SSMCache:
        s = self.spec
        state = torch.zeros(
            batch, s.n_heads, s.head_dim, s.d_state, dtype=dtypes.state, device=device
        )
        return SSMCache(
            state, torch.zeros(batch, s.d_conv - 1, s.d_xbc, dtype=dtypes.conv, device=device)
        )


def gated_norm(spec: Mamba2Mixer) -> GatedRMSNorm | None:
    """The norm of a scan's output with its gate, per group, before or after it; None where there is
    the gate alone."""
    if not spec.gated_norm:
        return None
    return (NormThenGate if spec.norm_first else GatedRMSNorm)(
        spec.d_ssm, spec.d_ssm // spec.n_groups
    )


class Mamba2(Mamba2Heads):
    """x [B, T, d_model] -> [B, T, d_model]: heads, gated RMSNorm per group, output projection."""

    def __init__(self, spec: Mamba2Mixer, d_model: int, layer_index: int) -> None:
        super().__init__(spec, d_model)
        self.norm = gated_norm(spec)
        self.out = nn.Linear(spec.d_ssm, d_model, bias=spec.out_bias)

    def forward(self, x: Tensor, cache: SSMCache | None = None, start: Position = 0) -> Tensor:
        out: Tensor = self.out(
            self.norm(*self.scan(x, cache)) if self.norm is not None else self.gated(x, cache)
        )
        return out
