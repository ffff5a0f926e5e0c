"""RMSNorm, after adding a residual if there is one."""

from torch import Tensor

from kernels import dispatch
from kernels.rms_norm import eager
from kernels.shapes import in_words


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(h / sqrt(mean(h^2) + eps) * weight, h) with h = x + residual, or h = x without a residual.

    x, residual [..., C]; weight [C] -> two tensors [..., C]. This is elementwise work, so FLOP
    counters do not count it. Raises ValueError if the shapes do not fit.
    """
    fits = weight.shape == x.shape[-1:]
    if residual is not None:
        fits = fits and residual.shape == x.shape
    if not fits:
        shapes = in_words(x=x, weight=weight, residual=residual)
        raise ValueError(f"rms_norm: {shapes} do not fit together")
    out, total = dispatch.run(
        "rms_norm",
        eager.rms_norm,
        x,
        weight,
        eps,
        residual,
    )
    return out, total
