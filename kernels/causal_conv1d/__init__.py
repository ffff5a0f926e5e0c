"""Depthwise causal convolution over time, then SiLU, with a state to continue from."""

import torch
from torch import Tensor

from kernels import dispatch
from kernels.causal_conv1d import eager
from kernels.counting import counted
from kernels.shapes import in_words


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y_t = silu(bias + sum_j weight_j x_{t - W + 1 + j}), per channel.

    x [B, T, C]; weight [C, W]; bias [C]; state [B, W-1, C], the inputs before x (zeros unless
    given) -> (y [B, T, C], state [B, W-1, C] after x). Raises ValueError if the shapes do not fit.
    """
    b, _, c = x.shape
    w = weight.shape[1]
    fits = weight.shape[0] == c and bias.shape == (c,)
    if state is not None:
        fits = fits and state.shape == (b, w - 1, c)
    if not fits:
        shapes = in_words(x=x, weight=weight, bias=bias, state=state)
        raise ValueError(f"causal_conv1d: {shapes} do not fit together")
    y, after = dispatch.run(
        "causal_conv1d",
        _causal_conv1d,
        x,
        weight,
        bias,
        state,
    )
    return y, after


@torch.library.custom_op("hybrid::causal_conv1d", mutates_args=())
def _causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return eager.causal_conv1d(x, weight, bias, state)


@_causal_conv1d.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    state_shape = (x.shape[0], weight.shape[1] - 1, x.shape[2])
    return torch.empty_like(x), x.new_empty(state_shape)


def _flops(x, weight, bias, state):  # type: ignore[no-untyped-def]
    """A multiply-add per token, channel and tap."""
    b, t, c = x
    return 2 * b * t * c * weight[1]


counted(_causal_conv1d, _flops)
