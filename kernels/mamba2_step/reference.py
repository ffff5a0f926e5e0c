"""The truth: the step written out in float64, head by head; the states are updated in place, in
their own dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mamba2_step(
    zxbcdt: Tensor, conv_state: Tensor, ssm_state: Tensor, conv_weight: Tensor, conv_bias: Tensor, dt_bias: Tensor, A_log: Tensor,
    D: Tensor, *, n_groups: int, shared_x: Tensor | None = None, gated: bool = True, dt_min: float = 0.0,
) -> Tensor:  # fmt: skip
    """Same arguments as `kernels.mamba2_step`; float64 out."""
    row, weight, bias, dt_bias, A_log, D = (
        v.double() for v in (zxbcdt, conv_weight, conv_bias, dt_bias, A_log, D)
    )
    b, h, p, n = ssm_state.shape
    z, rest = row[:, : h * p], row[:, h * p :]
    new, dt = rest[:, :-h], rest[:, -h:]
    if shared_x is not None:
        new = torch.cat([shared_x.double(), new], -1)
    window = torch.cat([conv_state.double(), new[:, None]], 1)
    conv_state.copy_(window[:, 1:])
    xbc = F.silu((window * weight.T).sum(1) + bias)
    x, bc = xbc[:, : h * p].view(b, h, p), xbc[:, h * p :].view(b, 2, n_groups, n)
    out = z.new_empty(b, h, p)
    for head in range(h):
        B, C = bc[:, :, head // (h // n_groups)].unbind(1)
        step = torch.log1p(torch.exp(dt[:, head] + dt_bias[head])).clamp(min=dt_min)
        decay = torch.exp(-step * torch.exp(A_log[head]))
        state = (
            ssm_state[:, head].double() * decay[:, None, None]
            + step[:, None, None] * x[:, head, :, None] * B[:, None, :]
        )
        ssm_state[:, head] = state.to(ssm_state.dtype)
        out[:, head] = torch.einsum("bpn,bn->bp", state, C) + D[head] * x[:, head]
    return out.view(b, h * p) * (F.silu(z) if gated else 1.0)
