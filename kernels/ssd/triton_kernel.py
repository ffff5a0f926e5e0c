"""The SSD scan as one fused walk over the chunks of a sequence, its backward pass, and its step.

A program owns one head of one sequence and a block of its P channels. It walks chunk by chunk with
the state [N, P block] in registers: first the scores C B^T within the chunk, then the outputs from
them and from the state, then the state after the chunk. Along the way it writes nothing but y.

With few sequences and heads, this would leave most of a GPU idle. So the sequence is then cut into
segments. A first kernel walks each segment from an empty state and keeps only its end state. Then
the fused walks start, in parallel, from the states that these ends add up to. A walk's chunk is a
tile that suits the tensor cores, of at most `chunk_size` tokens; the result does not depend on it.

Backward: one walk forward stores the state before every chunk. The same walk goes backward over C
and dy to get the gradient of the state after every chunk. Then all chunks run in parallel.
Gradients of B and C are first written per head and then summed over the heads of a group, so that
they are the same in every run. Decays are float32 powers of two, states and sums are float32, and
operands of matrix products have the dtype of x.

The programs of the scan are in triton_scan.py and triton_gradients.py.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.ssd.triton_gradients import gradients
from kernels.ssd.triton_scan import scan, walk
from kernels.tiles import batch_and_head, block, both, load, processors, rows, store

TILE = 64  # tokens of a chunk
WIDEST = 256  # P and N
SEGMENTS = 16  # at most, of at least SEGMENT_CHUNKS chunks
SEGMENT_CHUNKS = 8


@triton.jit
def advance(state, at, there, x, dt, A, B, C):
    """One step of the recurrence on the tile [p, n] of `state`, which is updated in place.

    x [p]; B, C [n] -> y [p] without D.
    """
    held = load(state + at, there)
    held = held * tl.exp(dt * A) + (dt * x)[:, None] * B[None, :]
    store(state + at, held, there)
    return tl.sum(held * C[None, :], 1)


@triton.jit
def _step(
    x, dt, A, B, C, D, state, y,
    H, per_group,
    x_b, x_h,
    dt_b, dt_h,
    B_b, B_g,
    C_b, C_g,
    s_b, s_h, s_p,
    P: tl.constexpr,
    N: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One token through one head, a block of P channels."""
    bh = tl.program_id(0)
    batch, head = batch_and_head(bh, H)
    group = head // per_group
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    x_p = load(x + batch * x_b + head * x_h + p, p < P)
    step = tl.load(dt + batch * dt_b + head * dt_h).to(tl.float32)
    B_n = load(B + batch * B_b + group * B_g + n, n < N)
    C_n = load(C + batch * C_b + group * C_g + n, n < N)
    at = batch * s_b + head * s_h + p[:, None] * s_p + n[None, :]
    there = both(p < P, n < N)
    rate = tl.load(A + head).to(tl.float32)
    out = advance(state, at, there, x_p, step, rate, B_n, C_n)
    out += tl.load(D + head).to(tl.float32) * x_p
    store(y + bh.to(tl.int64) * P + p, out, p < P)


def ssd_limit(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    *_: Any,
) -> str | None:
    """Why the kernels do not support these arguments, or None if they do."""
    widest = max(x.shape[-1], B.shape[-1])
    if widest <= WIDEST:
        return None
    return f"a head or state {widest} wide, and a program can hold at most {WIDEST}"


def ssd_step_limit(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> str | None:
    """Why the kernel does not support these arguments, or None if it does."""
    if state.stride(-1) != 1 and state.shape[-1] != 1:
        return "a state whose last axis is not contiguous"
    return None


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
    x = rows(x)
    B = rows(B)
    C = rows(C)
    inputs = (x, dt, A, B, C, D, state)
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in inputs):
        out: tuple[Tensor, Tensor] = _Ssd.apply(
            x,
            dt,
            A,
            B,
            C,
            D,
            chunk_size,
            state,
        )
        return out
    return _forward(x, dt, A, B, C, D, chunk_size, state)


def _longest_chunk(half: bool, n: int, backward: bool) -> int:
    """Tokens per chunk at which a program's tiles stay in registers.

    This is for a state n wide, and operands of 2 bytes (`half`) or 4. Found by compiling for sm_90
    with Triton 3.6 (tests/kernels/compile_for_h100.py prints what each kernel spills), without
    measuring speed.
    """
    if half and backward and n > 128:
        return TILE // 2
    if half:
        return TILE
    if backward or n > 64:
        return TILE // 4
    return TILE // 2


class _Tiles:
    """The sizes of a problem, its tiles, and the arguments of every kernel, in this order."""

    def __init__(
        self,
        x: Tensor,
        dt: Tensor,
        B: Tensor,
        C: Tensor,
        chunk_size: int,
        backward: bool = False,
    ) -> None:
        self.b, self.t, self.h, self.p = x.shape
        self.g, self.n = B.shape[2:]
        half = x.element_size() == 2
        longest = min(_longest_chunk(half, self.n, backward), chunk_size)
        self.q = block(self.t, most=max(16, longest))
        self.n_chunks = triton.cdiv(self.t, self.q)
        block_n = block(self.n)
        self.piece = block_n if half else min(block_n, 32)
        self.walk_warps = 4 if half else 8
        self.stages = 2 if half else 1
        wide = half and (backward or block_n <= 128)
        self.block_p = block(self.p, most=64 if wide else 32)
        self.p_blocks = triton.cdiv(self.p, self.block_p)
        self.widths = {
            "P": self.p,
            "N": self.n,
            "Q": self.q,
            "BLOCK_P": self.block_p,
            "BLOCK_N": block_n,
        }
        self.counts = (self.t, self.h, self.h // self.g)
        self.strides = (
            *x.stride()[:3],
            *B.stride()[:3],
            *C.stride()[:3],
            *dt.stride(),
        )

    def segments(self, device: torch.device) -> int:
        """How many segments to cut the sequence into.

        Enough to give every processor two programs, but no segment is too short to pay off.
        """
        idle = 2 * processors(device) // (self.b * self.h * self.p_blocks)
        return max(1, min(idle, SEGMENTS, self.n_chunks // SEGMENT_CHUNKS))

    def chunk_states(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Memory for one state per chunk, [b, H, chunks, N, P]."""
        shape = (self.b, self.h, self.n_chunks, self.n, self.p)
        return like.new_empty(shape, dtype=dtype)

    def over_groups(self, per_head: Tensor) -> Tensor:
        """The sums of [b, T, H, N] over the heads of each group: [b, T, G, N]."""
        return per_head.unflatten(2, (self.g, self.h // self.g)).sum(3)


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
    """y and the state after it.

    `segments` overrides the number that follows from the problem's size.
    """
    s = _Tiles(x, dt, B, C, chunk_size)
    each = triton.cdiv(s.n_chunks, segments or s.segments(x.device))
    segments = triton.cdiv(s.n_chunks, each)
    # A kernel needs a pointer for every argument; x replaces missing ones.
    ends = x
    decays = x
    if segments > 1:  # the fused walk finds the end of the last segment
        ends, decays = _walked(B, x, dt, A, None, s, segments - 1, each)
    start = x if state is None else state.contiguous()
    y = x.new_empty(x.shape)
    after = x.new_empty(s.b, s.h, s.p, s.n, dtype=torch.float32)
    scan[s.b * s.h, segments, s.p_blocks](
        x, dt, A, B, C, D,
        start, ends, decays, y, after,
        *s.counts, s.n_chunks, each, segments - 1,
        *s.strides, *y.stride()[:3],
        **s.widths,
        PIECE=s.piece,
        STARTED=state is not None,
        CUT=segments > 1,
        num_warps=8,
        num_stages=s.stages,
    )  # fmt: skip
    return y, after


def _walked(
    keys: Tensor,
    values: Tensor,
    dt: Tensor,
    A: Tensor,
    start: Tensor | None,
    s: _Tiles,
    segments: int,
    each: int,
    states: Tensor | None = None,
    backward: bool = False,
) -> tuple[Tensor, Tensor]:
    """Ends and log decays of the walks over the first `segments` segments of `each` chunks.

    The ends are [b, H, segments, N, P], the log decays [b, H, segments]. The state before each
    chunk is written to `states`, if given.
    """
    shape = (s.b, s.h, segments, s.n, s.p)
    ends = values.new_empty(shape, dtype=torch.float32)
    decays = values.new_empty(s.b, s.h, segments, dtype=torch.float32)
    # A kernel needs a pointer for every argument; `ends` replaces missing ones.
    opening = ends if start is None else start
    stored = ends if states is None else states
    walk[s.b * s.h, segments, s.p_blocks](
        keys, values, dt, A,
        opening, ends, decays, stored,
        *s.counts, s.n_chunks, each,
        *keys.stride()[:3],
        *values.stride()[:3],
        *dt.stride(),
        **s.widths,
        BACKWARD=backward,
        STARTED=start is not None,
        STORE=states is not None,
        num_warps=s.walk_warps,
        num_stages=s.stages,
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
        dy = dy.contiguous()
        s = _Tiles(x, dt, B, C, ctx.chunk_size, backward=True)
        # As operands of matrix products, these would be rounded to bfloat16 anyway. float16 lacks
        # the range.
        kept = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
        states = s.chunk_states(x, kept)
        adjoints = s.chunk_states(x, kept)
        start = None if state is None else state.contiguous()
        after = d_after.contiguous()
        _walked(B, x, dt, A, start, s, 1, s.n_chunks, states)
        d_state, _ = _walked(C, dy, dt, A, after, s, 1, s.n_chunks, adjoints, backward=True)
        d_start = None
        if state is not None:
            d_start = d_state[:, :, 0].transpose(-1, -2).to(state.dtype)
        grads = _gradients((x, dt, A, B, C, D), dy, states, adjoints, s)
        return *grads, None, d_start


def _gradients(
    inputs: tuple[Tensor, ...], dy: Tensor, states: Tensor, adjoints: Tensor, s: _Tiles
) -> tuple[Tensor, ...]:
    """The gradients of x, dt, A, B, C and D, for all chunks in parallel.

    `states` are the states before each chunk, `adjoints` the gradients of the states after it.
    """
    x, dt, A, B, C, D = inputs
    dx = torch.empty_like(dy)
    # Float32 partial sums: per head for B and C, per chunk for A and D.
    ddt = x.new_empty(dt.shape, dtype=torch.float32)
    dB = x.new_empty(s.b, s.t, s.h, s.n, dtype=torch.float32)
    dC = torch.empty_like(dB)
    dA = x.new_empty(s.b, s.h, s.n_chunks, dtype=torch.float32)
    dD = torch.empty_like(dA)
    gradients[(s.n_chunks * s.b * s.h,)](
        x, dt, A, B, C, D,
        dy, states, adjoints,
        dx, ddt, dA, dB, dC, dD,
        *s.counts, s.n_chunks,
        *s.strides, *dy.stride()[:3],
        **s.widths,
        num_warps=8,
        num_stages=1,
    )  # fmt: skip
    return (
        dx,
        ddt.to(dt.dtype),
        dA.sum((0, 2)).to(A.dtype),
        s.over_groups(dB).to(B.dtype),
        s.over_groups(dC).to(B.dtype),
        dD.sum((0, 2)).to(D.dtype),
    )


def ssd_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> Tensor:
    """See `kernels.ssd_step`."""
    x = rows(x)
    B = rows(B)
    C = rows(C)
    b, _, h, p = x.shape
    g, n = B.shape[2:]
    y = x.new_empty(x.shape)
    block_p = block(p, least=4, most=32)
    _step[b * h, triton.cdiv(p, block_p)](
        x, dt, A, B, C, D, state, y,
        h, h // g,
        x.stride(0), x.stride(2),
        dt.stride(0), dt.stride(2),
        B.stride(0), B.stride(2),
        C.stride(0), C.stride(2),
        *state.stride()[:3],
        P=p,
        N=n,
        BLOCK_P=block_p,
        BLOCK_N=block(n),
        num_warps=4,
    )  # fmt: skip
    return y
