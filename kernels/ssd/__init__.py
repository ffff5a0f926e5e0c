"""Mamba-2's state space dual (SSD) scan, and its single step (arXiv 2405.21060)."""

import torch
from torch import Tensor

from kernels import dispatch
from kernels.counting import counted
from kernels.shapes import in_words
from kernels.ssd import eager


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    chunk_size: int,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T;  y_t = h_t C_t + D x_t, per head.

    x [b, T, H, P]; dt [b, T, H], positive, float32; A [H], negative; B, C [b, T, G, N] with G
    dividing H; D [H]; state [b, H, P, N] float32 (zeros unless given) -> (y [b, T, H, P] in x's
    dtype, state after x, float32). Raises ValueError for a chunk_size that is not a power of two,
    or if the shapes do not fit.
    """
    _check(x, dt, A, B, C, D, state)
    if chunk_size < 1 or chunk_size & (chunk_size - 1):
        raise ValueError(f"ssd: chunk_size {chunk_size} - must be a power of two")
    y, after = dispatch.run(
        "ssd",
        _ssd,
        x,
        dt,
        A,
        B,
        C,
        D,
        chunk_size,
        state,
    )
    return y, after


def ssd_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> Tensor:
    """One step of `ssd` (T = 1, axis kept); `state` is updated in place. Returns y [b, 1, H, P]."""
    _check(x, dt, A, B, C, D, state)
    y: Tensor = dispatch.run(
        "ssd_step",
        _ssd_step,
        x,
        dt,
        A,
        B,
        C,
        D,
        state,
    )
    return y


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor | None,
) -> None:
    b, t, h, p = x.shape
    g, n = B.shape[2:]
    fits = (
        dt.shape == (b, t, h)
        and A.shape == D.shape == (h,)
        and B.shape == C.shape == (b, t, g, n)
        and h % g == 0
    )
    if state is not None:
        fits = fits and state.shape == (b, h, p, n)
    if not fits:
        shapes = in_words(x=x, dt=dt, A=A, B=B, C=C, D=D, state=state)
        raise ValueError(f"ssd: {shapes} do not fit together")


@torch.library.custom_op("hybrid::ssd", mutates_args=())
def _ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    chunk_size: int,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return eager.ssd(x, dt, A, B, C, D, chunk_size, state)


@_ssd.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    chunk_size: int,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    b, _, h, p = x.shape
    after = x.new_empty(b, h, p, B.shape[-1], dtype=torch.float32)
    return torch.empty_like(x), after


@torch.library.custom_op("hybrid::ssd_step", mutates_args=("state",))
def _ssd_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> Tensor:
    return eager.ssd_step(x, dt, A, B, C, D, state)


@_ssd_step.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> Tensor:
    return torch.empty_like(x)


def _ssd_flops(x, dt, A, B, C, D, chunk_size, state):  # type: ignore[no-untyped-def]
    """The matrix products of the chunked form, chunk by chunk.

    Carrying the state to the next chunk is one multiply-add per element.
    """
    b, t, h, p = x
    g, n = B[2:]
    total = 0
    for start in range(0, t, chunk_size):
        length = min(chunk_size, t - start)
        scores = g * 2 * length * length * n
        within = h * 2 * length * length * p
        state_in = h * 2 * length * n * p
        state_out = h * 2 * length * n * p
        carry = h * 2 * n * p
        total += scores + within + state_in + state_out + carry
    return b * total


counted(_ssd, _ssd_flops)


def _ssd_step_flops(x, dt, A, B, C, D, state):  # type: ignore[no-untyped-def]
    """Per state element: x dt B (1), decay and add (2), product with C and sum (2)."""
    b, h, p, n = state
    return 5 * b * h * p * n


counted(_ssd_step, _ssd_step_flops)
