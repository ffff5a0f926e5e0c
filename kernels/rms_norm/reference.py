"""The reference, in float64."""

import torch
from torch import Tensor


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Same arguments as `kernels.rms_norm`; float64 out."""
    total = x.double()
    if residual is not None:
        total = total + residual.double()
    mean_square = (total**2).mean(-1, keepdim=True)
    rms = torch.sqrt(mean_square + eps)
    return total / rms * weight.double(), total
