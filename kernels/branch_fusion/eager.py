"""Two norms, and a sum or difference."""

from torch import Tensor

from kernels.gated_rms_norm.eager import gated_rms_norm, group_rms_norm


def branch_fusion(
    attention: Tensor,
    y: Tensor,
    z: Tensor,
    attention_weight: Tensor,
    ssm_weight: Tensor,
    eps: float,
    groups: tuple[int, int],
    fusion: str | None,
) -> tuple[Tensor, Tensor] | Tensor:
    """See `kernels.branch_fusion`; with `fusion` see `kernels.branch_fusion.fused_branches`."""
    a = group_rms_norm(attention, attention_weight, eps, groups[0])
    s = gated_rms_norm(y, z, ssm_weight, eps, groups[1])
    return fused(a, s, fusion)


def fused(a: Tensor, s: Tensor, fusion: str | None) -> tuple[Tensor, Tensor] | Tensor:
    """Both branches, or their sum or difference."""
    if fusion is None:
        return a, s
    if fusion == "add":
        return a + s
    return a - s
