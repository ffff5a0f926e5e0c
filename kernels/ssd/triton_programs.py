"""The programs of the SSD scan and of its backward pass; `triton_kernel.py` launches them.

Base-2 logarithms of decays are used throughout, because exp2 is the exponential of the hardware.
"""

import triton
import triton.language as tl

from kernels.tiles import LOG2E, dot


@triton.jit
def _tile(
    first,
    q,
    n,
    bh,
    T,
    H,
    per_group,
    batch_stride,
    time_stride,
    group_stride,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Where tokens first + q and channels n of head `bh` lie in a tensor [b, T, H or G, N].

    Gives the start of the tile in 64 bits, the offsets from there in 32 bits, and which of them
    exist. Only the start can be far from the tensor's own. per_group is 1 for tensors with H.
    """
    batch = (bh // H).to(tl.int64)
    head = (bh % H).to(tl.int64)
    start = (
        batch * batch_stride
        + tl.cast(first, tl.int64) * time_stride
        + head // per_group * group_stride
    )
    there = (first + q < T)[:, None]
    if N % BLOCK_N != 0:
        there = there & (n < N)[None, :]
    return start, q[:, None] * time_stride + n[None, :], there


@triton.jit
def _read(
    x, first, q, n, bh, T, H, per_group, x_b, x_t, x_g, N: tl.constexpr, BLOCK_N: tl.constexpr
):
    """The tile [q, n], zero where there is nothing."""
    start, at, there = _tile(first, q, n, bh, T, H, per_group, x_b, x_t, x_g, N, BLOCK_N)
    return tl.load(x + start + at, mask=there, other=0.0)


@triton.jit
def _write(x, tile, first, q, n, bh, T, H, x_b, x_t, x_h, N: tl.constexpr, BLOCK_N: tl.constexpr):
    start, at, there = _tile(first, q, n, bh, T, H, 1, x_b, x_t, x_h, N, BLOCK_N)
    tl.store(x + start + at, tile.to(x.dtype.element_ty), mask=there)


@triton.jit
def _scores(
    C, B, first, q, bh, T, H, per_group, C_b, C_t, C_g, B_b, B_t, B_g,
    N: tl.constexpr, Q: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    """C_i . B_j of the tokens of a chunk, PIECE channels at a time.

    float32 operands as wide as N would take all registers.
    """
    scores = tl.zeros([Q, Q], tl.float32)
    for left in range(0, N, PIECE):
        n = left + tl.arange(0, PIECE)
        C_t_n = _read(C, first, q, n, bh, T, H, per_group, C_b, C_t, C_g, N, PIECE)
        scores += dot(
            C_t_n, tl.trans(_read(B, first, q, n, bh, T, H, per_group, B_b, B_t, B_g, N, PIECE))
        )
    return scores


@triton.jit
def _decays(dt, rate, first, t, bh, T, H, dt_b, dt_t, dt_h):
    """dt [t], and base-2 logarithms of the decay since the chunk began: per token, and at its end.

    `rate` is A in base 2.
    """
    batch = (bh // H).to(tl.int64)
    head = (bh % H).to(tl.int64)
    start = batch * dt_b + tl.cast(first, tl.int64) * dt_t + head * dt_h
    step = tl.load(dt + start + t * dt_t, mask=first + t < T, other=0.0).to(tl.float32)
    log = step * rate
    return step, tl.cumsum(log, 0), tl.sum(log, 0)


@triton.jit
def walk(
    keys, values, dt, A, start, ends, decays, states, T, H, per_group, n_chunks, segment_chunks,
    k_b, k_t, k_g, v_b, v_t, v_h, dt_b, dt_t, dt_h,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
    BACKWARD: tl.constexpr, STARTED: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """h <- decay h + sum over a chunk of (decay from a token to its end) dt key value^T.

    This is done chunk by chunk. BACKWARD goes from the last chunk to the first, with C as keys and
    dy as values, each decayed since the chunk began: the gradient of the state. STORE writes the
    state before each chunk is added, [bh, chunks, N, P]. The end of segment s goes to ends[bh, s],
    [N, P], and its base-2 log decay to decays[bh, s].
    """
    bh = tl.program_id(0)
    segment = tl.program_id(1)
    q = tl.arange(0, Q)
    n = tl.arange(0, BLOCK_N)
    p = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    cell = n[:, None] * P + p[None, :]
    real = (n < N)[:, None] & (p < P)[None, :]
    opening = segment * segment_chunks
    count = tl.minimum(segment_chunks, n_chunks - opening)
    state = tl.zeros([BLOCK_N, BLOCK_P], tl.float32)
    if STARTED:
        state += tl.load(
            start + bh.to(tl.int64) * (N * P) + p[None, :] * N + n[:, None], mask=real, other=0.0
        ).to(tl.float32)
    elapsed = 0.0
    rate = tl.load(A + bh % H).to(tl.float32) * LOG2E
    for i in range(0, count):
        chunk = opening + i
        if BACKWARD:
            chunk = opening + count - 1 - i
        if STORE:
            tl.store(
                states + (bh.to(tl.int64) * n_chunks + chunk) * (N * P) + cell,
                state.to(states.dtype.element_ty),
                mask=real,
            )
        first = chunk * Q
        step, log, total = _decays(dt, rate, first, q, bh, T, H, dt_b, dt_t, dt_h)
        key = _read(keys, first, q, n, bh, T, H, per_group, k_b, k_t, k_g, N, BLOCK_N)
        value = _read(values, first, q, p, bh, T, H, 1, v_b, v_t, v_h, P, BLOCK_P)
        weight = tl.exp2(log) if BACKWARD else tl.exp2(total - log) * step
        state = state * tl.exp2(total) + dot(tl.trans(key), (value * weight[:, None]).to(key.dtype))
        elapsed += total
    n_segments = tl.num_programs(1)
    tl.store(ends + (bh.to(tl.int64) * n_segments + segment) * (N * P) + cell, state, mask=real)
    tl.store(decays + bh * n_segments + segment, elapsed)


@triton.jit
def scan(
    x, dt, A, B, C, D, start, ends, decays, y, after, T, H, per_group, n_chunks, segment_chunks,
    n_ends,
    x_b, x_t, x_h, B_b, B_t, B_g, C_b, C_t, C_g, dt_b, dt_t, dt_h, y_b, y_t, y_h,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
    PIECE: tl.constexpr,
    STARTED: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """The fused walk of one segment; the last segment writes the state after all tokens."""
    bh = tl.program_id(0)
    segment = tl.program_id(1)
    q = tl.arange(0, Q)
    n = tl.arange(0, BLOCK_N)
    p = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    # States lie in memory as [P, N] in the interface and as [N, P] in `ends`.
    held = bh.to(tl.int64) * (N * P)
    real = (n < N)[:, None] & (p < P)[None, :]
    state = tl.zeros([BLOCK_N, BLOCK_P], tl.float32)
    if STARTED:
        state += tl.load(start + held + (p[None, :] * N + n[:, None]), mask=real, other=0.0).to(
            tl.float32
        )
    if CUT:
        for s in range(0, segment):
            end = tl.load(
                ends + (held * n_ends + s * (N * P)) + (n[:, None] * P + p[None, :]),
                mask=real,
                other=0.0,
            )
            state = state * tl.exp2(tl.load(decays + bh * n_ends + s)) + end
    rate = tl.load(A + bh % H).to(tl.float32) * LOG2E
    skip = tl.load(D + bh % H).to(tl.float32)
    causal = q[:, None] >= q[None, :]
    for chunk in range(
        segment * segment_chunks, tl.minimum((segment + 1) * segment_chunks, n_chunks)
    ):
        first = chunk * Q
        step, log, total = _decays(dt, rate, first, q, bh, T, H, dt_b, dt_t, dt_h)
        C_t_n = _read(C, first, q, n, bh, T, H, per_group, C_b, C_t, C_g, N, BLOCK_N)
        B_t_n = _read(B, first, q, n, bh, T, H, per_group, B_b, B_t, B_g, N, BLOCK_N)
        x_t_p = _read(x, first, q, p, bh, T, H, 1, x_b, x_t, x_h, P, BLOCK_P)
        # Masked before the exponential: above the diagonal it would overflow.
        decay = tl.exp2(tl.where(causal, log[:, None] - log[None, :], float("-inf")))
        if PIECE < BLOCK_N:
            scores = _scores(
                C, B, first, q, bh, T, H, per_group, C_b, C_t, C_g, B_b, B_t, B_g, N, Q, PIECE
            )
        else:
            scores = dot(C_t_n, tl.trans(B_t_n))
        weights = scores * decay * step[None, :]
        out = dot(C_t_n, state.to(x_t_p.dtype)) * tl.exp2(log)[:, None]
        out += dot(weights.to(x_t_p.dtype), x_t_p) + x_t_p.to(tl.float32) * skip
        _write(y, out, first, q, p, bh, T, H, y_b, y_t, y_h, P, BLOCK_P)
        to_end = tl.exp2(total - log) * step
        state = state * tl.exp2(total) + dot(
            tl.trans(B_t_n), (x_t_p * to_end[:, None]).to(x_t_p.dtype)
        )
    if segment == tl.num_programs(1) - 1:
        tl.store(after + held + (p[None, :] * N + n[:, None]), state, mask=real)


@triton.jit
def gradients(  # noqa: PLR0915 - a kernel may be long
    x, dt, A, B, C, D, dy, states, adjoints, dx, ddt, dA, dB, dC, dD, T, H, per_group, n_chunks,
    x_b, x_t, x_h, B_b, B_t, B_g, C_b, C_t, C_g, dt_b, dt_t, dt_h, y_b, y_t, y_h,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """All gradients of one chunk of one head.

    They come from the state before it and the gradient of the state after it (`adjoints`).
    dx [b, T, H, P], ddt [b, T, H], dB and dC [b, T, H, N] (per head), dA and dD [bh, chunks].
    """
    chunk = tl.program_id(0) % n_chunks
    bh = tl.program_id(0) // n_chunks
    q = tl.arange(0, Q)
    n = tl.arange(0, BLOCK_N)
    first = chunk * Q
    a = tl.load(A + bh % H).to(tl.float32)
    step, log, total = _decays(dt, a * LOG2E, first, q, bh, T, H, dt_b, dt_t, dt_h)
    decay = tl.exp2(tl.where(q[:, None] >= q[None, :], log[:, None] - log[None, :], float("-inf")))
    since_start = tl.exp2(log)
    to_end = tl.exp2(total - log)
    C_t_n = _read(C, first, q, n, bh, T, H, per_group, C_b, C_t, C_g, N, BLOCK_N)
    B_t_n = _read(B, first, q, n, bh, T, H, per_group, B_b, B_t, B_g, N, BLOCK_N)
    scores = dot(C_t_n, tl.trans(B_t_n)) * decay
    skip = tl.load(D + bh % H).to(tl.float32)

    products = tl.zeros([Q, Q], tl.float32)  # dy_i . x_j
    inflow = tl.zeros([Q, BLOCK_N], tl.float32)  # gradient of the state after, applied to x
    outflow = tl.zeros([Q, BLOCK_N], tl.float32)  # state before, applied to dy
    carried, skipped = 0.0, 0.0
    for left in range(0, P, BLOCK_P):
        p = left + tl.arange(0, BLOCK_P)
        cell = (bh.to(tl.int64) * n_chunks + chunk) * (N * P) + n[:, None] * P + p[None, :]
        real = (n < N)[:, None] & (p < P)[None, :]
        state = tl.load(states + cell, mask=real, other=0.0)
        adjoint = tl.load(adjoints + cell, mask=real, other=0.0)
        x_t_p = _read(x, first, q, p, bh, T, H, 1, x_b, x_t, x_h, P, BLOCK_P)
        dy_t_p = _read(dy, first, q, p, bh, T, H, 1, y_b, y_t, y_h, P, BLOCK_P)
        kind = x_t_p.dtype
        products += dot(dy_t_p, tl.trans(x_t_p))
        inflow += dot(x_t_p, tl.trans(adjoint.to(kind)))
        outflow += dot(dy_t_p, tl.trans(state.to(kind)))
        carried += tl.sum(tl.sum(state.to(tl.float32) * adjoint.to(tl.float32), 1), 0)
        skipped += tl.sum(tl.sum(x_t_p.to(tl.float32) * dy_t_p.to(tl.float32), 1), 0)
        grad = (
            dot(tl.trans(scores.to(kind)), dy_t_p) + dot(B_t_n, adjoint.to(kind)) * to_end[:, None]
        )
        grad = grad * step[:, None] + dy_t_p.to(tl.float32) * skip
        _write(dx, grad, first, q, p, bh, T, H, y_b, y_t, y_h, P, BLOCK_P)  # dx lies as dy does

    inflow *= to_end[:, None]
    outflow *= since_start[:, None]
    pairs = products * decay
    grad_B = (dot(tl.trans(pairs.to(C_t_n.dtype)), C_t_n) + inflow) * step[:, None]
    _write(dB, grad_B, first, q, n, bh, T, H, tl.cast(T, tl.int64) * (H * N), H * N, N, N, BLOCK_N)
    grad_C = dot((pairs * step[None, :]).to(B_t_n.dtype), B_t_n) + outflow
    _write(dC, grad_C, first, q, n, bh, T, H, tl.cast(T, tl.int64) * (H * N), H * N, N, N, BLOCK_N)

    # The gradient of the log decay after token i: what i reads from before, less what later tokens
    # and the state after read from i.
    through = products * scores
    read = tl.sum(through * step[None, :], 1) + tl.sum(outflow * C_t_n.to(tl.float32), 1)
    passed_on = tl.sum(inflow * B_t_n.to(tl.float32), 1)
    direct = tl.sum(through, 0) + passed_on
    net = read - direct * step
    kept = carried * tl.exp2(total) + tl.sum(passed_on * step, 0)
    log_grad = (
        tl.sum(net, 0) - tl.cumsum(net, 0) + net + kept
    )  # a token's own log decay acts on all from it on
    offsets = ((bh // H).to(tl.int64) * T + first + q) * H + bh % H
    tl.store(ddt + offsets, direct + a * log_grad, mask=first + q < T)
    tl.store(dA + bh * n_chunks + chunk, tl.sum(step * log_grad, 0))
    tl.store(dD + bh * n_chunks + chunk, skipped)
