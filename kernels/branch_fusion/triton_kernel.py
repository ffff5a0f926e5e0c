"""Both norms and their sum in one pass, if the heads of both branches are equally wide.

Otherwise the norms run one after the other. Tiles, saved tensors and the sums of the backward pass
are those of `gated_rms_norm`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.branch_fusion.eager import fused
from kernels.gated_rms_norm.triton_kernel import (
    PROGRAMS,
    GroupRms,
    blocks,
    flat,
    gated_rms_norm_limit,
    put,
    tile,
    unit,
    unit_gradient,
)
from kernels.tiles import both, load, silu, silu_slope


@triton.jit
def _forward(
    attention, y, z, a_weight, s_weight, out, eps, sign,
    T, a_s, y_s, z_s, C,
    W: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
):  # fmt: skip
    """out = rms(attention) a_weight + sign rms(y silu(z)) s_weight, of one group."""
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    w = tl.arange(0, BLOCK_W)
    c = tl.program_id(1) * W + w
    there = both(t < T, w < W)
    a, _ = unit(tile(attention, t, c, there, a_s), eps, W)
    y_c = tile(y, t, c, there, y_s)
    s, _ = unit(y_c * silu(tile(z, t, c, there, z_s)), eps, W)
    a *= load(a_weight + c, w < W)[None, :]
    s *= load(s_weight + c, w < W)[None, :]
    put(out, a + sign * s, t, c, there, C)


@triton.jit
def _backward(
    attention, y, z, a_weight, s_weight, d_out,
    d_attention, dy, dz, d_a_weight, d_s_weight, eps, sign,
    T, a_s, y_s, z_s, C,
    W: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Gradients of one group; those of the weights are [programs, C]."""
    w = tl.arange(0, BLOCK_W)
    c = tl.program_id(1) * W + w
    a_weight_c = load(a_weight + c, w < W)[None, :]
    s_weight_c = sign * load(s_weight + c, w < W)[None, :]
    d_a_weight_c = tl.zeros([BLOCK_W], tl.float32)
    d_s_weight_c = tl.zeros([BLOCK_W], tl.float32)
    stride = tl.num_programs(0) * BLOCK_T
    for first in range(tl.program_id(0) * BLOCK_T, T, stride):
        t = first + tl.arange(0, BLOCK_T)
        there = both(t < T, w < W)
        grad = tile(d_out, t, c, there, C)

        # The attention branch.
        normal, scale = unit(tile(attention, t, c, there, a_s), eps, W)
        d_a_weight_c += tl.sum(grad * normal, 0)
        d_a = unit_gradient(grad * a_weight_c, normal, scale, W)
        put(d_attention, d_a, t, c, there, C)

        # The SSM branch, with its gate.
        y_c = tile(y, t, c, there, y_s)
        z_c = tile(z, t, c, there, z_s)
        normal, scale = unit(y_c * silu(z_c), eps, W)
        d_s_weight_c += tl.sum(grad * normal, 0)
        gated = unit_gradient(grad * s_weight_c, normal, scale, W)
        put(dy, gated * silu(z_c), t, c, there, C)
        put(dz, gated * y_c * silu_slope(z_c), t, c, there, C)
    row = tl.program_id(0) * C + c
    tl.store(d_a_weight + row, d_a_weight_c, mask=w < W)
    tl.store(d_s_weight + row, d_s_weight_c * sign, mask=w < W)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        attention: Tensor,
        y: Tensor,
        z: Tensor,
        a_weight: Tensor,
        s_weight: Tensor,
        eps: float,
        group: int,
        sign: float,
    ) -> Any:
        t, c = y.shape
        sizes = blocks(t, group)
        out = y.new_empty(t, c)
        _forward[triton.cdiv(t, sizes["BLOCK_T"]), c // group](
            attention, y, z, a_weight, s_weight, out, eps, sign,
            t, attention.stride(0), y.stride(0), z.stride(0), c,
            W=group,
            **sizes,
        )  # fmt: skip
        ctx.save_for_backward(attention, y, z, a_weight, s_weight)
        ctx.eps = eps
        ctx.group = group
        ctx.sign = sign
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        attention, y, z, a_weight, s_weight = ctx.saved_tensors
        t, c = y.shape
        sizes = blocks(t, ctx.group)
        programs = min(triton.cdiv(t, sizes["BLOCK_T"]), PROGRAMS)
        d_attention = y.new_empty(t, c)
        dy = y.new_empty(t, c)
        dz = y.new_empty(t, c)
        d_a_weight = y.new_empty(programs, c, dtype=torch.float32)
        d_s_weight = y.new_empty(programs, c, dtype=torch.float32)
        _backward[programs, c // ctx.group](
            attention, y, z, a_weight, s_weight, d_out.contiguous(),
            d_attention, dy, dz, d_a_weight, d_s_weight, ctx.eps, ctx.sign,
            t, attention.stride(0), y.stride(0), z.stride(0), c,
            W=ctx.group,
            **sizes,
        )  # fmt: skip
        d_a_weight = d_a_weight.sum(0).to(a_weight.dtype)
        d_s_weight = d_s_weight.sum(0).to(s_weight.dtype)
        return d_attention, dy, dz, d_a_weight, d_s_weight, None, None, None


def branch_fusion_limit(
    attention: Tensor,
    y: Tensor,
    z: Tensor,
    a_weight: Tensor,
    s_weight: Tensor,
    eps: float,
    groups: tuple[int, int],
    fusion: str | None,
) -> str | None:
    """Why the kernels do not support these arguments, or None if they do."""
    limit = gated_rms_norm_limit(attention, z, a_weight, eps, groups[0])
    if limit is not None:
        return limit
    return gated_rms_norm_limit(y, z, s_weight, eps, groups[1])


def branch_fusion(
    attention: Tensor,
    y: Tensor,
    z: Tensor,
    attention_weight: Tensor,
    ssm_weight: Tensor,
    eps: float,
    groups: tuple[int, int],
    fusion: str | None,
) -> tuple[Tensor, Tensor] | Tensor:
    """See `kernels.branch_fusion`; with `fusion` see `kernels.branch_fusion.fused_branches`."""
    if fusion is not None and groups[0] == groups[1]:
        sign = 1.0 if fusion == "add" else -1.0
        out: Tensor = _Fused.apply(
            flat(attention),
            flat(y),
            flat(z),
            attention_weight,
            ssm_weight,
            eps,
            groups[0],
            sign,
        )
        return out.view(y.shape)
    a, _ = GroupRms.apply(
        flat(attention),
        None,
        None,
        attention_weight,
        eps,
        groups[0],
    )
    s, _ = GroupRms.apply(
        flat(y),
        flat(z),
        None,
        ssm_weight,
        eps,
        groups[1],
    )
    return fused(a.view(attention.shape), s.view(y.shape), fusion)
