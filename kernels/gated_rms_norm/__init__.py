"""RMSNorm of y * silu(z) over groups of channels, as Mamba-2 ends its heads."""

from torch import Tensor

from kernels import dispatch
from kernels.gated_rms_norm import eager


def gated_rms_norm(
    y: Tensor, z: Tensor, weight: Tensor, eps: float, group: int | None = None
) -> Tensor:
    """v / sqrt(mean(v^2) + eps) * weight with v = y * silu(z), the mean over each `group` channels
    (all of them unless given).

    y, z [..., C]; weight [C] -> [..., C]. Raises ValueError where the shapes do not fit.
    Elementwise work: counters price it at nothing."""
    group = group or y.shape[-1]
    if y.shape != z.shape or weight.shape != y.shape[-1:] or y.shape[-1] % group:
        shapes = f"y {tuple(y.shape)}, z {tuple(z.shape)}, weight {tuple(weight.shape)}"
        raise ValueError(f"gated_rms_norm: {shapes} and groups of {group} do not fit together")
    out: Tensor = dispatch.run("gated_rms_norm", eager.gated_rms_norm, y, z, weight, eps, group)
    return out
