"""The step in as few torch operations as possible.

At batch 1, a CPU spends more time launching an operation than computing its elements. Shape letters
as in `kernels.mamba2_step`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mamba2_step(
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
    """See `kernels.mamba2_step`."""
    b, h, p, n = ssm_state.shape
    g = n_groups
    d_xbc = zxbcdt.shape[1] - h * p - h
    z, xbc, dt = zxbcdt.split([h * p, d_xbc, h], -1)
    if shared_x is not None:
        xbc = torch.cat([shared_x, xbc], -1)
    exact = torch.promote_types(zxbcdt.dtype, torch.float32)
    xbc = _convolved(xbc, conv_state, conv_weight, conv_bias).to(exact)
    x, B, C = xbc.split([h * p, g * n, g * n], -1)
    step = F.softplus(dt.to(exact) + dt_bias)
    if dt_min:
        step = step.clamp(min=dt_min)
    A = -torch.exp(A_log.to(exact))
    decay = torch.exp(step * A)
    heads = x.reshape(b, h, p)
    inflow = heads * step[..., None]
    state = ssm_state.view(b, g, h // g, p, n)
    state.mul_(decay.view(b, g, -1, 1, 1))
    state.addcmul_(inflow.view(b, g, -1, p, 1), B.view(b, g, 1, 1, n))
    # The heads of a group share C, so this is one matrix product per sequence and group.
    grouped = ssm_state.view(b * g, -1, n).to(exact)
    y = torch.bmm(grouped, C.reshape(b * g, n, 1)).view(b, h, p)
    y = torch.addcmul(y, heads, D[:, None])
    y = y.view(b, -1).to(zxbcdt.dtype)
    if not gated:
        return y
    return y * F.silu(z)


def _convolved(
    xbc: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """silu of the convolution's output for one token [b, channels]; the state is updated."""
    window = torch.cat([conv_state.to(xbc.dtype), xbc[:, None]], 1)
    conv_state.copy_(window[:, 1:])
    return F.silu((window * weight.T).sum(1).add_(bias), inplace=True)
