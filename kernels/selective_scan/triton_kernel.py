"""The selective scan token by token, with the state [channels, N] in registers.

A program owns a block of channels. To keep a GPU busy with few sequences, too, the sequence is cut
into segments. A first kernel walks each segment from an empty state and keeps its end. Then all
segments are scanned at once, from the states that these ends add up to.

Backward: the forward pass keeps the state before every PIECE of tokens. A program goes through the
pieces from the last to the first. It walks a piece forward again, storing the states in a buffer of
its own, and then backward. All channels share B and C. Their gradients are summed over the blocks
of channels at the end, so that they are the same in every run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.tiles import block, processors, rows, too_many

CHANNELS = 32  # of a block: one warp
PIECE = 64  # tokens
BUSY = 16  # warps that hide a processor's latency
SEGMENT = 256  # tokens that are worth a segment of their own, at least


@triton.jit
def _token(x, dt, B, i, e, n, batch, E, x_b, x_t, dt_b, dt_t, B_b, B_t, N: tl.constexpr):
    """x and dt [e], B [n] of token i."""
    at = tl.cast(i, tl.int64)
    x_e = tl.load(x + batch * x_b + at * x_t + e, mask=e < E, other=0.0).to(tl.float32)
    dt_e = tl.load(dt + batch * dt_b + at * dt_t + e, mask=e < E, other=0.0).to(tl.float32)
    return x_e, dt_e, tl.load(B + batch * B_b + at * B_t + n, mask=n < N, other=0.0).to(tl.float32)


@triton.jit
def _ends(
    x, dt, A, B, ends, elapsed, T, E, length, x_b, x_t, dt_b, dt_t, B_b, B_t,
    N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Where segments of `length` tokens end that start from nothing, ends [b, segments, E, N]; and
    their sums of dt, [b, segments, E]."""
    segment = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    cell = e[:, None] * N + n[None, :]
    real = (e < E)[:, None] & (n < N)[None, :]
    rate = tl.load(A + cell, mask=real, other=0.0).to(tl.float32)
    state = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
    total = tl.zeros([BLOCK_E], tl.float32)
    for i in range(segment * length, tl.minimum((segment + 1) * length, T)):
        x_e, dt_e, B_n = _token(x, dt, B, i, e, n, batch, E, x_b, x_t, dt_b, dt_t, B_b, B_t, N)
        state = state * tl.exp(dt_e[:, None] * rate) + (dt_e * x_e)[:, None] * B_n[None, :]
        total += dt_e
    row = batch * tl.num_programs(1) + segment
    tl.store(ends + row * E * N + cell, state, mask=real)
    tl.store(elapsed + row * E + e, total, mask=e < E)


@triton.jit
def _scan(
    x, dt, A, B, C, D, start, ends, elapsed, y, after, states, T, E, length, n_pieces, x_b, x_t,
    dt_b, dt_t, B_b, B_t, C_b, C_t,
    N: tl.constexpr, PIECE: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr,
    STARTED: tl.constexpr, CUT: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """One segment; the last writes the state after all tokens. STORE writes the state before every
    PIECE, [b, pieces, E, N]."""
    segment = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    cell = e[:, None] * N + n[None, :]
    real = (e < E)[:, None] & (n < N)[None, :]
    rate = tl.load(A + cell, mask=real, other=0.0).to(tl.float32)
    skip = tl.load(D + e, mask=e < E, other=0.0).to(tl.float32)
    state = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
    if STARTED:
        state += tl.load(start + batch * E * N + cell, mask=real, other=0.0).to(tl.float32)
    if CUT:
        for s in range(0, segment):
            row = batch * (tl.num_programs(1) - 1) + s
            passed = tl.load(elapsed + row * E + e, mask=e < E, other=0.0)
            state = state * tl.exp(passed[:, None] * rate) + tl.load(
                ends + row * E * N + cell, mask=real, other=0.0
            )
    for i in range(segment * length, tl.minimum((segment + 1) * length, T)):
        if STORE:
            tl.store(
                states + (batch * n_pieces + i // PIECE) * E * N + cell,
                state,
                mask=real & (i % PIECE == 0),
            )
        x_e, dt_e, B_n = _token(x, dt, B, i, e, n, batch, E, x_b, x_t, dt_b, dt_t, B_b, B_t, N)
        C_n = tl.load(C + batch * C_b + tl.cast(i, tl.int64) * C_t + n, mask=n < N, other=0.0).to(
            tl.float32
        )
        state = state * tl.exp(dt_e[:, None] * rate) + (dt_e * x_e)[:, None] * B_n[None, :]
        out = tl.sum(state * C_n[None, :], 1) + skip * x_e
        tl.store(y + (batch * T + i) * E + e, out.to(y.dtype.element_ty), mask=e < E)
    if segment == tl.num_programs(1) - 1:
        tl.store(after + batch * E * N + cell, state, mask=real)


@triton.jit
def _backward(
    x, dt, A, B, C, D, dy, d_after, states, buffer, dx, ddt, dA, dB, dC, dD, d_start, T, E,
    n_pieces,
    x_b, x_t, dt_b, dt_t, B_b, B_t, C_b, C_t,
    N: tl.constexpr, PIECE: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """All gradients of a block of channels. dA [b, E, N], dD [b, E]; dB and dC [blocks, b, T, N];
    buffer [b, blocks, PIECE, tile]."""
    batch = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    cell = e[:, None] * N + n[None, :]
    real = (e < E)[:, None] & (n < N)[None, :]
    tile = tl.arange(0, BLOCK_E)[:, None] * BLOCK_N + n[None, :]
    held = (
        buffer
        + (batch * tl.num_programs(0) + tl.program_id(0)) * (PIECE * BLOCK_E * BLOCK_N)
        + tile
    )
    rate = tl.load(A + cell, mask=real, other=0.0).to(tl.float32)
    skip = tl.load(D + e, mask=e < E, other=0.0).to(tl.float32)
    grad = tl.load(d_after + batch * E * N + cell, mask=real, other=0.0).to(tl.float32)
    d_rate = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
    d_skip = tl.zeros([BLOCK_E], tl.float32)
    for k in range(0, n_pieces):
        piece = n_pieces - 1 - k
        count = tl.minimum(PIECE, T - piece * PIECE)
        state = tl.load(states + (batch * n_pieces + piece) * E * N + cell, mask=real, other=0.0)
        for i in range(0, count):
            tl.store(held + i * (BLOCK_E * BLOCK_N), state)
            x_e, dt_e, B_n = _token(
                x, dt, B, piece * PIECE + i, e, n, batch, E, x_b, x_t, dt_b, dt_t, B_b, B_t, N
            )
            state = state * tl.exp(dt_e[:, None] * rate) + (dt_e * x_e)[:, None] * B_n[None, :]
        tl.debug_barrier()  # what one thread wrote another may read
        for back in range(0, count):
            i = piece * PIECE + count - 1 - back
            x_e, dt_e, B_n = _token(x, dt, B, i, e, n, batch, E, x_b, x_t, dt_b, dt_t, B_b, B_t, N)
            C_n = tl.load(
                C + batch * C_b + tl.cast(i, tl.int64) * C_t + n, mask=n < N, other=0.0
            ).to(tl.float32)
            dy_e = tl.load(dy + (batch * T + i) * E + e, mask=e < E, other=0.0).to(tl.float32)
            decay = tl.exp(dt_e[:, None] * rate)
            before = tl.load(held + (count - 1 - back) * (BLOCK_E * BLOCK_N)) * decay
            state = before + (dt_e * x_e)[:, None] * B_n[None, :]
            grad += dy_e[:, None] * C_n[None, :]
            row = ((tl.program_id(0) * tl.num_programs(1) + batch) * T + i) * N + n
            tl.store(dC + row, tl.sum(dy_e[:, None] * state, 0), mask=n < N)
            tl.store(dB + row, tl.sum(grad * (dt_e * x_e)[:, None], 0), mask=n < N)
            inflow = tl.sum(grad * B_n[None, :], 1)
            at = (batch * T + i) * E + e
            tl.store(dx + at, (dt_e * inflow + skip * dy_e).to(dx.dtype.element_ty), mask=e < E)
            tl.store(ddt + at, x_e * inflow + tl.sum(grad * before * rate, 1), mask=e < E)
            d_rate += grad * before * dt_e[:, None]
            d_skip += dy_e * x_e
            grad *= decay
        tl.debug_barrier()  # and before the next piece is written over it
    tl.store(dA + batch * E * N + cell, d_rate, mask=real)
    tl.store(dD + batch * E + e, d_skip, mask=e < E)
    tl.store(d_start + batch * E * N + cell, grad, mask=real)


@triton.jit
def _step(
    x, dt, A, B, C, D, state, y, E, x_b, x_t, dt_b, dt_t, B_b, B_t, C_b, s_b, s_e,
    N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    real = (e < E)[:, None] & (n < N)[None, :]
    x_e, dt_e, B_n = _token(x, dt, B, 0, e, n, batch, E, x_b, x_t, dt_b, dt_t, B_b, B_t, N)
    C_n = tl.load(C + batch * C_b + n, mask=n < N, other=0.0).to(tl.float32)
    rate = tl.load(A + e[:, None] * N + n[None, :], mask=real, other=0.0).to(tl.float32)
    at = state + batch * s_b + e[:, None] * s_e + n[None, :]
    held = (
        tl.load(at, mask=real, other=0.0).to(tl.float32) * tl.exp(dt_e[:, None] * rate)
        + (dt_e * x_e)[:, None] * B_n[None, :]
    )
    tl.store(at, held.to(state.dtype.element_ty), mask=real)
    out = (
        tl.sum(held * C_n[None, :], 1) + tl.load(D + e, mask=e < E, other=0.0).to(tl.float32) * x_e
    )
    tl.store(y + batch * E + e, out.to(y.dtype.element_ty), mask=e < E)


def selective_scan_limit(x: Tensor, *_: Any) -> str | None:
    """Why these arguments are too much for the kernels, or None if they are not."""
    return too_many("sequences", x.shape[0])


def selective_scan_step_limit(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> str | None:
    """Why the kernel cannot take these arguments, or None if it can."""
    if state.stride(-1) != 1 and state.shape[-1] != 1:
        return "a state whose last axis has gaps"
    return selective_scan_limit(x)


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `kernels.selective_scan`."""
    x = rows(x)
    dt = rows(dt)
    B = rows(B)
    C = rows(C)
    A = A.contiguous()
    D = D.contiguous()
    state = None if state is None else state.contiguous()
    inputs = (x, dt, A, B, C, D, state)
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in inputs):
        out: tuple[Tensor, Tensor] = _SelectiveScan.apply(*inputs)
        return out
    y, after, _ = _forward(*inputs)
    return y, after


def _sizes(A: Tensor) -> tuple[int, dict[str, int]]:
    """Blocks of channels, and the sizes of one."""
    e, n = A.shape
    block_n = block(n, least=1)
    block_e = block(e, least=1, most=max(4, min(CHANNELS, 512 // block_n)))
    sizes = {
        "N": n,
        "BLOCK_E": block_e,
        "BLOCK_N": block_n,
        "num_warps": 1,
    }
    return triton.cdiv(e, block_e), sizes


def _forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor | None,
    segments: int | None = None,
    keep: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the state after it, and with `keep` the states before every PIECE of tokens.

    `segments` replaces the number that the problem's size gives.
    """
    b, t, e = x.shape
    n = A.shape[1]
    blocks, sizes = _sizes(A)
    if segments is None:
        idle = BUSY * processors(x.device) // (b * blocks)
        segments = max(1, min(idle, t // SEGMENT))
    length = triton.cdiv(t, segments)
    segments = triton.cdiv(t, length)
    strides = *x.stride()[:2], *dt.stride()[:2], *B.stride()[:2]
    y = x.new_empty(b, t, e)
    after = x.new_empty(b, e, n, dtype=torch.float32)
    n_pieces = triton.cdiv(t, PIECE)
    # A kernel takes a pointer in every place; `after` stands where there is nothing.
    ends = after
    elapsed = after
    if segments > 1:
        ends = x.new_empty(b, segments - 1, e, n, dtype=torch.float32)
        elapsed = x.new_empty(b, segments - 1, e, dtype=torch.float32)
        _ends[blocks, segments - 1, b](
            x, dt, A, B, ends, elapsed, t, e, length, *strides, **sizes,
        )  # fmt: skip
    states = x.new_empty(b, n_pieces, e, n, dtype=torch.float32) if keep else after
    start = after if state is None else state
    _scan[blocks, segments, b](
        x, dt, A, B, C, D, start, ends, elapsed, y, after, states, t, e, length, n_pieces,
        *strides, *C.stride()[:2], **sizes,
        PIECE=PIECE, STARTED=state is not None, CUT=segments > 1, STORE=keep,
    )  # fmt: skip
    return y, after, states


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        state: Tensor | None,
    ) -> Any:
        y, after, states = _forward(x, dt, A, B, C, D, state, keep=True)
        ctx.save_for_backward(x, dt, A, B, C, D, state, states)
        return y, after

    @staticmethod
    def backward(ctx: Any, dy: Tensor, d_after: Tensor) -> Any:
        x, dt, A, B, C, D, state, states = ctx.saved_tensors
        b, t, e = x.shape
        n = A.shape[1]
        blocks, sizes = _sizes(A)
        dx = x.new_empty(b, t, e)
        # Float32 sums: per block of channels for B and C, per sequence for A and D.
        ddt = x.new_empty(b, t, e, dtype=torch.float32)
        dB = x.new_empty(blocks, b, t, n, dtype=torch.float32)
        dC = x.new_empty(blocks, b, t, n, dtype=torch.float32)
        dA = x.new_empty(b, e, n, dtype=torch.float32)
        d_start = x.new_empty(b, e, n, dtype=torch.float32)
        dD = x.new_empty(b, e, dtype=torch.float32)
        tile = (sizes["BLOCK_E"], sizes["BLOCK_N"])
        buffer = x.new_empty(b, blocks, PIECE, *tile, dtype=torch.float32)
        _backward[blocks, b](
            x, dt, A, B, C, D, dy.contiguous(), d_after.contiguous(), states, buffer,
            dx, ddt, dA, dB, dC, dD, d_start, t, e, states.shape[1],
            *x.stride()[:2], *dt.stride()[:2], *B.stride()[:2], *C.stride()[:2],
            **sizes, PIECE=PIECE,
        )  # fmt: skip
        d_state = None if state is None else d_start.to(state.dtype)
        return (
            dx,
            ddt.to(dt.dtype),
            dA.sum(0).to(A.dtype),
            dB.sum(0).to(B.dtype),
            dC.sum(0).to(C.dtype),
            dD.sum(0).to(D.dtype),
            d_state,
        )


def selective_scan_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> Tensor:
    """See `kernels.selective_scan_step`."""
    x = rows(x)
    dt = rows(dt)
    B = rows(B)
    C = rows(C)
    y = x.new_empty(x.shape)
    blocks, sizes = _sizes(A)
    _step[blocks, x.shape[0]](
        x, dt, A.contiguous(), B, C, D, state, y, x.shape[2],
        *x.stride()[:2], *dt.stride()[:2], *B.stride()[:2], C.stride(0), *state.stride()[:2],
        **sizes,
    )  # fmt: skip
    return y
