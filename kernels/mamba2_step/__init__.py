"""One token through a Mamba-2 mixer, from the input projection's output to the gated output:
convolution, dt, scan, D, gate."""

import torch
from torch import Tensor

from kernels import dispatch
from kernels.counting import counted
from kernels.mamba2_step import eager


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
    """y = (ssd step of x, B, C = silu(conv(x B C)), dt = softplus(dt + dt_bias), A = -exp(A_log),
    with D) * silu(z), before any norm.

    Without the last factor unless `gated`, for a norm that gates. dt is at least `dt_min`.

    zxbcdt [b, H*P + (H*P + 2*G*N) + H], one token; conv_state [b, W-1, channels] and ssm_state [b,
    H, P, N], both updated in place; conv_weight [channels, W]; conv_bias [channels]; dt_bias,
    A_log, D [H] -> [b, H*P]. channels = H*P + 2*G*N. With `shared_x` [b, H*P] the x before the
    convolution comes from there, and zxbcdt holds only z, B, C, dt. Raises ValueError where shapes
    do not fit."""
    _check(
        zxbcdt, conv_state, ssm_state, conv_weight, conv_bias, dt_bias, A_log, D, n_groups, shared_x
    )
    y: Tensor = dispatch.run(
        "mamba2_step", _mamba2_step, zxbcdt, conv_state, ssm_state, conv_weight, conv_bias, dt_bias, A_log, D, n_groups, shared_x, gated,
        dt_min,
    )  # fmt: skip
    return y


def _check(
    zxbcdt: Tensor, conv_state: Tensor, ssm_state: Tensor, conv_weight: Tensor, conv_bias: Tensor, dt_bias: Tensor, A_log: Tensor,
    D: Tensor, n_groups: int, shared_x: Tensor | None,
) -> None:  # fmt: skip
    b, h, p, n = ssm_state.shape
    channels, w = conv_weight.shape
    given = [z for z in (zxbcdt, shared_x) if z is not None]
    fits = (
        channels == h * p + 2 * n_groups * n
        and h % n_groups == 0
        and sum(z.shape[-1] for z in given) == h * p + channels + h
        and all(z.shape[:-1] == (b,) for z in given)
        and conv_state.shape == (b, w - 1, channels)
        and conv_bias.shape == (channels,)
        and dt_bias.shape == A_log.shape == D.shape == (h,)
        and (shared_x is None or shared_x.shape[1] == h * p)
    )
    if not fits:
        names = "zxbcdt conv_state ssm_state conv_weight conv_bias dt_bias A_log D".split()
        tensors = zxbcdt, conv_state, ssm_state, conv_weight, conv_bias, dt_bias, A_log, D
        shapes = ", ".join(
            f"{name} {tuple(v.shape)}" for name, v in zip(names, tensors, strict=True)
        )
        shared = "" if shared_x is None else f", shared_x {tuple(shared_x.shape)}"
        raise ValueError(f"mamba2_step: {shapes}{shared} and {n_groups} groups do not fit together")


@torch.library.custom_op("hybrid::mamba2_step", mutates_args=("conv_state", "ssm_state"))
def _mamba2_step(
    zxbcdt: Tensor, conv_state: Tensor, ssm_state: Tensor, conv_weight: Tensor, conv_bias: Tensor, dt_bias: Tensor, A_log: Tensor,
    D: Tensor, n_groups: int, shared_x: Tensor | None, gated: bool, dt_min: float,
) -> Tensor:  # fmt: skip
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
    zxbcdt: Tensor, conv_state: Tensor, ssm_state: Tensor, conv_weight: Tensor, conv_bias: Tensor, dt_bias: Tensor, A_log: Tensor,
    D: Tensor, n_groups: int, shared_x: Tensor | None, gated: bool, dt_min: float,
) -> Tensor:  # fmt: skip
    b, h, p, _ = ssm_state.shape
    return zxbcdt.new_empty(b, h * p)


def _flops(zxbcdt, conv_state, ssm_state, conv_weight, *_):  # type: ignore[no-untyped-def]
    """A multiply-add per tap and channel, and five per state element, as `causal_conv1d` and
    `ssd_step` count them."""
    b, h, p, n = ssm_state
    return b * (2 * conv_weight[0] * conv_weight[1] + 5 * h * p * n)


counted(_mamba2_step, _flops)
