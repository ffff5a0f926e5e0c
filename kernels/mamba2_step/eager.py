"""The step as the modules' operations one after the other."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.causal_conv1d import eager as conv
from kernels.ssd import eager as scan


def mamba2_step(
    zxbcdt: Tensor, conv_state: Tensor, ssm_state: Tensor, conv_weight: Tensor, conv_bias: Tensor, dt_bias: Tensor, A_log: Tensor,
    D: Tensor, n_groups: int, shared_x: Tensor | None, gated: bool,
) -> Tensor:  # fmt: skip
    """See `kernels.mamba2_step`."""
    _, h, p, n = ssm_state.shape
    z, xbc, dt = zxbcdt.split([h * p, zxbcdt.shape[1] - h * p - h, h], -1)
    if shared_x is not None:
        xbc = torch.cat([shared_x, xbc], -1)
    xbc, after = conv.causal_conv1d(xbc[:, None], conv_weight, conv_bias, conv_state)
    conv_state.copy_(after)
    x, B, C = xbc.split([h * p, n_groups * n, n_groups * n], -1)
    x, B, C = x.unflatten(-1, (h, p)), B.unflatten(-1, (n_groups, n)), C.unflatten(-1, (n_groups, n))
    exact = torch.promote_types(zxbcdt.dtype, torch.float32)
    step = F.softplus(dt.to(exact) + dt_bias.to(exact))[:, None]
    y = scan.ssd_step(x, step, -torch.exp(A_log.to(exact)), B, C, D, ssm_state)
    return y.flatten(1) * F.silu(z) if gated else y.flatten(1)
