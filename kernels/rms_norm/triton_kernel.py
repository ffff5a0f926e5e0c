"""One group as wide as the row: the kernels of `gated_rms_norm`, with a residual instead of a
gate."""

from torch import Tensor

from kernels.gated_rms_norm.triton_kernel import GroupRms, flat, gated_rms_norm_limit


def rms_norm_limit(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> str | None:
    """Why these arguments are too much for the kernels, if so."""
    return gated_rms_norm_limit(x, x, weight, eps, x.shape[-1])


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `kernels.rms_norm`."""
    out, total = GroupRms.apply(
        flat(x), None, None if residual is None else flat(residual), weight, eps, x.shape[-1]
    )
    return out.view(x.shape), x if total is None else total.view(x.shape)
