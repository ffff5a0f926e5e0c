"""The reference: the norms of the two branches in float64."""

import torch
from torch import Tensor

from kernels.gated_rms_norm import reference as gated


def branch_fusion(
    attention: Tensor,
    y: Tensor,
    z: Tensor,
    attention_weight: Tensor,
    ssm_weight: Tensor,
    eps: float,
    *,
    groups: tuple[int, int],
    scales: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Same arguments as `kernels.branch_fusion`; float64 out."""
    heads = attention.double().unflatten(-1, (-1, groups[0]))
    mean_square = (heads**2).mean(-1, keepdim=True)
    rms = torch.sqrt(mean_square + eps)
    a = (heads / rms).flatten(-2) * attention_weight.double()
    s = gated.gated_rms_norm(y, z, ssm_weight, eps, groups[1])
    if scales is None:
        return a, s
    return a * scales[0].double(), s * scales[1].double()
