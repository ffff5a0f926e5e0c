"""Helpers that the SSD programs share: tiles of x, B and C, and the decays and scores of a chunk.

Shape letters as in `kernels.ssd`, and Q tokens of a chunk. Decays are base-2 logarithms throughout,
because the hardware has only exp2.
"""

import triton
import triton.language as tl

from kernels.tiles import batch_and_head, dot, load


@triton.jit
def _tile(
    first, q, n, bh, T, H, per_group,
    x_b, x_t, x_g,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Where tokens first + q and channels n of head `bh` lie in a tensor [b, T, H or G, N].

    Returns the start of the tile in 64 bits, the offsets from there in 32 bits, and a mask of those
    that exist. Only the start can be far from the start of the tensor. per_group is the number of
    heads that share a group, 1 for tensors with H.
    """
    batch, head = batch_and_head(bh, H)
    start = (
        batch * x_b
        + tl.cast(first, tl.int64) * x_t
        + head // per_group * x_g
    )  # fmt: skip
    there = (first + q < T)[:, None]
    if N % BLOCK_N != 0:
        there = there & (n < N)[None, :]
    return start, q[:, None] * x_t + n[None, :], there


@triton.jit
def read_tile(
    x, first, q, n, bh, T, H, per_group,
    x_b, x_t, x_g,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The tile [q, n] in its own dtype, zero outside the tensor."""
    start, at, there = _tile(
        first, q, n, bh, T, H, per_group,
        x_b, x_t, x_g,
        N, BLOCK_N,
    )  # fmt: skip
    return tl.load(x + start + at, mask=there, other=0.0)


@triton.jit
def write_tile(
    x, tile, first, q, n, bh, T, H,
    x_b, x_t, x_h,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Store the tile [q, n] of a tensor with H heads."""
    start, at, there = _tile(
        first, q, n, bh, T, H, 1,
        x_b, x_t, x_h,
        N, BLOCK_N,
    )  # fmt: skip
    tl.store(x + start + at, tile.to(x.dtype.element_ty), mask=there)


@triton.jit
def chunk_scores(
    C, B, first, q, bh, T, H, per_group,
    C_b, C_t, C_g,
    B_b, B_t, B_g,
    N: tl.constexpr,
    Q: tl.constexpr,
    PIECE: tl.constexpr,
):  # fmt: skip
    """C_i . B_j for all pairs of tokens of a chunk [Q, Q], PIECE channels at a time.

    float32 operands as wide as N would need too many registers.
    """
    scores = tl.zeros([Q, Q], tl.float32)
    for left in range(0, N, PIECE):
        n = left + tl.arange(0, PIECE)
        C_t_n = read_tile(
            C, first, q, n, bh, T, H, per_group,
            C_b, C_t, C_g,
            N, PIECE,
        )  # fmt: skip
        B_t_n = read_tile(
            B, first, q, n, bh, T, H, per_group,
            B_b, B_t, B_g,
            N, PIECE,
        )  # fmt: skip
        scores += dot(C_t_n, tl.trans(B_t_n))
    return scores


@triton.jit
def chunk_decays(dt, rate, first, t, bh, T, H, dt_b, dt_t, dt_h):
    """dt [Q], the log decay from the chunk's beginning through each token [Q], and its total.

    `rate` is A in base 2.
    """
    batch, head = batch_and_head(bh, H)
    start = batch * dt_b + tl.cast(first, tl.int64) * dt_t + head * dt_h
    step = load(dt + start + t * dt_t, first + t < T)
    log = step * rate
    return step, tl.cumsum(log, 0), tl.sum(log, 0)
