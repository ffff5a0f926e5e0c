"""The step in as few torch operations as there are: at batch 1 a CPU spends more on starting an
operation than on its elements."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mamba2_step(
    zxbcdt: Tensor, conv_state: Tensor, ssm_state: Tensor, conv_weight: Tensor, conv_bias: Tensor, dt_bias: Tensor, A_log: Tensor,
    D: Tensor, n_groups: int, shared_x: Tensor | None, gated: bool, dt_min: float,
) -> Tensor:  # fmt: skip
    """See `kernels.mamba2_step`."""
    (b, h, p, n), g = ssm_state.shape, n_groups
    z, xbc, dt = zxbcdt.split([h * p, zxbcdt.shape[1] - h * p - h, h], -1)
    if shared_x is not None:
        xbc = torch.cat([shared_x, xbc], -1)
    exact = torch.promote_types(zxbcdt.dtype, torch.float32)
    x, B, C = (
        _convolved(xbc, conv_state, conv_weight, conv_bias)
        .to(exact)
        .split([h * p, g * n, g * n], -1)
    )
    step = F.softplus(dt.to(exact) + dt_bias)
    if dt_min:
        step = step.clamp(min=dt_min)
    decay = torch.exp(step * -torch.exp(A_log.to(exact)))
    heads = x.reshape(b, h, p)
    state = ssm_state.view(b, g, h // g, p, n)
    state.mul_(decay.view(b, g, -1, 1, 1)).addcmul_(
        (heads * step[..., None]).view(b, g, -1, p, 1), B.view(b, g, 1, 1, n)
    )
    y = torch.bmm(ssm_state.view(b * g, -1, n).to(exact), C.reshape(b * g, n, 1)).view(b, h, p)
    y = torch.addcmul(y, heads, D[:, None]).view(b, -1).to(zxbcdt.dtype)
    return y * F.silu(z) if gated else y


def _convolved(xbc: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """silu of the convolution's output for one token [b, channels]; the state moves on by it."""
    window = torch.cat([conv_state.to(xbc.dtype), xbc[:, None]], 1)
    conv_state.copy_(window[:, 1:])
    return F.silu((window * weight.T).sum(1).add_(bias), inplace=True)
