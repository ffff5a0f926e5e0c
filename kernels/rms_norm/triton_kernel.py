"""The kernels of `gated_rms_norm` with a single group and a residual instead of a gate."""

from torch import Tensor

from kernels.gated_rms_norm.triton_kernel import GroupRms, flat, gated_rms_norm_limit


def rms_norm_limit(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor | None,
) -> str | None:
    """Why the kernels do not support these arguments, or None if they do."""
    return gated_rms_norm_limit(x, x, weight, eps, x.shape[-1])


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `kernels.rms_norm`."""
    added = None if residual is None else flat(residual)
    out, total = GroupRms.apply(
        flat(x),
        None,
        added,
        weight,
        eps,
        x.shape[-1],
    )
    total = x if total is None else total.view(x.shape)
    return out.view(x.shape), total
