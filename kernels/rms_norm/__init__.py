"""RMSNorm, with the addition of a residual before it where there is one."""

from torch import Tensor

from kernels import dispatch
from kernels.rms_norm import eager


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """h = x + residual;  (h / sqrt(mean(h^2) + eps) * weight, h). Without a residual, h is x.

    x, residual [..., C]; weight [C] -> two of [..., C]. Raises ValueError where the shapes do not
    fit. Elementwise work: counters price it at nothing."""
    if weight.shape != x.shape[-1:] or (residual is not None and residual.shape != x.shape):
        held = "" if residual is None else f", residual {tuple(residual.shape)}"
        raise ValueError(
            f"rms_norm: x {tuple(x.shape)}, weight {tuple(weight.shape)}{held} do not fit together"
        )
    out, total = dispatch.run("rms_norm", eager.rms_norm, x, weight, eps, residual)
    return out, total
