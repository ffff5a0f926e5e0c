"""The forward programs of the SSD scan (arXiv 2405.21060, Section 6): `walk` and `scan`.

`triton_kernel.py` launches them. Shape letters as in `kernels.ssd`, and Q tokens of a chunk.
"""

import triton
import triton.language as tl

from kernels.ssd.triton_tiles import chunk_decays, chunk_scores, read_tile, write_tile
from kernels.tiles import LOG2E, both, dot, load


@triton.jit
def walk(
    keys, values, dt, A,
    start, ends, decays, states,
    T, H, per_group,
    n_chunks, segment_chunks,
    k_b, k_t, k_g,
    v_b, v_t, v_h,
    dt_b, dt_t, dt_h,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BACKWARD: tl.constexpr,
    STARTED: tl.constexpr,
    STORE: tl.constexpr,
):  # fmt: skip
    """h <- decay h + sum over a chunk of (decay from a token to its end) dt key value^T.

    This is done chunk by chunk. BACKWARD goes from the last chunk to the first, with C as keys and
    dy as values, each decayed since the chunk began. This gives the gradient of the state. STORE
    writes the state before each chunk is added, [bh, chunks, N, P]. The end of segment s goes to
    ends[bh, s], [N, P], and its base-2 log decay to decays[bh, s].
    """
    bh = tl.program_id(0)
    segment = tl.program_id(1)
    q = tl.arange(0, Q)
    n = tl.arange(0, BLOCK_N)
    p = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    cell = n[:, None] * P + p[None, :]
    real = both(n < N, p < P)
    opening = segment * segment_chunks
    count = tl.minimum(segment_chunks, n_chunks - opening)
    state = tl.zeros([BLOCK_N, BLOCK_P], tl.float32)
    if STARTED:
        # The caller's states are laid out as [P, N].
        start_cell = p[None, :] * N + n[:, None]
        state += load(start + bh.to(tl.int64) * (N * P) + start_cell, real)
    elapsed = 0.0
    rate = tl.load(A + bh % H).to(tl.float32) * LOG2E
    for i in range(0, count):
        chunk = opening + i
        if BACKWARD:
            chunk = opening + count - 1 - i
        if STORE:
            chunk_states = states + (bh.to(tl.int64) * n_chunks + chunk) * (N * P)
            tl.store(
                chunk_states + cell,
                state.to(states.dtype.element_ty),
                mask=real,
            )
        first = chunk * Q
        step, log, total = chunk_decays(
            dt, rate, first, q, bh, T, H,
            dt_b, dt_t, dt_h,
        )  # fmt: skip
        key = read_tile(
            keys, first, q, n, bh, T, H, per_group,
            k_b, k_t, k_g,
            N, BLOCK_N,
        )  # fmt: skip
        value = read_tile(
            values, first, q, p, bh, T, H, 1,
            v_b, v_t, v_h,
            P, BLOCK_P,
        )  # fmt: skip
        weight = tl.exp2(log) if BACKWARD else tl.exp2(total - log) * step
        weighted = (value * weight[:, None]).to(key.dtype)
        state = state * tl.exp2(total) + dot(tl.trans(key), weighted)
        elapsed += total
    n_segments = tl.num_programs(1)
    end = ends + (bh.to(tl.int64) * n_segments + segment) * (N * P)
    tl.store(end + cell, state, mask=real)
    tl.store(decays + bh * n_segments + segment, elapsed)


@triton.jit
def scan(
    x, dt, A, B, C, D,
    start, ends, decays, y, after,
    T, H, per_group,
    n_chunks, segment_chunks, n_ends,
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
    PIECE: tl.constexpr,
    STARTED: tl.constexpr,
    CUT: tl.constexpr,
):  # fmt: skip
    """Outputs of one segment of one head, a block of P channels.

    CUT means that there are several segments: each begins with the state that the ends of those
    before it add up to. The last segment writes the state after all tokens.
    """
    bh = tl.program_id(0)
    segment = tl.program_id(1)
    q = tl.arange(0, Q)
    n = tl.arange(0, BLOCK_N)
    p = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    # States are laid out as [P, N] in the interface and as [N, P] in `ends`.
    held = bh.to(tl.int64) * (N * P)
    real = both(n < N, p < P)
    state = tl.zeros([BLOCK_N, BLOCK_P], tl.float32)
    if STARTED:
        state += load(start + held + (p[None, :] * N + n[:, None]), real)
    if CUT:
        for s in range(0, segment):
            segment_end = ends + (held * n_ends + s * (N * P))
            end = tl.load(
                segment_end + (n[:, None] * P + p[None, :]),
                mask=real,
                other=0.0,
            )
            segment_decay = tl.exp2(tl.load(decays + bh * n_ends + s))
            state = state * segment_decay + end
    rate = tl.load(A + bh % H).to(tl.float32) * LOG2E
    skip = tl.load(D + bh % H).to(tl.float32)
    causal = q[:, None] >= q[None, :]
    opening = segment * segment_chunks
    closing = tl.minimum((segment + 1) * segment_chunks, n_chunks)
    for chunk in range(opening, closing):
        first = chunk * Q
        step, log, total = chunk_decays(
            dt, rate, first, q, bh, T, H,
            dt_b, dt_t, dt_h,
        )  # fmt: skip
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
        x_t_p = read_tile(
            x, first, q, p, bh, T, H, 1,
            x_b, x_t, x_h,
            P, BLOCK_P,
        )  # fmt: skip

        # Within the chunk: y_i = sum_{j <= i} (C_i . B_j) exp(decay from j to i) dt_j x_j.
        # Masked before the exponential: above the diagonal it would overflow.
        between = log[:, None] - log[None, :]
        decay = tl.exp2(tl.where(causal, between, float("-inf")))
        if PIECE < BLOCK_N:
            scores = chunk_scores(
                C, B, first, q, bh, T, H, per_group,
                C_b, C_t, C_g,
                B_b, B_t, B_g,
                N, Q, PIECE,
            )  # fmt: skip
        else:
            scores = dot(C_t_n, tl.trans(B_t_n))
        weights = scores * decay * step[None, :]

        # From the state before the chunk: y_i += C_i . (decay from the beginning to i) state.
        out = dot(C_t_n, state.to(x_t_p.dtype)) * tl.exp2(log)[:, None]
        within = dot(weights.to(x_t_p.dtype), x_t_p)
        out += within + x_t_p.to(tl.float32) * skip
        write_tile(
            y, out, first, q, p, bh, T, H,
            y_b, y_t, y_h,
            P, BLOCK_P,
        )  # fmt: skip

        # The state after the chunk: each token decays up to the chunk's end.
        to_end = tl.exp2(total - log) * step
        weighted = (x_t_p * to_end[:, None]).to(x_t_p.dtype)
        state = state * tl.exp2(total) + dot(tl.trans(B_t_n), weighted)
    if segment == tl.num_programs(1) - 1:
        tl.store(
            after + held + (p[None, :] * N + n[:, None]),
            state,
            mask=real,
        )
