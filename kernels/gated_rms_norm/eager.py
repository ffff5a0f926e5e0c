"""Gate, then torch's rms_norm group by group."""

import torch.nn.functional as F
from torch import Tensor


def gated_rms_norm(
    y: Tensor,
    z: Tensor,
    weight: Tensor,
    eps: float,
    group: int,
) -> Tensor:
    """See `kernels.gated_rms_norm`."""
    return group_rms_norm(y * F.silu(z), weight, eps, group)


def group_rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    group: int,
) -> Tensor:
    """RMSNorm of x [..., C] over each `group` channels."""
    if group == x.shape[-1]:
        return F.rms_norm(x, (group,), weight, eps)
    grouped = x.unflatten(-1, (-1, group))
    return F.rms_norm(grouped, (group,), None, eps).flatten(-2) * weight
