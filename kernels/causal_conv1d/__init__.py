"""Depthwise causal convolution over time, followed by SiLU, with the state that continues it."""

import torch
from torch import Tensor

from kernels import dispatch
from kernels.causal_conv1d import eager
from kernels.counting import counted


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y_t = silu(bias + sum_j weight_j x_{t - W + 1 + j}), per channel.

    x [B, T, C]; weight [C, W]; bias [C]; state [B, W-1, C], the inputs before x (zeros unless
    given) -> (y [B, T, C], state [B, W-1, C] after x). Raises ValueError where the shapes do not
    fit."""
    b, _, c = x.shape
    w = weight.shape[1]
    if (
        weight.shape[0] != c
        or bias.shape != (c,)
        or (state is not None and state.shape != (b, w - 1, c))
    ):
        raise ValueError(
            f"causal_conv1d: x {tuple(x.shape)}, weight {tuple(weight.shape)}, bias {tuple(bias.shape)} do not fit together"
        )
    y, after = dispatch.run("causal_conv1d", _causal_conv1d, x, weight, bias, state)
    return y, after


@torch.library.custom_op("hybrid::causal_conv1d", mutates_args=())
def _causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    return eager.causal_conv1d(x, weight, bias, state)


@_causal_conv1d.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[0], weight.shape[1] - 1, x.shape[2])


counted(_causal_conv1d, lambda x, weight, bias, state: 2 * x[0] * x[1] * x[2] * weight[1])
