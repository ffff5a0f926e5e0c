"""RMSNorm over groups of channels, alone or after a SiLU gate."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.gated_rms_norm.eager import group_rms_norm


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the mean taken over each group of `group` channels (all of them unless given).

    `eps` is the model's `norm_eps`: HybridLM sets it on every norm that it holds, so that no mixer has to be told.
    """

    eps = 1e-5

    def __init__(self, width: int, group: int | None = None) -> None:
        super().__init__()
        self.group = group or width
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return group_rms_norm(x, self.weight, self.eps, self.group)


class GatedRMSNorm(RMSNorm):
    """RMSNorm of y * silu(z), as in Mamba-2."""

    def forward(self, y: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(y * F.silu(z))
