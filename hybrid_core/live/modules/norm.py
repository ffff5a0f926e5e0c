"""RMSNorm (arXiv 1910.07467) over groups of channels, alone or with a SiLU gate before or after.

Mamba-2 gates first and then norms (arXiv 2405.21060, Section 7).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.gated_rms_norm import gated_rms_norm
from kernels.gated_rms_norm.eager import group_rms_norm
from kernels.rms_norm import rms_norm


class RMSNorm(nn.Module):
    """x / rms(x) * weight. The mean square is over each group of `group` channels (default: all).

    HybridLM sets `eps` on every norm of the model to the design's `norm_eps`, so mixers need not
    pass it on.
    """

    eps = 1e-5

    def __init__(self, width: int, group: int | None = None) -> None:
        super().__init__()
        self.group = group or width
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if self.group == x.shape[-1]:
            return self.add(x, None)[0]
        return group_rms_norm(x, self.weight, self.eps, self.group)

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The norm of x + residual over all channels, and the sum. `residual` may be None."""
        return rms_norm(x, self.weight, self.eps, residual)


class GatedRMSNorm(RMSNorm):
    """RMSNorm of y * silu(z), as in Mamba-2."""

    def forward(self, y: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        return gated_rms_norm(y, z, self.weight, self.eps, self.group)


class NormThenGate(GatedRMSNorm):
    """RMSNorm of y, then times silu(z), as in some Falcon-H1 models (`mamba_norm_before_gate`)."""

    def forward(self, y: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        normed = group_rms_norm(y, self.weight, self.eps, self.group)
        return normed * F.silu(z)


class BareRMSNorm(nn.Module):
    """x / rms(x) without a weight, with its own epsilon. Falcon-Mamba norms dt, B and C with it."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean_square = x.float().pow(2).mean(-1, keepdim=True)
        return x * torch.rsqrt(mean_square + self.eps).to(x.dtype)
