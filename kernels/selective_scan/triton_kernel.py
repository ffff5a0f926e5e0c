"""The selective scan token by token, with the state [channels, N] in registers.

A program owns a block of channels. To keep a GPU busy even with few sequences, each sequence is cut
into segments. A first kernel walks each segment from an empty state and keeps its end state. Then
all segments are scanned in parallel, from the states that these ends add up to.

Backward: the forward pass keeps the state before every PIECE of tokens. A program goes through the
pieces from the last to the first. It walks each piece forward again, storing the states in its own
buffer, and then backward. All channels share B and C. Their gradients are summed over the blocks of
channels at the end, so that they are the same in every run.

The programs are in triton_scan.py and triton_gradients.py.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from kernels.selective_scan.triton_gradients import gradients
from kernels.selective_scan.triton_scan import scan, segment_ends, step
from kernels.tiles import block, processors, rows, too_many

CHANNELS = 32  # of a block: one warp
PIECE = 64  # tokens
BUSY = 16  # warps needed to hide a processor's latency
SEGMENT = 256  # the fewest tokens that are worth a segment


def selective_scan_limit(x: Tensor, *_: Any) -> str | None:
    """Why the kernels do not support these arguments, or None if they do."""
    return too_many("sequences", x.shape[0])


def selective_scan_step_limit(
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
    return selective_scan_limit(x)


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor | None,
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
    """The number of blocks of channels, and the sizes of a block."""
    e, n = A.shape
    block_n = block(n, least=1)
    fitting = 512 // block_n  # a warp holds 512 elements of states
    block_e = block(e, least=1, most=max(4, min(CHANNELS, fitting)))
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
    """y, the state after it and, with `keep`, the states before every PIECE of tokens.

    `segments` overrides the number that follows from the problem's size.
    """
    b, t, e = x.shape
    n = A.shape[1]
    blocks, sizes = _sizes(A)
    length = triton.cdiv(t, segments or _segments(x, blocks))
    segments = triton.cdiv(t, length)
    strides = (*x.stride()[:2], *dt.stride()[:2], *B.stride()[:2])
    y = x.new_empty(b, t, e)
    after = x.new_empty(b, e, n, dtype=torch.float32)
    n_pieces = triton.cdiv(t, PIECE)
    # A kernel needs a pointer for every argument; `after` replaces missing ones.
    ends = after
    elapsed = after
    if segments > 1:
        ends = x.new_empty(b, segments - 1, e, n, dtype=torch.float32)
        elapsed = x.new_empty(b, segments - 1, e, dtype=torch.float32)
        segment_ends[blocks, segments - 1, b](
            x, dt, A, B, ends, elapsed,
            t, e, length,
            *strides,
            **sizes,
        )  # fmt: skip
    states = x.new_empty(b, n_pieces, e, n, dtype=torch.float32) if keep else after
    start = after if state is None else state
    scan[blocks, segments, b](
        x, dt, A, B, C, D,
        start, ends, elapsed,
        y, after, states,
        t, e, length, n_pieces,
        *strides, *C.stride()[:2],
        **sizes,
        PIECE=PIECE,
        STARTED=state is not None,
        CUT=segments > 1,
        STORE=keep,
    )  # fmt: skip
    return y, after, states


def _segments(x: Tensor, blocks: int) -> int:
    """How many segments to cut a sequence into: enough to keep every processor busy.

    But no segment is too short to pay off.
    """
    b, t, _ = x.shape
    idle = BUSY * processors(x.device) // (b * blocks)
    return max(1, min(idle, t // SEGMENT))


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
        dC = torch.empty_like(dB)
        dA = x.new_empty(b, e, n, dtype=torch.float32)
        d_start = torch.empty_like(dA)
        dD = x.new_empty(b, e, dtype=torch.float32)
        tile = (sizes["BLOCK_E"], sizes["BLOCK_N"])
        buffer = x.new_empty(b, blocks, PIECE, *tile, dtype=torch.float32)
        gradients[blocks, b](
            x, dt, A, B, C, D,
            dy.contiguous(), d_after.contiguous(), states, buffer,
            dx, ddt, dA, dB, dC, dD, d_start,
            t, e, states.shape[1],
            *x.stride()[:2],
            *dt.stride()[:2],
            *B.stride()[:2],
            *C.stride()[:2],
            **sizes,
            PIECE=PIECE,
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
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> Tensor:
    """See `kernels.selective_scan_step`."""
    x = rows(x)
    dt = rows(dt)
    B = rows(B)
    C = rows(C)
    y = x.new_empty(x.shape)
    blocks, sizes = _sizes(A)
    step[blocks, x.shape[0]](
        x, dt, A.contiguous(), B, C, D, state, y,
        x.shape[2],
        *x.stride()[:2],
        *dt.stride()[:2],
        *B.stride()[:2],
        C.stride(0),
        *state.stride()[:2],
        **sizes,
    )  # fmt: skip
    return y
