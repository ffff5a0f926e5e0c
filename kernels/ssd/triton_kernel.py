"""The SSD scan as one fused walk over the chunks of a sequence, its backward pass, and its single
step.

A program owns one head of one sequence and a block of its P channels. It walks chunk by chunk with
the state [N, P block] in registers: scores C B^T within the chunk, outputs from them and from the
state, then the state after the chunk. Nothing but y is written on the way.

With few sequences and heads the walk alone would leave most of a GPU idle. Then the sequence is cut
into segments: a first kernel walks each of them from an empty state and keeps only where it ends,
and the fused walks start, all at once, from the state that these ends add up to. The chunk of the
walk is a tile that suits the tensor cores, not more than `chunk_size`; the result does not depend
on it.

Backward: one walk forward that stores the state before every chunk, the same walk backward on C and
dy for the gradient of the state after it, and then all chunks at once. Gradients of B and C are
summed over the heads of a group from a buffer per head, so that they are the same in every run.
Decays are float32 powers of two, states and sums float32, operands of matrix products in the dtype
of x."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.tiles import LOG2E, block, dot, processors, rows

TILE = 64  # tokens of a chunk
WIDEST = 256  # P and N
SEGMENTS = 16  # at most, of at least SEGMENT_CHUNKS chunks
SEGMENT_CHUNKS = 8


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
    """Where tokens first + q and channels n of head `bh` lie in a tensor [b, T, H or G, N]: the
    start of the tile, which alone can be far from the tensor's, in 64 bits, the offsets from there
    in 32, and which of them exist. per_group is 1 for tensors with H."""
    batch, head = (bh // H).to(tl.int64), (bh % H).to(tl.int64)
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
    C, B, first, q, bh, T, H, per_group, C_b, C_t, C_g, B_b, B_t, B_g, N: tl.constexpr, Q: tl.constexpr, PIECE: tl.constexpr
):  # fmt: skip
    """C_i . B_j of the tokens of a chunk, PIECE channels at a time: operands of float32 as wide as
    N take all registers."""
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
    """dt [t], and the base-2 logarithm of the decay since the chunk began: after each token, and at
    its end. `rate` is A in base 2."""
    batch, head = (bh // H).to(tl.int64), (bh % H).to(tl.int64)
    start = batch * dt_b + tl.cast(first, tl.int64) * dt_t + head * dt_h
    step = tl.load(dt + start + t * dt_t, mask=first + t < T, other=0.0).to(tl.float32)
    log = step * rate
    return step, tl.cumsum(log, 0), tl.sum(log, 0)


@triton.jit
def _walk(
    keys, values, dt, A, start, ends, decays, states, T, H, per_group, n_chunks, segment_chunks,
    k_b, k_t, k_g, v_b, v_t, v_h, dt_b, dt_t, dt_h,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
    BACKWARD: tl.constexpr, STARTED: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """h <- decay h + sum over a chunk of (decay from a token to the end) dt key value^T, chunk by
    chunk.

    BACKWARD goes from the last chunk to the first with C as keys and dy as values, each decayed
    since the chunk began: the gradient of the state. STORE writes the state as it is before each
    chunk is added, [bh, chunks, N, P]. The end of segment s goes to ends[bh, s], [N, P], its base-2
    log decay to decays[bh, s]."""
    bh, segment = tl.program_id(0), tl.program_id(1)
    q, n, p = (
        tl.arange(0, Q),
        tl.arange(0, BLOCK_N),
        tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P),
    )
    cell, real = n[:, None] * P + p[None, :], (n < N)[:, None] & (p < P)[None, :]
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
def _scan(
    x, dt, A, B, C, D, start, ends, decays, y, after, T, H, per_group, n_chunks, segment_chunks, n_ends,
    x_b, x_t, x_h, B_b, B_t, B_g, C_b, C_t, C_g, dt_b, dt_t, dt_h, y_b, y_t, y_h,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, PIECE: tl.constexpr,
    STARTED: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """The fused walk of one segment; the last segment writes the state after all tokens."""
    bh, segment = tl.program_id(0), tl.program_id(1)
    q, n, p = (
        tl.arange(0, Q),
        tl.arange(0, BLOCK_N),
        tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P),
    )
    # States lie in memory as [P, N] in the interface and as [N, P] in `ends`.
    held, real = bh.to(tl.int64) * (N * P), (n < N)[:, None] & (p < P)[None, :]
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
    rate, skip = tl.load(A + bh % H).to(tl.float32) * LOG2E, tl.load(D + bh % H).to(tl.float32)
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
def _gradients(
    x, dt, A, B, C, D, dy, states, adjoints, dx, ddt, dA, dB, dC, dD, T, H, per_group, n_chunks,
    x_b, x_t, x_h, B_b, B_t, B_g, C_b, C_t, C_g, dt_b, dt_t, dt_h, y_b, y_t, y_h,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """All gradients of one chunk of one head, from the state before it and the gradient of the
    state after it (`adjoints`).

    dx [b, T, H, P], ddt [b, T, H], dB and dC [b, T, H, N] (per head), dA and dD [bh, chunks].
    """
    chunk, bh = tl.program_id(0) % n_chunks, tl.program_id(0) // n_chunks
    q, n = tl.arange(0, Q), tl.arange(0, BLOCK_N)
    first = chunk * Q
    a = tl.load(A + bh % H).to(tl.float32)
    step, log, total = _decays(dt, a * LOG2E, first, q, bh, T, H, dt_b, dt_t, dt_h)
    decay = tl.exp2(tl.where(q[:, None] >= q[None, :], log[:, None] - log[None, :], float("-inf")))
    since_start, to_end = tl.exp2(log), tl.exp2(total - log)
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


@triton.jit
def advance(state, at, there, x, dt, A, B, C):
    """One step of the recurrence on the tile [p, n] at `at`, stored back where it lies; x [p], B
    and C [n] -> y [p] without D."""
    held = tl.load(state + at, mask=there, other=0.0).to(tl.float32)
    held = held * tl.exp(dt * A) + (dt * x)[:, None] * B[None, :]
    tl.store(state + at, held.to(state.dtype.element_ty), mask=there)
    return tl.sum(held * C[None, :], 1)


@triton.jit
def _step(
    x, dt, A, B, C, D, state, y, H, per_group, x_b, x_h, dt_b, dt_h, B_b, B_g, C_b, C_g, s_b, s_h, s_p,
    P: tl.constexpr, N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    bh = tl.program_id(0)
    batch, head = (bh // H).to(tl.int64), (bh % H).to(tl.int64)
    p, n = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_N)
    x_p = tl.load(x + batch * x_b + head * x_h + p, mask=p < P, other=0.0).to(tl.float32)
    step = tl.load(dt + batch * dt_b + head * dt_h).to(tl.float32)
    B_n = tl.load(B + batch * B_b + head // per_group * B_g + n, mask=n < N, other=0.0).to(
        tl.float32
    )
    C_n = tl.load(C + batch * C_b + head // per_group * C_g + n, mask=n < N, other=0.0).to(
        tl.float32
    )
    at, there = (
        batch * s_b + head * s_h + p[:, None] * s_p + n[None, :],
        (p < P)[:, None] & (n < N)[None, :],
    )
    out = advance(state, at, there, x_p, step, tl.load(A + head).to(tl.float32), B_n, C_n)
    out += tl.load(D + head).to(tl.float32) * x_p
    tl.store(y + bh.to(tl.int64) * P + p, out.to(y.dtype.element_ty), mask=p < P)


def ssd_limit(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, *_: Any) -> str | None:
    """Why these arguments are too much for the kernels, if so."""
    widest = max(x.shape[-1], B.shape[-1])
    return (
        f"a head or state {widest} wide, and {WIDEST} is the most that a program can hold"
        if widest > WIDEST
        else None
    )


def ssd_step_limit(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> str | None:
    """Why these arguments are not for the kernel, if so."""
    return (
        None
        if state.stride(-1) == 1 or state.shape[-1] == 1
        else "a state whose last axis has gaps"
    )


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    chunk_size: int,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `kernels.ssd`."""
    x, B, C = rows(x), rows(B), rows(C)
    if torch.is_grad_enabled() and any(
        v is not None and v.requires_grad for v in (x, dt, A, B, C, D, state)
    ):
        out: tuple[Tensor, Tensor] = _Ssd.apply(x, dt, A, B, C, D, chunk_size, state)
        return out
    return _forward(x, dt, A, B, C, D, chunk_size, state)


def _longest_chunk(half: bool, n: int, backward: bool) -> int:
    """Tokens of a chunk at which a program's tiles stay in registers, for a state n wide and
    operands of 2 bytes (`half`) or 4.

    Found by compiling for sm_90 with Triton 3.6 (tests/kernels/compile_for_h100.py prints what each
    kernel spills); no time was measured."""
    if half:
        return TILE // 2 if backward and n > 128 else TILE
    return TILE // 4 if backward or n > 64 else TILE // 2


class _Tiles:
    """Sizes of a problem, its tiles, and the arguments that every kernel takes in the same
    order."""

    def __init__(
        self, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, chunk_size: int, backward: bool = False
    ) -> None:
        self.b, self.t, self.h, self.p = x.shape
        self.g, self.n = B.shape[2:]
        half = x.element_size() == 2
        self.q = block(
            self.t, most=max(16, min(_longest_chunk(half, self.n, backward), chunk_size))
        )
        self.n_chunks = triton.cdiv(self.t, self.q)
        block_n = block(self.n)
        self.piece = block_n if half else min(block_n, 32)
        self.walk_warps, self.stages = (4, 2) if half else (8, 1)
        self.block_p = block(self.p, most=64 if half and (backward or block_n <= 128) else 32)
        self.p_blocks = triton.cdiv(self.p, self.block_p)
        self.widths = {
            "P": self.p,
            "N": self.n,
            "Q": self.q,
            "BLOCK_P": self.block_p,
            "BLOCK_N": block_n,
        }
        self.counts = self.t, self.h, self.h // self.g
        self.strides = *x.stride()[:3], *B.stride()[:3], *C.stride()[:3], *dt.stride()

    def segments(self, device: torch.device) -> int:
        """How many pieces keep every processor busy with two programs, none of them shorter than a
        first walk is worth."""
        idle = 2 * processors(device) // (self.b * self.h * self.p_blocks)
        return max(1, min(idle, SEGMENTS, self.n_chunks // SEGMENT_CHUNKS))


def _forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    chunk_size: int,
    state: Tensor | None,
    segments: int | None = None,
) -> tuple[Tensor, Tensor]:
    """y and the state after it; `segments` replaces the number that the problem's size gives."""
    s = _Tiles(x, dt, B, C, chunk_size)
    each = triton.cdiv(s.n_chunks, segments or s.segments(x.device))
    segments = triton.cdiv(s.n_chunks, each)
    ends = decays = x
    if segments > 1:  # the last one's end is found by the fused walk
        ends, decays = _walked(B, x, dt, A, None, s, segments - 1, each)
    state = None if state is None else state.contiguous()
    y, after = x.new_empty(x.shape), x.new_empty(s.b, s.h, s.p, s.n, dtype=torch.float32)
    _scan[s.b * s.h, segments, s.p_blocks](
        x, dt, A, B, C, D, x if state is None else state, ends, decays, y, after, *s.counts, s.n_chunks, each, segments - 1,
        *s.strides, *y.stride()[:3], **s.widths, PIECE=s.piece, STARTED=state is not None, CUT=segments > 1,
        num_warps=8, num_stages=s.stages,
    )  # fmt: skip
    return y, after


def _walked(
    keys: Tensor, values: Tensor, dt: Tensor, A: Tensor, start: Tensor | None, s: _Tiles, segments: int, each: int,
    states: Tensor | None = None, backward: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Ends [b, H, segments, N, P] and log decays [b, H, segments] of the walks over the first
    `segments` pieces of `each` chunks."""
    ends = values.new_empty(s.b, s.h, segments, s.n, s.p, dtype=torch.float32)
    decays = values.new_empty(s.b, s.h, segments, dtype=torch.float32)
    _walk[s.b * s.h, segments, s.p_blocks](
        keys, values, dt, A, ends if start is None else start, ends, decays, ends if states is None else states,
        *s.counts, s.n_chunks, each, *keys.stride()[:3], *values.stride()[:3], *dt.stride(), **s.widths,
        BACKWARD=backward, STARTED=start is not None, STORE=states is not None, num_warps=s.walk_warps, num_stages=s.stages,
    )  # fmt: skip
    return ends, decays


class _Ssd(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        chunk_size: int,
        state: Tensor | None,
    ) -> Any:
        ctx.save_for_backward(x, dt, A, B, C, D, state)
        ctx.chunk_size = chunk_size
        return _forward(x, dt, A, B, C, D, chunk_size, state)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, d_after: Tensor) -> Any:
        x, dt, A, B, C, D, state = ctx.saved_tensors
        dy, d_after = dy.contiguous(), d_after.contiguous()
        s = _Tiles(x, dt, B, C, ctx.chunk_size, backward=True)
        # As operands of products they would be rounded to bfloat16 anyway; float16 has not the
        # range.
        kept = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
        states, adjoints = (
            x.new_empty(s.b, s.h, s.n_chunks, s.n, s.p, dtype=kept) for _ in range(2)
        )
        _walked(
            B, x, dt, A, None if state is None else state.contiguous(), s, 1, s.n_chunks, states
        )
        d_state, _ = _walked(C, dy, dt, A, d_after, s, 1, s.n_chunks, adjoints, backward=True)
        dx, ddt = torch.empty_like(dy), x.new_empty(dt.shape, dtype=torch.float32)
        dB, dC = (x.new_empty(s.b, s.t, s.h, s.n, dtype=torch.float32) for _ in range(2))
        dA, dD = (x.new_empty(s.b, s.h, s.n_chunks, dtype=torch.float32) for _ in range(2))
        _gradients[(s.n_chunks * s.b * s.h,)](
            x, dt, A, B, C, D, dy, states, adjoints, dx, ddt, dA, dB, dC, dD, *s.counts, s.n_chunks, *s.strides, *dy.stride()[:3],
            **s.widths, num_warps=8, num_stages=1,
        )  # fmt: skip
        dB, dC = (v.unflatten(2, (s.g, s.h // s.g)).sum(3).to(B.dtype) for v in (dB, dC))
        d_start = None if state is None else d_state[:, :, 0].transpose(-1, -2).to(state.dtype)
        return (
            dx,
            ddt.to(dt.dtype),
            dA.sum((0, 2)).to(A.dtype),
            dB,
            dC,
            dD.sum((0, 2)).to(D.dtype),
            None,
            d_start,
        )


def ssd_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> Tensor:
    """See `kernels.ssd_step`."""
    x, B, C = rows(x), rows(B), rows(C)
    (b, _, h, p), (g, n) = x.shape, B.shape[2:]
    y = x.new_empty(x.shape)
    block_p = block(p, least=4, most=32)
    _step[b * h, triton.cdiv(p, block_p)](
        x, dt, A, B, C, D, state, y, h, h // g, x.stride(0), x.stride(2), dt.stride(0), dt.stride(2), B.stride(0), B.stride(2),
        C.stride(0), C.stride(2), *state.stride()[:3], P=p, N=n, BLOCK_P=block_p, BLOCK_N=block(n), num_warps=4,
    )  # fmt: skip
    return y
