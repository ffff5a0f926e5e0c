"""RMSNorm of y * silu(z) over groups of channels, as at the end of a Mamba-2 mixer."""

from torch import Tensor

from kernels import dispatch
from kernels.gated_rms_norm import eager
from kernels.shapes import in_words


def gated_rms_norm(
    y: Tensor,
    z: Tensor,
    weight: Tensor,
    eps: float,
    group: int | None = None,
) -> Tensor:
    """v / sqrt(mean(v^2) + eps) * weight with v = y * silu(z).

    The mean is over each `group` channels (default: all). y, z [..., C]; weight [C] -> [..., C].
    This is elementwise work, so FLOP counters do not count it. Raises ValueError if the shapes do
    not fit.
    """
    group = group or y.shape[-1]
    d = y.shape[-1]
    if y.shape != z.shape or weight.shape != (d,) or d % group:
        shapes = in_words(y=y, z=z, weight=weight)
        raise ValueError(f"gated_rms_norm: {shapes} and groups of {group} do not fit together")
    out: Tensor = dispatch.run(
        "gated_rms_norm",
        eager.gated_rms_norm,
        y,
        z,
        weight,
        eps,
        group,
    )
    return out
