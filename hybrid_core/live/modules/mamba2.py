"""Mamba-2 (arXiv 2405.21060).

Shape letters: B sequences, T tokens, H heads of width P, N states per channel, G groups of heads
that share B and C. The closed forms are in mixers/mamba2.py.
"""

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

A_RANGE = (0.01, 2.0)  # the paper, Appendix E


class Mamba2Heads(nn.Module):
    """Input projection to z, x, B, C and dt, convolution, and scan.

    Gate, norm and output projection are left to the module that uses it. With `own_x=False`, x
    comes from outside: the shared values of the intra-hybrid block.
    """

    def __init__(
        self,
        spec: Mamba2Mixer,
        d_model: int,
        own_x: bool = True,
    ) -> None:
        super().__init__()
        self.spec = spec
        d_bc = 2 * spec.n_groups * spec.d_state
        d_xbc = d_bc
        if own_x:
            d_xbc += spec.d_ssm
        self.widths = [spec.d_ssm, d_xbc, spec.n_heads]
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=spec.in_bias)
        self.conv_weight = nn.Parameter(torch.empty(spec.d_xbc, spec.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(spec.d_xbc))
        self.A_log = nn.Parameter(torch.empty(spec.n_heads))
        self.D = nn.Parameter(torch.empty(spec.n_heads))
        self.dt_bias = nn.Parameter(torch.empty(spec.n_heads))

    @torch.no_grad()
    def initialise(self) -> None:
        """As in the reference implementation, but for the range of A.

        A uniform in [0.01, 2]; dt log-uniform in [0.001, 0.1] at zero input; D = 1; the convolution
        as torch's default.
        """
        initialise_conv(self.conv_weight, self.conv_bias)
        drawn = torch.empty_like(self.A_log, dtype=torch.float32).uniform_(*A_RANGE)
        self.A_log.copy_(drawn.log())
        initialise_dt_bias(self.dt_bias)
        self.D.fill_(1.0)

    def scan(
        self,
        hidden: Tensor,
        cache: SSMCache | None,
        shared_x: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """hidden [B, T, d_model] -> (y, z), both [B, T, d_ssm].

        `shared_x` is x [B, T, d_ssm] where it comes from outside.
        """
        projected = self.in_proj(hidden)
        z, xbc, dt = projected.split(self.widths, -1)
        if cache is not None and hidden.shape[1] == 1:
            x_now = None if shared_x is None else shared_x[:, 0]
            y = self._step(projected[:, 0], cache, x_now)
            return y[:, None], z
        if shared_x is not None:
            xbc = torch.cat([shared_x, xbc], -1)
        past = None if cache is None else cache.conv
        xbc, conv_state = causal_conv1d(xbc, self.conv_weight, self.conv_bias, past)
        if cache is not None:
            cache.conv.copy_(conv_state)
        y = self._scan(xbc, dt, cache)
        return y.flatten(2), z

    def _scan(
        self,
        xbc: Tensor,
        dt: Tensor,
        cache: SSMCache | None,
    ) -> Tensor:
        """x, B and C after the convolution, and dt before its bias -> y [B, T, H, P]."""
        s = self.spec
        d_bc = s.n_groups * s.d_state
        x, B, C = xbc.split([s.d_ssm, d_bc, d_bc], -1)
        x = x.unflatten(-1, (s.n_heads, s.head_dim))
        B = B.unflatten(-1, (s.n_groups, s.d_state))
        C = C.unflatten(-1, (s.n_groups, s.d_state))
        exact = scan_dtype(dt.dtype)
        dt = F.softplus(dt.to(exact) + self.dt_bias.to(exact))
        if s.dt_min is not None:
            dt = dt.clamp(min=s.dt_min)
        A = -torch.exp(self.A_log.to(exact))
        y, state = ssd(
            x,
            dt,
            A,
            B,
            C,
            self.D,
            chunk_size=s.chunk_size,
            # Not named here: the scan lets go of it after the first chunk.
            state=None if cache is None else cache.state.to(exact),
        )
        if cache is not None:
            cache.state.copy_(state)
        return y

    def _step(
        self,
        projected: Tensor,
        cache: SSMCache,
        shared_x: Tensor | None,
    ) -> Tensor:
        """One token, from after the input projection to y [B, d_ssm]."""
        return mamba2_step(
            projected,
            cache.conv,
            cache.state,
            self.conv_weight,
            self.conv_bias,
            self.dt_bias,
            self.A_log,
            self.D,
            n_groups=self.spec.n_groups,
            shared_x=shared_x,
            gated=False,
            dt_min=self.spec.dt_min or 0.0,
        )

    def gated(
        self,
        hidden: Tensor,
        cache: SSMCache | None,
        shared_x: Tensor | None = None,
    ) -> Tensor:
        """y * silu(z) of `scan`, for blocks that have their norm elsewhere."""
        y, z = self.scan(hidden, cache, shared_x)
        return y * F.silu(z)

    def new_cache(
        self,
        batch: int,
        capacity: int,
        dtypes: CacheDtypes,
        device: torch.device,
    ) -> SSMCache:
        s = self.spec
        heads = (s.n_heads, s.head_dim, s.d_state)
        state = torch.zeros(
            batch,
            *heads,
            dtype=dtypes.state,
            device=device,
        )
        conv = torch.zeros(
            batch,
            s.d_conv - 1,
            s.d_xbc,
            dtype=dtypes.conv,
            device=device,
        )
        return SSMCache(state, conv)


def gated_norm(spec: Mamba2Mixer) -> GatedRMSNorm | None:
    """The norm of a scan's output and its gate, per group; None where there is only the gate."""
    if not spec.gated_norm:
        return None
    group = spec.d_ssm // spec.n_groups
    if spec.norm_first:
        return NormThenGate(spec.d_ssm, group)
    return GatedRMSNorm(spec.d_ssm, group)


class Mamba2(Mamba2Heads):
    """x [B, T, d_model] -> [B, T, d_model]: heads, gated RMSNorm per group, output projection."""

    def __init__(
        self,
        spec: Mamba2Mixer,
        d_model: int,
        layer_index: int,
    ) -> None:
        super().__init__(spec, d_model)
        self.norm = gated_norm(spec)
        self.out = nn.Linear(spec.d_ssm, d_model, bias=spec.out_bias)

    def forward(
        self,
        x: Tensor,
        cache: SSMCache | None = None,
        start: Position = 0,
    ) -> Tensor:
        if self.norm is None:
            heads = self.gated(x, cache)
        else:
            y, z = self.scan(x, cache)
            heads = self.norm(y, z)
            del y, z
        out: Tensor = self.out(heads)
        return out
