"""The fusion of an intra-hybrid block: gate, RMSNorm per head, scale, and sum or difference.

It comes between the two branches and the output projection.
"""

from torch import Tensor

from kernels import dispatch
from kernels.branch_fusion import eager
from kernels.shapes import in_words

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
    """Both branches, gated and normalised:

    a = rms(attention) * attention_weight * scale_a
    s = rms(y * silu(z)) * ssm_weight * scale_s

    attention [..., d_a]; y, z [..., d_s]; weights and scales [d_a] and [d_s] -> ([..., d_a],
    [..., d_s]). The mean squares are over each groups[0] channels of the first branch and each
    groups[1] channels of the second. Raises ValueError if the shapes do not fit.
    """
    args = _checked(
        attention,
        y,
        z,
        attention_weight,
        ssm_weight,
        eps,
        groups,
        scales,
    )
    a, s = dispatch.run(
        "branch_fusion",
        eager.branch_fusion,
        *args,
        None,
    )
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
    """a + s ("add") or a - s ("diff") of `branch_fusion`, the input of a joint output projection.

    Raises ValueError for another fusion, and for branches of different shapes.
    """
    if fusion not in FUSIONS or attention.shape != y.shape:
        raise ValueError(
            f"branch_fusion: {fusion!r} of {tuple(attention.shape)} and {tuple(y.shape)} - "
            "must be add or diff of equal shapes"
        )
    args = _checked(
        attention,
        y,
        z,
        attention_weight,
        ssm_weight,
        eps,
        groups,
        scales,
    )
    out: Tensor = dispatch.run(
        "branch_fusion",
        eager.branch_fusion,
        *args,
        fusion,
    )
    return out


def _checked(
    attention: Tensor,
    y: Tensor,
    z: Tensor,
    attention_weight: Tensor,
    ssm_weight: Tensor,
    eps: float,
    groups: tuple[int, int],
    scales: tuple[Tensor, Tensor] | None,
) -> tuple[object, ...]:
    """Every implementation's arguments but the last, with scales multiplied into the weights."""
    d_a = attention.shape[-1]
    d_s = y.shape[-1]
    fits = (
        attention.shape[:-1] == y.shape[:-1]
        and z.shape == y.shape
        and attention_weight.shape == (d_a,)
        and ssm_weight.shape == (d_s,)
        and d_a % groups[0] == 0
        and d_s % groups[1] == 0
    )
    scale_shapes = [tuple(scale.shape) for scale in scales or ()]
    if scales is not None:
        fits = fits and scale_shapes == [(d_a,), (d_s,)]
    if not fits:
        shapes = in_words(
            attention=attention,
            y=y,
            z=z,
            attention_weight=attention_weight,
            ssm_weight=ssm_weight,
        )
        scaled = f", scales {scale_shapes}" if scale_shapes else ""
        raise ValueError(f"branch_fusion: {shapes}{scaled} and groups {groups} do not fit together")
    if scales is not None:
        attention_weight = attention_weight * scales[0]
        ssm_weight = ssm_weight * scales[1]
    return attention, y, z, attention_weight, ssm_weight, eps, groups
