"""RMSNorm over groups of channels, optionally with a gate or a residual added first.

One pass forward, one backward. A program owns one group and a block of tokens. The backward pass
recomputes the root mean square, so only the inputs are kept. Its programs walk over several blocks
of tokens each, which leaves fewer partial sums of the weight's gradient to add up.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.tiles import block, both, load, rows, silu, silu_slope, store, too_many

ELEMENTS = 4096  # of a tile
PROGRAMS = 512  # of the backward pass, per group
WIDEST = 32768  # channels of a group


@triton.jit
def unit(v, eps, W: tl.constexpr):
    """v / rms(v) and 1 / rms(v), for zero-padded rows [t, W]."""
    scale = tl.rsqrt(tl.sum(v * v, 1) / W + eps)
    return v * scale[:, None], scale


@triton.jit
def unit_gradient(grad, normal, scale, W: tl.constexpr):
    """The gradient of v from that of `unit`'s first output, `normal`."""
    along = tl.sum(grad * normal, 1) / W  # the norm cancels changes in the length of v
    return (grad - normal * along[:, None]) * scale[:, None]


@triton.jit
def tile(x, t, c, there, row_stride):
    """Tokens t, channels c of x [T, C], in float32."""
    return load(x + t.to(tl.int64)[:, None] * row_stride + c[None, :], there)


@triton.jit
def put(x, value, t, c, there, row_stride):
    """Store what `tile` would load."""
    store(x + t.to(tl.int64)[:, None] * row_stride + c[None, :], value, there)


@triton.jit
def _forward(
    x, second, weight, out, total, eps,
    T, x_s, second_s, C,
    W: tl.constexpr,
    GATED: tl.constexpr,
    ADDED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
):  # fmt: skip
    """One group of a block of tokens.

    `second` is the gate, the residual, or nothing; `total` gets x + residual.
    """
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    w = tl.arange(0, BLOCK_W)
    c = tl.program_id(1) * W + w
    there = both(t < T, w < W)
    v = tile(x, t, c, there, x_s)
    if GATED:
        v *= silu(tile(second, t, c, there, second_s))
    if ADDED:
        # Rounded to the dtype of `total`, because that is what the next block reads.
        v = (v + tile(second, t, c, there, second_s)).to(total.dtype.element_ty)
        put(total, v, t, c, there, C)
        v = v.to(tl.float32)
    normal, _ = unit(v, eps, W)
    weight_c = load(weight + c, w < W)
    put(out, normal * weight_c[None, :], t, c, there, C)


@triton.jit
def _backward(
    x, gate, weight, d_out, d_total,
    dx, d_gate, d_weight, eps,
    T, x_s, gate_s, C,
    W: tl.constexpr,
    GATED: tl.constexpr,
    ADDED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Gradients of one group; each of n programs takes every n-th block of tokens.

    x is the input of the norm, or y before the gate. d_weight [programs, C].
    """
    w = tl.arange(0, BLOCK_W)
    c = tl.program_id(1) * W + w
    weight_c = load(weight + c, w < W)[None, :]
    d_weight_c = tl.zeros([BLOCK_W], tl.float32)
    stride = tl.num_programs(0) * BLOCK_T
    for first in range(tl.program_id(0) * BLOCK_T, T, stride):
        t = first + tl.arange(0, BLOCK_T)
        there = both(t < T, w < W)
        y = tile(x, t, c, there, x_s)
        v = y
        if GATED:
            z = tile(gate, t, c, there, gate_s)
            v = y * silu(z)
        normal, scale = unit(v, eps, W)
        grad = tile(d_out, t, c, there, C)
        d_weight_c += tl.sum(grad * normal, 0)
        dv = unit_gradient(grad * weight_c, normal, scale, W)
        if ADDED:
            dv += tile(d_total, t, c, there, C)
        if GATED:
            put(d_gate, dv * y * silu_slope(z), t, c, there, C)
            dv *= silu(z)
        put(dx, dv, t, c, there, C)
    tl.store(d_weight + tl.program_id(0) * C + c, d_weight_c, mask=w < W)


def blocks(tokens: int, group: int) -> dict[str, int]:
    """The sizes of a tile."""
    block_w = block(group)
    most_tokens = max(1, ELEMENTS // block_w)
    return {
        "BLOCK_T": block(tokens, least=1, most=most_tokens),
        "BLOCK_W": block_w,
        "num_warps": 4 if block_w <= 4096 else 16,
    }


def flat(x: Tensor) -> Tensor:
    """x [..., C] as [T, C]."""
    return rows(x.reshape(-1, x.shape[-1]))


class GroupRms(torch.autograd.Function):
    """RMSNorm of x [T, C], gated, with a residual, or plain -> (normed, x + residual or None).

    Gate and residual are [T, C], the weight is [C].
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate: Tensor | None,
        residual: Tensor | None,
        weight: Tensor,
        eps: float,
        group: int,
    ) -> Any:
        t, c = x.shape
        sizes = blocks(t, group)
        gated = gate is not None
        added = residual is not None
        out = x.new_empty(t, c)
        total = x.new_empty(t, c) if added else None
        # A kernel needs a pointer for every argument; x and out replace missing ones.
        second = x
        if gate is not None:
            second = gate
        if residual is not None:
            second = residual
        written = total if added else out
        _forward[triton.cdiv(t, sizes["BLOCK_T"]), c // group](
            x, second, weight, out, written, eps,
            t, x.stride(0), second.stride(0), c,
            W=group,
            GATED=gated,
            ADDED=added,
            **sizes,
        )  # fmt: skip
        ctx.save_for_backward(total if added else x, gate, weight)
        ctx.eps = eps
        ctx.group = group
        ctx.added = added
        return out, total

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_total: Tensor | None) -> Any:
        x, gate, weight = ctx.saved_tensors
        t, c = x.shape
        d_out = d_out.contiguous()
        sizes = blocks(t, ctx.group)
        programs = min(triton.cdiv(t, sizes["BLOCK_T"]), PROGRAMS)
        gated = gate is not None
        dx = x.new_empty(t, c)
        d_gate = x.new_empty(t, c) if gated else None
        d_weight = x.new_empty(programs, c, dtype=torch.float32)
        # A kernel needs a pointer for every argument; x, dx and d_out replace missing ones.
        second = gate if gated else x
        d_second = d_gate if gated else dx
        d_sum = d_out
        if ctx.added and d_total is not None:
            d_sum = d_total.contiguous()
        _backward[programs, c // ctx.group](
            x, second, weight, d_out, d_sum,
            dx, d_second, d_weight, ctx.eps,
            t, x.stride(0), second.stride(0), c,
            W=ctx.group,
            GATED=gated,
            ADDED=ctx.added,
            **sizes,
        )  # fmt: skip
        d_residual = dx if ctx.added else None
        return dx, d_gate, d_residual, d_weight.sum(0).to(weight.dtype), None, None


def gated_rms_norm_limit(
    y: Tensor,
    z: Tensor,
    weight: Tensor,
    eps: float,
    group: int,
) -> str | None:
    """Why the kernels do not support these arguments, or None if they do."""
    if group > WIDEST:
        return f"groups of {group} channels, and a program can hold at most {WIDEST}"
    return too_many("groups", y.shape[-1] // group)


def gated_rms_norm(
    y: Tensor,
    z: Tensor,
    weight: Tensor,
    eps: float,
    group: int,
) -> Tensor:
    """See `kernels.gated_rms_norm`."""
    out, _ = GroupRms.apply(flat(y), flat(z), None, weight, eps, group)
    return out.view(y.shape)
