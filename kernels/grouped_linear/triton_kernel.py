"""One launch for all groups, whatever their sizes; the host never reads the counts.

The rows of a group are cut into tiles. There can be at most (rows / tile) + groups tiles, so that
many programs start. Each finds its group and its rows from the counts, or exits if it finds none.
The gradient of x is the same product with the weights transposed. The gradient of a group's weight
is a sum over the group's rows, by the program that owns a tile of the weight.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.tiles import block, both, dot, rows, store, too_many


@triton.jit
def _group(counts, tile, E, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr):
    """The group of a tile, the tile's first row, and the row at which the group ends.

    If there is no such tile, the group is E or more.
    """
    e = tl.arange(0, BLOCK_E)
    count = tl.load(counts + e, mask=e < E, other=0).to(tl.int32)
    tiles = (count + BLOCK_M - 1) // BLOCK_M
    ended = tl.cumsum(tiles, 0) <= tile  # groups whose tiles all come before this one
    group = tl.sum(ended.to(tl.int32), 0)
    group_begin = tl.sum(tl.where(e < group, count, 0), 0)
    tiles_before = tl.sum(tl.where(e < group, tiles, 0), 0)
    left = group_begin + (tile - tiles_before) * BLOCK_M
    n_rows = tl.sum(tl.where(e == group, count, 0), 0)
    return group, left, group_begin + n_rows


@triton.jit
def _product(
    x, weight, counts, out, E,
    x_r,
    w_e, w_n, w_k,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out [rows, N] = x [rows, K] times the transposed weight [N, K] of each row's group."""
    tile = tl.program_id(0)
    group, left, stop = _group(counts, tile, E, BLOCK_E, BLOCK_M)
    if group < E:
        r = left + tl.arange(0, BLOCK_M)
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        k = tl.arange(0, BLOCK_K)
        at_x = x + r.to(tl.int64)[:, None] * x_r + k[None, :]
        at_weight = (
            weight
            + tl.cast(group, tl.int64) * w_e
            + n.to(tl.int64)[None, :] * w_n
            + k[:, None] * w_k
        )
        total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for begin in range(0, K, BLOCK_K):
            inside = begin + k < K
            x_r_k = tl.load(
                at_x + begin,
                mask=both(r < stop, inside),
                other=0.0,
            )
            weight_k_n = tl.load(
                at_weight + tl.cast(begin, tl.int64) * w_k,
                mask=both(inside, n < N),
                other=0.0,
            )
            total += dot(x_r_k, weight_k_n)
        at = out + r.to(tl.int64)[:, None] * N + n[None, :]
        store(at, total, both(r < stop, n < N))


@triton.jit
def _weight_gradient(
    d_out, x, counts, d_weight, E,
    x_r,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """d_weight [E, N, K]: per group, the sum of d_out times x over its rows, zero without rows."""
    e = tl.arange(0, BLOCK_E)
    group = tl.program_id(2)
    count = tl.load(counts + e, mask=e < E, other=0).to(tl.int32)
    first = tl.sum(tl.where(e < group, count, 0), 0)
    n_rows = tl.sum(tl.where(e == group, count, 0), 0)
    stop = first + n_rows
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for i in range(0, tl.cdiv(stop - first, BLOCK_M)):
        r = first + i * BLOCK_M + tl.arange(0, BLOCK_M)
        row = r.to(tl.int64)[:, None]
        grad = tl.load(
            d_out + row * N + n[None, :],
            mask=both(r < stop, n < N),
            other=0.0,
        )
        x_r_k = tl.load(
            x + row * x_r + k[None, :],
            mask=both(r < stop, k < K),
            other=0.0,
        )
        total += dot(tl.trans(grad), x_r_k)
    at = d_weight + (tl.cast(group, tl.int64) * N + n[:, None]) * K + k[None, :]
    store(at, total, both(n < N, k < K))


def grouped_linear_limit(x: Tensor, weight: Tensor, counts: Tensor) -> str | None:
    """Why the kernels do not support these arguments, or None if they do."""
    return too_many("groups", weight.shape[0])


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """See `kernels.grouped_linear`."""
    out: Tensor = _GroupedLinear.apply(rows(x), weight, counts)
    return out


def _sizes(n_rows: int, weight: Tensor) -> dict[str, Any]:
    """Widths and tile sizes of a product with `weight` [E, N, K]."""
    e, n, k = weight.shape
    wide = 128 if weight.element_size() == 2 else 64
    tiles = {
        "BLOCK_M": block(n_rows // e, most=wide),
        "BLOCK_N": block(n, most=wide),
        "BLOCK_K": block(k, most=wide // 2),
    }
    return {
        "N": n,
        "K": k,
        "BLOCK_E": block(e, least=1),
        **tiles,
        "num_warps": 8 if tiles["BLOCK_M"] == 128 else 4,
        "num_stages": 3,
    }


def _multiply(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """The product of x [rows, K] with weight [E, N, K], which may have any strides."""
    e, n, _ = weight.shape
    n_rows = x.shape[0]
    sizes = _sizes(n_rows, weight)
    out = x.new_empty(n_rows, n)
    tiles = triton.cdiv(n_rows, sizes["BLOCK_M"]) + e
    _product[tiles, triton.cdiv(n, sizes["BLOCK_N"])](
        x,
        weight,
        counts,
        out,
        e,
        x.stride(0),
        *weight.stride(),
        **sizes,
    )
    return out


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        counts: Tensor,
    ) -> Any:
        counts = counts.contiguous()
        ctx.save_for_backward(x, weight, counts)
        return _multiply(x, weight, counts)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        x, weight, counts = ctx.saved_tensors
        d_out = d_out.contiguous()
        dx = None
        d_weight = None
        if ctx.needs_input_grad[0]:
            dx = _multiply(d_out, weight.transpose(1, 2), counts)
        if ctx.needs_input_grad[1]:
            d_weight = _gradient_of_weight(d_out, x, weight, counts)
        return dx, d_weight, None


def _gradient_of_weight(
    d_out: Tensor,
    x: Tensor,
    weight: Tensor,
    counts: Tensor,
) -> Tensor:
    e, n, k = weight.shape
    sizes = _sizes(x.shape[0], weight)
    sizes["BLOCK_K"] = block(k, most=sizes["BLOCK_N"])
    sizes["BLOCK_M"] = min(sizes["BLOCK_M"], 64)
    d_weight = weight.new_empty(weight.shape)
    grid = (
        triton.cdiv(n, sizes["BLOCK_N"]),
        triton.cdiv(k, sizes["BLOCK_K"]),
        e,
    )
    _weight_gradient[grid](
        d_out,
        x,
        counts,
        d_weight,
        e,
        x.stride(0),
        **sizes,
    )
    return d_weight
