"""One token through a Mamba-2 mixer: convolution, dt, scan, D and gate.

It starts after the input projection and ends before the norm and the output projection. Shape
letters: b sequences, H heads of width P, N states per channel, G groups, W taps.
"""

import torch
from torch import Tensor

from kernels import dispatch
from kernels.counting import counted
from kernels.mamba2_step import eager
from kernels.shapes import in_words


def mamba2_step(
    zxbcdt: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    *,
    n_groups: int,
    shared_x: Tensor | None = None,
    gated: bool = True,
    dt_min: float = 0.0,
) -> Tensor:
    """y = step * silu(z), where `step` is an SSD step with D of these inputs:

    x, B, C = silu(conv(x B C))
    dt = max(softplus(dt + dt_bias), dt_min)
    A = -exp(A_log)

    With `gated=False`, the factor silu(z) is left to a gated norm.

    zxbcdt [b, H*P + channels + H], one token, with channels = H*P + 2*G*N; conv_state
    [b, W-1, channels] and ssm_state [b, H, P, N], both updated in place; conv_weight [channels, W];
    conv_bias [channels]; dt_bias, A_log, D [H] -> [b, H*P]. With `shared_x` [b, H*P], x before the
    convolution comes from it, and zxbcdt holds only z, B, C and dt. Raises ValueError if the shapes
    do not fit.
    """
    tensors = (zxbcdt, conv_state, ssm_state, conv_weight, conv_bias, dt_bias, A_log, D)
    _check(*tensors, n_groups, shared_x)
    y: Tensor = dispatch.run(
        "mamba2_step",
        _mamba2_step,
        *tensors,
        n_groups,
        shared_x,
        gated,
        dt_min,
    )
    return y


def _check(
    zxbcdt: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    n_groups: int,
    shared_x: Tensor | None,
) -> None:
    b, h, p, n = ssm_state.shape
    channels, w = conv_weight.shape
    width = h * p + channels + h  # of z, x, B, C and dt
    if shared_x is not None:
        width -= h * p
    fits = (
        channels == h * p + 2 * n_groups * n
        and h % n_groups == 0
        and zxbcdt.shape == (b, width)
        and conv_state.shape == (b, w - 1, channels)
        and conv_bias.shape == (channels,)
        and dt_bias.shape == A_log.shape == D.shape == (h,)
        and (shared_x is None or shared_x.shape == (b, h * p))
    )
    if not fits:
        shapes = in_words(
            zxbcdt=zxbcdt,
            conv_state=conv_state,
            ssm_state=ssm_state,
            conv_weight=conv_weight,
            conv_bias=conv_bias,
            dt_bias=dt_bias,
            A_log=A_log,
            D=D,
            shared_x=shared_x,
        )
        raise ValueError(f"mamba2_step: {shapes} and {n_groups} groups do not fit together")


@torch.library.custom_op("hybrid::mamba2_step", mutates_args=("conv_state", "ssm_state"))
def _mamba2_step(
    zxbcdt: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    n_groups: int,
    shared_x: Tensor | None,
    gated: bool,
    dt_min: float,
) -> Tensor:
    return eager.mamba2_step(
        zxbcdt,
        conv_state,
        ssm_state,
        conv_weight,
        conv_bias,
        dt_bias,
        A_log,
        D,
        n_groups,
        shared_x,
        gated,
        dt_min,
    )


@_mamba2_step.register_fake
def _(
    zxbcdt: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    n_groups: int,
    shared_x: Tensor | None,
    gated: bool,
    dt_min: float,
) -> Tensor:
    b, h, p, _ = ssm_state.shape
    return zxbcdt.new_empty(b, h * p)


def _flops(zxbcdt, conv_state, ssm_state, conv_weight, *_):  # type: ignore[no-untyped-def]
    """A multiply-add per tap and channel, and five FLOPs per state element.

    `causal_conv1d` and `ssd_step` count in the same way.
    """
    b, h, p, n = ssm_state
    channels, taps = conv_weight
    convolution = 2 * channels * taps
    scan = 5 * h * p * n
    return b * (convolution + scan)


counted(_mamba2_step, _flops)
