"""The reference: one group at a time, in float64."""

import torch
from torch import Tensor


def gated_rms_norm(
    y: Tensor,
    z: Tensor,
    weight: Tensor,
    eps: float,
    group: int | None = None,
) -> Tensor:
    """Same arguments as `kernels.gated_rms_norm`; float64 out."""
    y = y.double()
    z = z.double()
    weight = weight.double()
    group = group or y.shape[-1]
    gated = y * z * torch.sigmoid(z)
    outs = []
    for start in range(0, y.shape[-1], group):
        channels = slice(start, start + group)
        piece = gated[..., channels]
        mean_square = (piece**2).mean(-1, keepdim=True)
        rms = torch.sqrt(mean_square + eps)
        outs.append(piece / rms * weight[channels])
    return torch.cat(outs, -1)
