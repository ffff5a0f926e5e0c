"""What an intra-hybrid block does between its two branches and the output projection: gate, RMSNorm
per head, scale, and fusion."""

from torch import Tensor

from kernels import dispatch
from kernels.branch_fusion import eager

FUSIONS = ("add", "diff")


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
    """a = rms(attention) * attention_weight * scale_a;  s = rms(y * silu(z)) * ssm_weight *
    scale_s.

    attention [..., d_a]; y, z [..., d_s]; weights and scales [d_a] and [d_s]; the mean squares over
    each groups[0] channels of the first and groups[1] of the second branch -> ([..., d_a], [...,
    d_s]). Raises ValueError where the shapes do not fit."""
    args = _checked(attention, y, z, attention_weight, ssm_weight, eps, groups, scales)
    a, s = dispatch.run("branch_fusion", eager.branch_fusion, *args, None)
    return a, s


def fused_branches(
    attention: Tensor,
    y: Tensor,
    z: Tensor,
    attention_weight: Tensor,
    ssm_weight: Tensor,
    eps: float,
    *,
    groups: tuple[int, int],
    fusion: str,
    scales: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """a + s ("add") or a - s ("diff") of `branch_fusion`, for branches of one width: what a joint
    output projection reads."""
    if fusion not in FUSIONS or attention.shape != y.shape:
        raise ValueError(
            f"branch_fusion: {fusion!r} of {tuple(attention.shape)} and {tuple(y.shape)} - must be add or diff of equal shapes"
        )
    args = _checked(attention, y, z, attention_weight, ssm_weight, eps, groups, scales)
    out: Tensor = dispatch.run("branch_fusion", eager.branch_fusion, *args, fusion)
    return out


def _checked(
    attention: Tensor, y: Tensor, z: Tensor, attention_weight: Tensor, ssm_weight: Tensor, eps: float, groups: tuple[int, int],
    scales: tuple[Tensor, Tensor] | None,
) -> tuple[object, ...]:  # fmt: skip
    """The arguments of every implementation but the last; a scale is one with the weight that it
    follows."""
    widths = attention.shape[-1:], y.shape[-1:]
    fits = (
        attention.shape[:-1] == y.shape[:-1]
        and z.shape == y.shape
        and (attention_weight.shape, ssm_weight.shape) == widths
    )
    fits = fits and (scales is None or tuple(scale.shape for scale in scales) == widths)
    if not fits or attention.shape[-1] % groups[0] or y.shape[-1] % groups[1]:
        names = zip(
            "attention y z attention_weight ssm_weight".split(),
            (attention, y, z, attention_weight, ssm_weight),
            strict=True,
        )
        shapes = ", ".join(f"{name} {tuple(v.shape)}" for name, v in names)
        scaled = "" if scales is None else f", scales {[tuple(scale.shape) for scale in scales]}"
        raise ValueError(f"branch_fusion: {shapes}{scaled} and groups {groups} do not fit together")
    if scales is not None:
        attention_weight, ssm_weight = attention_weight * scales[0], ssm_weight * scales[1]
    return attention, y, z, attention_weight, ssm_weight, eps, groups
