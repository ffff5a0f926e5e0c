"""The forward programs of the selective scan, and its step; `triton_kernel.py` launches them.

Shape letters as in `kernels.selective_scan`. A program owns a block of channels e of one sequence,
with their states [e, n] in registers.
"""

import triton
import triton.language as tl

from kernels.tiles import both, load, store


@triton.jit
def token(
    x, dt, B, i, e, n, batch, E,
    x_b, x_t,
    dt_b, dt_t,
    B_b, B_t,
    N: tl.constexpr,
):  # fmt: skip
    """x and dt [e], B [n] of token i, in float32."""
    at = tl.cast(i, tl.int64)
    x_e = load(x + batch * x_b + at * x_t + e, e < E)
    dt_e = load(dt + batch * dt_b + at * dt_t + e, e < E)
    B_n = load(B + batch * B_b + at * B_t + n, n < N)
    return x_e, dt_e, B_n


@triton.jit
def advance(state, decay, x, dt, B):
    """h_t = exp(dt A) h_{t-1} + dt x B^T, for the tile [e, n] (arXiv 2312.00752, Equation 2a)."""
    return state * decay + (dt * x)[:, None] * B[None, :]


@triton.jit
def segment_ends(
    x, dt, A, B, ends, elapsed,
    T, E, length,
    x_b, x_t,
    dt_b, dt_t,
    B_b, B_t,
    N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The end state of a segment of `length` tokens that starts from zero, and its sum of dt.

    ends [b, segments, E, N], elapsed [b, segments, E].
    """
    segment = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    cell = e[:, None] * N + n[None, :]
    real = both(e < E, n < N)
    rate = load(A + cell, real)
    state = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
    total = tl.zeros([BLOCK_E], tl.float32)
    stop = tl.minimum((segment + 1) * length, T)
    for i in range(segment * length, stop):
        x_e, dt_e, B_n = token(
            x, dt, B, i, e, n, batch, E,
            x_b, x_t,
            dt_b, dt_t,
            B_b, B_t,
            N,
        )  # fmt: skip
        decay = tl.exp(dt_e[:, None] * rate)
        state = advance(state, decay, x_e, dt_e, B_n)
        total += dt_e
    row = batch * tl.num_programs(1) + segment
    tl.store(ends + row * E * N + cell, state, mask=real)
    tl.store(elapsed + row * E + e, total, mask=e < E)


@triton.jit
def scan(
    x, dt, A, B, C, D,
    start, ends, elapsed,
    y, after, states,
    T, E, length, n_pieces,
    x_b, x_t,
    dt_b, dt_t,
    B_b, B_t,
    C_b, C_t,
    N: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STARTED: tl.constexpr,
    CUT: tl.constexpr,
    STORE: tl.constexpr,
):  # fmt: skip
    """Outputs of one segment. The last segment writes the state after all tokens.

    CUT means that there are several segments. STORE writes the state before every PIECE of tokens,
    [b, pieces, E, N].
    """
    segment = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    cell = e[:, None] * N + n[None, :]
    real = both(e < E, n < N)
    rate = load(A + cell, real)
    skip = load(D + e, e < E)
    state = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
    if STARTED:
        state += load(start + batch * E * N + cell, real)
    if CUT:
        # The state that enters this segment: the sum of earlier ends, each decayed up to here.
        for s in range(0, segment):
            row = batch * (tl.num_programs(1) - 1) + s
            passed = load(elapsed + row * E + e, e < E)
            decay = tl.exp(passed[:, None] * rate)
            state = state * decay + load(ends + row * E * N + cell, real)
    stop = tl.minimum((segment + 1) * length, T)
    for i in range(segment * length, stop):
        if STORE:
            piece = batch * n_pieces + i // PIECE
            tl.store(
                states + piece * E * N + cell,
                state,
                mask=real & (i % PIECE == 0),
            )
        x_e, dt_e, B_n = token(
            x, dt, B, i, e, n, batch, E,
            x_b, x_t,
            dt_b, dt_t,
            B_b, B_t,
            N,
        )  # fmt: skip
        C_n = load(C + batch * C_b + tl.cast(i, tl.int64) * C_t + n, n < N)
        decay = tl.exp(dt_e[:, None] * rate)
        state = advance(state, decay, x_e, dt_e, B_n)
        out = tl.sum(state * C_n[None, :], 1) + skip * x_e
        store(y + (batch * T + i) * E + e, out, e < E)
    if segment == tl.num_programs(1) - 1:
        tl.store(after + batch * E * N + cell, state, mask=real)


@triton.jit
def step(
    x, dt, A, B, C, D, state, y, E,
    x_b, x_t,
    dt_b, dt_t,
    B_b, B_t,
    C_b,
    s_b, s_e,
    N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One token; the state is updated in place."""
    batch = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    real = both(e < E, n < N)
    x_e, dt_e, B_n = token(
        x, dt, B, 0, e, n, batch, E,
        x_b, x_t,
        dt_b, dt_t,
        B_b, B_t,
        N,
    )  # fmt: skip
    C_n = load(C + batch * C_b + n, n < N)
    rate = load(A + e[:, None] * N + n[None, :], real)
    at = state + batch * s_b + e[:, None] * s_e + n[None, :]
    decay = tl.exp(dt_e[:, None] * rate)
    held = advance(load(at, real), decay, x_e, dt_e, B_n)
    store(at, held, real)
    skip = load(D + e, e < E)
    out = tl.sum(held * C_n[None, :], 1) + skip * x_e
    store(y + batch * E + e, out, e < E)
