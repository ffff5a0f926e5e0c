"""The step in two launches: the convolution, then the scan and everything else.

The heads of a group share the convolution of B and C, so no head may write its state while another
may still read it. In the first launch every channel has a single owner.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.causal_conv1d import triton_kernel as conv
from kernels.ssd.triton_kernel import advance
from kernels.tiles import batch_and_head, block, both, load, rows, silu, softplus, store


@triton.jit
def _scan_step(
    xbc, z, dt, dt_bias, A_log, D, state, y, dt_min,
    H, per_group, C,
    z_b,
    s_b, s_h, s_p,
    P: tl.constexpr,
    N: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """A block of P channels of one head: dt, state, D and gate.

    xbc [b, C] after the convolution; z and dt in rows that are z_b apart.
    """
    bh = tl.program_id(0)
    batch, head = batch_and_head(bh, H)
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    # A row of xbc holds x of H heads, then B and then C of H / per_group groups.
    row = xbc + batch * C
    group = head // per_group
    n_groups = H // per_group
    x_p = tl.load(row + head * P + p, mask=p < P, other=0.0)
    B_n = tl.load(row + H * P + group * N + n, mask=n < N, other=0.0)
    C_n = tl.load(
        row + H * P + (n_groups + group) * N + n,
        mask=n < N,
        other=0.0,
    )
    raw_step = tl.load(dt + batch * z_b + head).to(tl.float32)
    bias = tl.load(dt_bias + head).to(tl.float32)
    step = tl.maximum(softplus(raw_step + bias), dt_min)
    rate = -tl.exp(tl.load(A_log + head).to(tl.float32))
    at = batch * s_b + head * s_h + p[:, None] * s_p + n[None, :]
    there = both(p < P, n < N)
    out = advance(state, at, there, x_p, step, rate, B_n, C_n)
    out += tl.load(D + head).to(tl.float32) * x_p
    if GATED:
        out *= silu(load(z + batch * z_b + head * P + p, p < P))
    store(y + bh.to(tl.int64) * P + p, out, p < P)


def mamba2_step_limit(
    zxbcdt: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    conv_weight: Tensor,
    *_: object,
) -> str | None:
    """Why the kernels do not support these arguments, or None if they do."""
    for state in (conv_state, ssm_state):
        if state.stride(-1) != 1 and state.shape[-1] != 1:
            return "a state whose last axis is not contiguous"
    return conv.causal_conv1d_limit(zxbcdt, conv_weight)


def mamba2_step(
    zxbcdt: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    n_groups: int,
    shared_x: Tensor | None,
    gated: bool,
    dt_min: float,
) -> Tensor:
    """See `kernels.mamba2_step`."""
    b, h, p, n = ssm_state.shape
    channels, w = conv_weight.shape
    row = rows(zxbcdt)
    if shared_x is None:
        x = row[:, h * p :]
        bc = row[:, 2 * h * p :]
    else:
        x = rows(shared_x)
        bc = row[:, h * p :]
    xbc = row.new_empty(b, channels, dtype=torch.float32)
    conv.step[b, triton.cdiv(channels, conv.CHANNELS)](
        x, bc, conv_weight.contiguous(), conv_bias, conv_state, xbc,
        h * p, channels,
        x.stride(0), bc.stride(0),
        *conv_state.stride()[:2],
        W=w,
        BLOCK_C=conv.CHANNELS,
        num_warps=4,
    )  # fmt: skip
    y = row.new_empty(b, h * p)
    block_p = block(p, least=4, most=32)
    _scan_step[b * h, triton.cdiv(p, block_p)](
        xbc, row, row[:, -h:], dt_bias, A_log, D, ssm_state, y, dt_min,
        h, h // n_groups, channels,
        row.stride(0),
        *ssm_state.stride()[:3],
        P=p,
        N=n,
        BLOCK_P=block_p,
        BLOCK_N=block(n),
        GATED=gated,
        num_warps=4,
    )  # fmt: skip
    return y
