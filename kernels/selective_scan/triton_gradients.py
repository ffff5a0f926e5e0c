"""The program of the selective scan's backward pass; `triton_kernel.py` launches it.

Shape letters as in `kernels.selective_scan`.
"""

import triton
import triton.language as tl

from kernels.selective_scan.triton_scan import advance, token
from kernels.tiles import both, load, store


@triton.jit
def gradients(
    x, dt, A, B, C, D,
    dy, d_after, states, buffer,
    dx, ddt, dA, dB, dC, dD, d_start,
    T, E, n_pieces,
    x_b, x_t,
    dt_b, dt_t,
    B_b, B_t,
    C_b, C_t,
    N: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """All gradients of a block of channels.

    dA [b, E, N], dD [b, E]; dB and dC [blocks, b, T, N]; buffer [b, blocks, PIECE, tile].
    """
    batch = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    cell = e[:, None] * N + n[None, :]
    real = both(e < E, n < N)
    # This program's part of the buffer: the state [e, n] before each token of a piece.
    tile = tl.arange(0, BLOCK_E)[:, None] * BLOCK_N + n[None, :]
    owner = batch * tl.num_programs(0) + tl.program_id(0)
    held = buffer + owner * (PIECE * BLOCK_E * BLOCK_N) + tile
    rate = load(A + cell, real)
    skip = load(D + e, e < E)
    grad = load(d_after + batch * E * N + cell, real)  # of the state, from the end backward
    d_rate = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
    d_skip = tl.zeros([BLOCK_E], tl.float32)
    for k in range(0, n_pieces):
        piece = n_pieces - 1 - k
        count = tl.minimum(PIECE, T - piece * PIECE)

        # Recompute the piece forward, from the state that was kept before it.
        kept = states + (batch * n_pieces + piece) * E * N
        state = load(kept + cell, real)
        for i in range(0, count):
            tl.store(held + i * (BLOCK_E * BLOCK_N), state)
            x_e, dt_e, B_n = token(
                x, dt, B, piece * PIECE + i, e, n, batch, E,
                x_b, x_t,
                dt_b, dt_t,
                B_b, B_t,
                N,
            )  # fmt: skip
            decay = tl.exp(dt_e[:, None] * rate)
            state = advance(state, decay, x_e, dt_e, B_n)
        tl.debug_barrier()  # other threads may read what one thread wrote

        for back in range(0, count):
            i = piece * PIECE + count - 1 - back
            x_e, dt_e, B_n = token(
                x, dt, B, i, e, n, batch, E,
                x_b, x_t,
                dt_b, dt_t,
                B_b, B_t,
                N,
            )  # fmt: skip
            C_n = load(C + batch * C_b + tl.cast(i, tl.int64) * C_t + n, n < N)
            dy_e = load(dy + (batch * T + i) * E + e, e < E)
            decay = tl.exp(dt_e[:, None] * rate)
            before = tl.load(held + (count - 1 - back) * (BLOCK_E * BLOCK_N)) * decay
            u_e = dt_e * x_e
            state = before + u_e[:, None] * B_n[None, :]

            # y = h C: the gradient of h grows by dy C^T, and that of C is dy h.
            grad += dy_e[:, None] * C_n[None, :]
            block_row = tl.program_id(0) * tl.num_programs(1) + batch
            row = (block_row * T + i) * N + n
            tl.store(dC + row, tl.sum(dy_e[:, None] * state, 0), mask=n < N)
            # h = before + dt x B^T, where before = exp(dt A) h_{t-1}.
            tl.store(dB + row, tl.sum(grad * u_e[:, None], 0), mask=n < N)
            inflow = tl.sum(grad * B_n[None, :], 1)
            at = (batch * T + i) * E + e
            store(dx + at, dt_e * inflow + skip * dy_e, e < E)
            from_decay = tl.sum(grad * before * rate, 1)
            tl.store(ddt + at, x_e * inflow + from_decay, mask=e < E)
            d_rate += grad * before * dt_e[:, None]
            d_skip += dy_e * x_e
            grad *= decay
        tl.debug_barrier()  # and before the next piece overwrites it
    tl.store(dA + batch * E * N + cell, d_rate, mask=real)
    tl.store(dD + batch * E + e, d_skip, mask=e < E)
    tl.store(d_start + batch * E * N + cell, grad, mask=real)
