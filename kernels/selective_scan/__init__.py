"""Mamba-1's selective scan, and its single step (arXiv 2312.00752)."""

import torch
from torch import Tensor

from kernels import dispatch
from kernels.counting import counted
from kernels.selective_scan import eager
from kernels.shapes import in_words


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T;  y_t = h_t C_t + D x_t, per channel.

    x [b, T, E]; dt [b, T, E], positive, float32; A [E, N], negative; B, C [b, T, N]; D [E]; state
    [b, E, N] float32 (zeros unless given) -> (y [b, T, E] in x's dtype, state after x, float32).
    Raises ValueError if the shapes do not fit.
    """
    _check(x, dt, A, B, C, D, state)
    y, after = dispatch.run(
        "selective_scan",
        _selective_scan,
        x,
        dt,
        A,
        B,
        C,
        D,
        state,
    )
    return y, after


def selective_scan_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> Tensor:
    """One step of `selective_scan` (T = 1, axis kept): y [b, 1, E]; `state` is updated in place."""
    _check(x, dt, A, B, C, D, state)
    y: Tensor = dispatch.run(
        "selective_scan_step",
        _selective_scan_step,
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
    b, t, e = x.shape
    n = B.shape[-1]
    fits = (
        dt.shape == x.shape
        and A.shape == (e, n)
        and B.shape == C.shape == (b, t, n)
        and D.shape == (e,)
    )
    if state is not None:
        fits = fits and state.shape == (b, e, n)
    if not fits:
        shapes = in_words(x=x, dt=dt, A=A, B=B, C=C, D=D, state=state)
        raise ValueError(f"selective_scan: {shapes} do not fit together")


@torch.library.custom_op("hybrid::selective_scan", mutates_args=())
def _selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return eager.selective_scan(x, dt, A, B, C, D, state)


@_selective_scan.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    after = x.new_empty(x.shape[0], *A.shape, dtype=torch.float32)
    return torch.empty_like(x), after


@torch.library.custom_op("hybrid::selective_scan_step", mutates_args=("state",))
def _selective_scan_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> Tensor:
    return eager.selective_scan_step(x, dt, A, B, C, D, state)


@_selective_scan_step.register_fake
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


def _flops(x, dt, A, B, C, D, state):  # type: ignore[no-untyped-def]
    """Per token and state element: x dt B (1), decay and add (2), product with C and sum (2)."""
    return 5 * x[0] * x[1] * A[0] * A[1]


counted(_selective_scan, _flops)
counted(_selective_scan_step, _flops)
