"""RMSNorm over groups of channels, alone or after a SiLU gate."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        if self.group == x.shape[-1]:
            return F.rms_norm(x, (self.group,), self.weight, self.eps)
        grouped = F.rms_norm(x.unflatten(-1, (-1, self.group)), (self.group,), None, self.eps)
        return grouped.flatten(-2) * self.weight


class GatedRMSNorm(RMSNorm):
    """RMSNorm of y * silu(z), as in Mamba-2."""

    def forward(self, y: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(y * F.silu(z))
