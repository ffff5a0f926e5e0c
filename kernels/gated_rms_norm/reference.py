"""The truth: one group at a time, in float64."""

import torch
from torch import Tensor


def gated_rms_norm(
    y: Tensor, z: Tensor, weight: Tensor, eps: float, group: int | None = None
) -> Tensor:
    """Same arguments as `kernels.gated_rms_norm`; float64 out."""
    y, z, weight = y.double(), z.double(), weight.double()
    group = group or y.shape[-1]
    gated = y * z * torch.sigmoid(z)
    outs = []
    for start in range(0, y.shape[-1], group):
        piece = gated[..., start : start + group]
        outs.append(
            piece
            / torch.sqrt((piece**2).mean(-1, keepdim=True) + eps)
            * weight[start : start + group]
        )
    return torch.cat(outs, -1)
