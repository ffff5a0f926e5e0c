"""Mamba-2 (arXiv 2405.21060, Sections 6 and 7).

Every head follows h_t = exp(dt_t A) h_(t-1) + dt_t B_t x_t and y_t = C_t h_t + D x_t. With one A
per head, a chunk of tokens can be computed with matrix products (SSD).

Shape letters: B sequences, T tokens, H heads of width P (d_ssm = H * P), N states per channel, G
groups of heads that share B and C. B and C also name the scan's input and output matrices, as in
the paper. The closed forms are in mixers/mamba2.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.live.modules.cache import CacheDtypes, Position, SSMCache
from hybrid_core.live.modules.norm import GatedRMSNorm, NormThenGate
from hybrid_core.live.modules.ssm import (
    convolved,
    initialise_conv,
    initialise_dt_bias,
    scan_dtype,
    undrawn,
)
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from kernels.mamba2_step import mamba2_step
from kernels.ssd import ssd

A_RANGE = (0.01, 2.0)  # the paper, Appendix E


class Mamba2Heads(nn.Module):
    """Input projection to z, x, B, C and dt, convolution, and scan.

    The gate, the norm and the output projection belong to the module that uses these heads. With
    `own_x=False`, x comes from outside: the intra-hybrid block's shared values.
    """

    def __init__(
        self,
        spec: Mamba2Mixer,
        d_model: int,
        own_x: bool = True,
    ) -> None:
        super().__init__()
        self.spec = spec
        d_projected = 2 * spec.n_groups * spec.d_state  # B and C
        if own_x:
            d_projected += spec.d_ssm
        self.widths = [spec.d_ssm, d_projected, spec.n_heads]  # z; x, B and C; dt
        self.in_proj = nn.Linear(
            d_model,
            sum(self.widths),
            bias=spec.in_bias,
        )
        self.conv_weight = undrawn(spec.d_xbc, spec.d_conv)
        self.conv_bias = undrawn(spec.d_xbc)
        self.A_log = undrawn(spec.n_heads)
        self.D = undrawn(spec.n_heads)
        self.dt_bias = undrawn(spec.n_heads)

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the weights as mamba_ssm/modules/mamba2.py does, except for the range of A.

        -A uniform in [0.01, 2]; dt log-uniform in [0.001, 0.1] at zero input; D = 1; the
        convolution with torch's default.
        """
        initialise_conv(self.conv_weight, self.conv_bias)
        minus_a = torch.empty_like(self.A_log, dtype=torch.float32)
        minus_a.uniform_(*A_RANGE)
        self.A_log.copy_(minus_a.log())
        initialise_dt_bias(self.dt_bias)
        self.D.fill_(1.0)

    def scan(
        self,
        hidden: Tensor,
        cache: SSMCache | None,
        shared_x: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """hidden [B, T, d_model] -> the scan's output y and the gate z, both [B, T, d_ssm].

        `shared_x` is x [B, T, d_ssm] if it comes from outside.
        """
        projected = self.in_proj(hidden)
        z, xbc, dt = projected.split(self.widths, -1)
        if cache is not None and hidden.shape[1] == 1:
            return self._step(projected, cache, shared_x), z
        if shared_x is not None:
            xbc = torch.cat([shared_x, xbc], -1)
        xbc = convolved(xbc, self.conv_weight, self.conv_bias, cache)
        y = self._scan(xbc, dt, cache)
        return y.flatten(2), z

    def _scan(
        self,
        xbc: Tensor,
        dt: Tensor,
        cache: SSMCache | None,
    ) -> Tensor:
        """xbc [B, T, d_ssm + 2 G N] after the convolution, dt before its bias -> y [B, T, H, P]."""
        x, B, C = self._by_head(xbc)
        exact = scan_dtype(dt.dtype)
        A = -torch.exp(self.A_log.to(exact))
        y, state = ssd(
            x,
            self._step_sizes(dt),
            A,
            B,
            C,
            self.D,
            chunk_size=self.spec.chunk_size,
            # Not bound to a name, so that the scan can free it after the first chunk.
            state=None if cache is None else cache.state.to(exact),
        )
        if cache is not None:
            cache.state.copy_(state)
        return y

    def _by_head(self, xbc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, H, P], B and C [B, T, G, N]."""
        s = self.spec
        d_bc = s.n_groups * s.d_state
        x, B, C = xbc.split([s.d_ssm, d_bc, d_bc], -1)
        by_group = (s.n_groups, s.d_state)
        return (
            x.unflatten(-1, (s.n_heads, s.head_dim)),
            B.unflatten(-1, by_group),
            C.unflatten(-1, by_group),
        )

    def _step_sizes(self, dt: Tensor) -> Tensor:
        """dt [B, T, H] from its projection: positive, in the scan's dtype."""
        exact = scan_dtype(dt.dtype)
        dt = F.softplus(dt.to(exact) + self.dt_bias.to(exact))
        if self.spec.dt_min is not None:
            dt = dt.clamp(min=self.spec.dt_min)
        return dt

    def _step(
        self,
        projected: Tensor,
        cache: SSMCache,
        shared_x: Tensor | None,
    ) -> Tensor:
        """Convolution and scan of one token, [B, 1, width of `in_proj`] -> y [B, 1, d_ssm]."""
        x_now = None if shared_x is None else shared_x[:, 0]
        y = mamba2_step(
            projected[:, 0],
            cache.conv,
            cache.state,
            self.conv_weight,
            self.conv_bias,
            self.dt_bias,
            self.A_log,
            self.D,
            n_groups=self.spec.n_groups,
            shared_x=x_now,
            gated=False,
            dt_min=self.spec.dt_min or 0.0,
        )
        return y[:, None]

    def gated(
        self,
        hidden: Tensor,
        cache: SSMCache | None,
        shared_x: Tensor | None = None,
    ) -> Tensor:
        """y * silu(z) [B, T, d_ssm] of `scan`, for blocks that norm elsewhere."""
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
        state = (s.n_heads, s.head_dim, s.d_state)
        conv = (s.d_conv - 1, s.d_xbc)
        return SSMCache.zeros(batch, state, conv, dtypes, device)


def gated_norm(spec: Mamba2Mixer) -> GatedRMSNorm | None:
    """The gated norm, per group, of a scan's output; None if the design has none."""
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
