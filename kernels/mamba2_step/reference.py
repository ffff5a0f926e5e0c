"""The reference: the step written out in float64, head by head.

The states are updated in place, in their own dtype.
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
    *,
    n_groups: int,
    shared_x: Tensor | None = None,
    gated: bool = True,
    dt_min: float = 0.0,
) -> Tensor:
    """Same arguments as `kernels.mamba2_step`; float64 out."""
    row = zxbcdt.double()
    weight = conv_weight.double()
    bias = conv_bias.double()
    dt_bias = dt_bias.double()
    A_log = A_log.double()
    D = D.double()
    b, h, p, n = ssm_state.shape
    z = row[:, : h * p]
    rest = row[:, h * p :]
    new = rest[:, :-h]
    dt = rest[:, -h:]
    if shared_x is not None:
        new = torch.cat([shared_x.double(), new], -1)
    window = torch.cat([conv_state.double(), new[:, None]], 1)
    conv_state.copy_(window[:, 1:])
    xbc = F.silu((window * weight.T).sum(1) + bias)
    x = xbc[:, : h * p].view(b, h, p)
    bc = xbc[:, h * p :].view(b, 2, n_groups, n)
    out = z.new_empty(b, h, p)
    for head in range(h):
        group = head // (h // n_groups)
        B, C = bc[:, :, group].unbind(1)
        softplus = torch.log1p(torch.exp(dt[:, head] + dt_bias[head]))
        step = softplus.clamp(min=dt_min)
        A = -torch.exp(A_log[head])
        decay = torch.exp(step * A)
        kept = ssm_state[:, head].double() * decay[:, None, None]
        inflow = step[:, None] * x[:, head]
        added = inflow[:, :, None] * B[:, None, :]
        state = kept + added
        ssm_state[:, head] = state.to(ssm_state.dtype)
        read = torch.einsum("bpn,bn->bp", state, C)
        out[:, head] = read + D[head] * x[:, head]
    y = out.view(b, h * p)
    if not gated:
        return y
    return y * F.silu(z)
