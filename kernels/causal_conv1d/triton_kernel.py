"""The convolution with SiLU, its backward pass, and its step; each reads and writes once.

A program owns a block of channels and tokens. It also reads the W - 1 tokens before the block, from
x or, if they come before x, from the state. The backward pass recomputes the sums before the SiLU.
Gradients of weight and bias are summed over the blocks of tokens afterwards, so that they are the
same in every run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.tiles import block, both, load, rows, silu, silu_slope, store, too_many

TOKENS = 32  # of a block
CHANNELS = 128  # of a block
WIDEST = 16  # taps


@triton.jit
def _input(
    x, state, t, c, batch, T, C,
    x_b, x_t,
    W: tl.constexpr,
    CONTINUED: tl.constexpr,
):  # fmt: skip
    """Inputs [t, c] in float32, from x or from the state before it; zero if there is neither."""
    in_x = (t >= 0) & (t < T)
    at = x + batch * x_b + t.to(tl.int64)[:, None] * x_t + c[None, :]
    value = load(at, both(in_x, c < C))
    if CONTINUED:
        in_state = (t < 0) & (t > -W)
        at = state + batch * (W - 1) * C + (t + (W - 1))[:, None] * C + c[None, :]
        value += load(at, both(in_state, c < C))
    return value


@triton.jit
def _sums(
    x, weight, bias, state, t, c, batch, T, C,
    x_b, x_t,
    W: tl.constexpr,
    CONTINUED: tl.constexpr,
):  # fmt: skip
    """bias + sum over the taps at tokens t, the input of the SiLU, [t, c]."""
    total = tl.zeros([t.shape[0], c.shape[0]], tl.float32)
    total += load(bias + c, c < C)[None, :]
    for j in tl.static_range(W):
        tap = load(weight + c * W + j, c < C)
        value = _input(
            x, state, t + (j - (W - 1)), c, batch, T, C,
            x_b, x_t,
            W, CONTINUED,
        )  # fmt: skip
        total += tap[None, :] * value
    return total


@triton.jit
def _forward(
    x, weight, bias, state, y, T, C,
    x_b, x_t,
    W: tl.constexpr,
    CONTINUED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A block of outputs [t, c]."""
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    batch = tl.program_id(2).to(tl.int64)
    sums = _sums(
        x, weight, bias, state, t, c, batch, T, C,
        x_b, x_t,
        W, CONTINUED,
    )  # fmt: skip
    at = y + (batch * T + t[:, None]) * C + c[None, :]
    store(at, silu(sums), both(t < T, c < C))


@triton.jit
def _backward(
    x, weight, bias, state,
    dy, d_after,
    dx, d_state, d_weight, d_bias,
    T, C,
    x_b, x_t,
    W: tl.constexpr,
    CONTINUED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of inputs, numbered 1 - W .. T - 1 from the start of the state.

    Also the contributions of the tokens with the same numbers to the gradients of the weight,
    [b, blocks, W, C], and of the bias, [b, blocks, C]. The last W - 1 inputs are also the state
    after x, whose gradient is d_after.
    """
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T) - (W - 1)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    batch = tl.program_id(2).to(tl.int64)

    # The input as part of the state after x.
    late = t + (W - 1) - T
    at = d_after + batch * (W - 1) * C + late[:, None] * C + c[None, :]
    grad = load(at, both((late >= 0) & (t < T), c < C))

    # The input in the sums at tokens t .. t + W - 1: k tokens later it meets tap W - 1 - k.
    part = (batch * tl.num_programs(0) + tl.program_id(0)) * C + c
    for k in tl.static_range(W):
        later = t + k
        sums = _sums(
            x, weight, bias, state, later, c, batch, T, C,
            x_b, x_t,
            W, CONTINUED,
        )  # fmt: skip
        at = dy + (batch * T + later[:, None]) * C + c[None, :]
        d_later = load(at, both((later >= 0) & (later < T), c < C))
        slope = d_later * silu_slope(sums)
        tap = load(weight + c * W + (W - 1 - k), c < C)
        grad += tap[None, :] * slope
        value = _input(
            x, state, t, c, batch, T, C,
            x_b, x_t,
            W, CONTINUED,
        )  # fmt: skip
        at = d_weight + (part - c) * W + (W - 1 - k) * C + c
        tl.store(at, tl.sum(slope * value, 0), mask=c < C)
        if k == 0:
            tl.store(d_bias + part, tl.sum(slope, 0), mask=c < C)

    at = dx + (batch * T + t[:, None]) * C + c[None, :]
    store(at, grad, both((t >= 0) & (t < T), c < C))
    if CONTINUED:
        at = d_state + batch * (W - 1) * C + (t + (W - 1))[:, None] * C + c[None, :]
        store(at, grad, both(t < 0, c < C))


@triton.jit
def step(
    x, bc, weight, bias, state, y,
    n_x, C,
    x_b, bc_b,
    s_b, s_t,
    W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One token, with its channels [0, n_x) at `x` and the rest at `bc`: y [b, C].

    The state is shifted in place. This is safe, because no other program reads these channels.
    """
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    batch = tl.program_id(0).to(tl.int64)
    real = c < C
    x_c = tl.load(x + batch * x_b + c, mask=c < n_x, other=0.0)
    bc_c = tl.load(
        bc + batch * bc_b + (c - n_x),
        mask=real & (c >= n_x),
        other=0.0,
    )
    now = x_c + bc_c
    total = load(bias + c, real)
    held = state + batch * s_b + c
    for j in tl.static_range(W - 1):
        value = tl.load(held + j * s_t, mask=real, other=0.0)
        tap = load(weight + c * W + j, real)
        total += tap * value.to(tl.float32)
        if j > 0:
            tl.store(held + (j - 1) * s_t, value, mask=real)
    tap = load(weight + c * W + (W - 1), real)
    total += tap * now.to(tl.float32)
    if W > 1:
        store(held + (W - 2) * s_t, now, real)
    store(y + batch * C + c, silu(total), real)


def causal_conv1d_limit(x: Tensor, weight: Tensor, *_: Any) -> str | None:
    """Why the kernels do not support these arguments, or None if they do."""
    if weight.shape[1] > WIDEST:
        return f"{weight.shape[1]} taps, and a program unrolls at most {WIDEST}"
    return too_many("sequences", x.shape[0])


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `kernels.causal_conv1d`."""
    out: tuple[Tensor, Tensor] = _CausalConv1d.apply(
        rows(x),
        weight.contiguous(),
        bias.contiguous(),
        None if state is None else state.contiguous(),
    )
    return out


def _grid(tokens: int, c: int, b: int) -> tuple[tuple[int, int, int], dict[str, int]]:
    """The grid (blocks of tokens, blocks of channels, sequences) and the sizes of a block."""
    block_t = block(tokens, most=TOKENS)
    block_c = block(c, most=CHANNELS)
    grid = (triton.cdiv(tokens, block_t), triton.cdiv(c, block_c), b)
    sizes = {
        "BLOCK_T": block_t,
        "BLOCK_C": block_c,
    }
    return grid, sizes


class _CausalConv1d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        state: Tensor | None,
    ) -> Any:
        b, t, c = x.shape
        w = weight.shape[1]
        y = x.new_empty(b, t, c)
        grid, blocks = _grid(t, c, b)
        _forward[grid](
            x,
            weight,
            bias,
            x if state is None else state,
            y,
            t,
            c,
            *x.stride()[:2],
            W=w,
            CONTINUED=state is not None,
            **blocks,
        )
        ctx.save_for_backward(x, weight, bias, state)
        return y, _after(x, w, state)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, d_after: Tensor) -> Any:
        x, weight, bias, state = ctx.saved_tensors
        b, t, c = x.shape
        w = weight.shape[1]
        grid, blocks = _grid(t + w - 1, c, b)
        dx = x.new_empty(b, t, c)
        d_state = None if state is None else torch.empty_like(state)
        d_weight = x.new_empty(b, grid[0], w, c, dtype=torch.float32)
        d_bias = x.new_empty(b, grid[0], c, dtype=torch.float32)
        # A kernel needs a pointer for every argument; x and dx replace a missing state.
        continued = state is not None
        before = state if continued else x
        d_before = d_state if continued else dx
        _backward[grid](
            x, weight, bias, before,
            dy.contiguous(), d_after.contiguous(),
            dx, d_before, d_weight, d_bias,
            t, c,
            *x.stride()[:2],
            W=w,
            CONTINUED=continued,
            **blocks,
        )  # fmt: skip
        d_weight = d_weight.sum((0, 1)).T.to(weight.dtype)
        d_bias = d_bias.sum((0, 1)).to(bias.dtype)
        return dx, d_weight, d_bias, d_state


def _after(x: Tensor, w: int, state: Tensor | None) -> Tensor:
    """The last w - 1 inputs [b, w - 1, C]."""
    t = x.shape[1]
    if t >= w - 1:
        return x[:, t - (w - 1) :].clone()
    if state is None:
        before = x.new_zeros(x.shape[0], w - 1 - t, x.shape[2])
    else:
        before = state[:, t:].to(x.dtype)
    return torch.cat([before, x], 1)
