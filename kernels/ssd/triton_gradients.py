"""The program of the SSD scan's backward pass; `triton_kernel.py` launches it.

Shape letters as in `kernels.ssd`, and Q tokens of a chunk.
"""

import triton
import triton.language as tl

from kernels.ssd.triton_tiles import chunk_decays, read_tile, write_tile
from kernels.tiles import LOG2E, batch_and_head, both, dot


@triton.jit
def gradients(  # noqa: PLR0915 - a kernel may be long
    x, dt, A, B, C, D,
    dy, states, adjoints,
    dx, ddt, dA, dB, dC, dD,
    T, H, per_group, n_chunks,
    x_b, x_t, x_h,
    B_b, B_t, B_g,
    C_b, C_t, C_g,
    dt_b, dt_t, dt_h,
    y_b, y_t, y_h,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """All gradients of one chunk of one head.

    They come from the state before it and the gradient of the state after it (`adjoints`), both
    [bh, chunks, N, P]. dx [b, T, H, P], ddt [b, T, H], dB and dC [b, T, H, N] (per head), dA and dD
    [bh, chunks].
    """
    chunk = tl.program_id(0) % n_chunks
    bh = tl.program_id(0) // n_chunks
    q = tl.arange(0, Q)
    n = tl.arange(0, BLOCK_N)
    first = chunk * Q
    a = tl.load(A + bh % H).to(tl.float32)
    step, log, total = chunk_decays(
        dt, a * LOG2E, first, q, bh, T, H,
        dt_b, dt_t, dt_h,
    )  # fmt: skip
    # The decays from j to i, from the beginning to each token, and from each token to the end.
    causal = q[:, None] >= q[None, :]
    between = log[:, None] - log[None, :]
    decay = tl.exp2(tl.where(causal, between, float("-inf")))
    since_start = tl.exp2(log)
    to_end = tl.exp2(total - log)
    C_t_n = read_tile(
        C, first, q, n, bh, T, H, per_group,
        C_b, C_t, C_g,
        N, BLOCK_N,
    )  # fmt: skip
    B_t_n = read_tile(
        B, first, q, n, bh, T, H, per_group,
        B_b, B_t, B_g,
        N, BLOCK_N,
    )  # fmt: skip
    scores = dot(C_t_n, tl.trans(B_t_n)) * decay
    skip = tl.load(D + bh % H).to(tl.float32)

    products = tl.zeros([Q, Q], tl.float32)  # dy_i . x_j
    inflow = tl.zeros([Q, BLOCK_N], tl.float32)  # gradient of the state after, applied to x
    outflow = tl.zeros([Q, BLOCK_N], tl.float32)  # state before, applied to dy
    carried = 0.0  # the sum of state before * gradient of the state after
    skipped = 0.0  # the sum of x * dy, the gradient of D
    for left in range(0, P, BLOCK_P):
        p = left + tl.arange(0, BLOCK_P)
        chunk_start = (bh.to(tl.int64) * n_chunks + chunk) * (N * P)
        cell = chunk_start + n[:, None] * P + p[None, :]
        real = both(n < N, p < P)
        state = tl.load(states + cell, mask=real, other=0.0)
        adjoint = tl.load(adjoints + cell, mask=real, other=0.0)
        x_t_p = read_tile(
            x, first, q, p, bh, T, H, 1,
            x_b, x_t, x_h,
            P, BLOCK_P,
        )  # fmt: skip
        dy_t_p = read_tile(
            dy, first, q, p, bh, T, H, 1,
            y_b, y_t, y_h,
            P, BLOCK_P,
        )  # fmt: skip
        kind = x_t_p.dtype
        products += dot(dy_t_p, tl.trans(x_t_p))
        inflow += dot(x_t_p, tl.trans(adjoint.to(kind)))
        outflow += dot(dy_t_p, tl.trans(state.to(kind)))
        carried_p = state.to(tl.float32) * adjoint.to(tl.float32)
        carried += tl.sum(tl.sum(carried_p, 1), 0)
        skipped_p = x_t_p.to(tl.float32) * dy_t_p.to(tl.float32)
        skipped += tl.sum(tl.sum(skipped_p, 1), 0)

        # dx_j: what later tokens of the chunk and the state after it read from x_j, and D.
        within = dot(tl.trans(scores.to(kind)), dy_t_p)
        grad = within + dot(B_t_n, adjoint.to(kind)) * to_end[:, None]
        grad = grad * step[:, None] + dy_t_p.to(tl.float32) * skip
        # dx has the memory layout of dy.
        write_tile(
            dx, grad, first, q, p, bh, T, H,
            y_b, y_t, y_h,
            P, BLOCK_P,
        )  # fmt: skip

    # dB and dC, per head: the pairs within the chunk, and the states at its two ends.
    inflow *= to_end[:, None]
    outflow *= since_start[:, None]
    pairs = products * decay
    from_pairs = dot(tl.trans(pairs.to(C_t_n.dtype)), C_t_n)
    grad_B = (from_pairs + inflow) * step[:, None]
    batch_stride = tl.cast(T, tl.int64) * (H * N)
    write_tile(
        dB, grad_B, first, q, n, bh, T, H,
        batch_stride, H * N, N,
        N, BLOCK_N,
    )  # fmt: skip
    stepped_pairs = (pairs * step[None, :]).to(B_t_n.dtype)
    grad_C = dot(stepped_pairs, B_t_n) + outflow
    write_tile(
        dC, grad_C, first, q, n, bh, T, H,
        batch_stride, H * N, N,
        N, BLOCK_N,
    )  # fmt: skip

    # The gradient of the log decay after token i: what i reads from before, less what later tokens
    # and the state after read from i.
    through = products * scores
    read_within = tl.sum(through * step[None, :], 1)
    read = read_within + tl.sum(outflow * C_t_n.to(tl.float32), 1)
    passed_on = tl.sum(inflow * B_t_n.to(tl.float32), 1)
    direct = tl.sum(through, 0) + passed_on
    net = read - direct * step
    kept = carried * tl.exp2(total) + tl.sum(passed_on * step, 0)
    # A token's own log decay acts on it and all later tokens, so sum from the end.
    log_grad = tl.sum(net, 0) - tl.cumsum(net, 0) + net + kept
    batch, head = batch_and_head(bh, H)
    offsets = (batch * T + first + q) * H + head
    tl.store(ddt + offsets, direct + a * log_grad, mask=first + q < T)
    tl.store(dA + bh * n_chunks + chunk, tl.sum(step * log_grad, 0))
    tl.store(dD + bh * n_chunks + chunk, skipped)
