"""The axes along which two branches of one layer are fused (paper, Appendix D), and what goes
together."""

from typing import Literal

from hybrid_core.validation import Frozen

DiffScalar = Literal["diff_t", "none"]


DiffFusion = Literal["diff", "add"]


Norm = Literal["group", "none"]


Scalar = Literal["none", "scale", "gate", "diff_t"]


Fusion = Literal["add", "diff", "concat"]


Value = Literal["separate", "shared"]


Out = Literal["separate", "joint"]


class DiffSection(Frozen):
    """The section `diff`, of the differential mixers; heads come from `attention`, branches from
    `ssm`. Defaults are Table 18's Diff-T and Diff-M.

    `norm` group: RMS over each head. In attention that is each head of the fused pair, times 1 -
    lambda's start, as in arXiv 2410.05258; in Mamba each head of either branch. `scalar` diff_t:
    the second of two is scaled by lambda. `fusion`: first minus second, or their sum."""

    norm: Norm = "none"
    scalar: DiffScalar = "diff_t"
    fusion: DiffFusion = "diff"


def fusible(
    fusion: Fusion,
    value: Value,
    out: Out,
    d_ssm: int,
    width: int,
) -> None:
    """Raise unless the axes go together, where the attention branch is `width` wide."""
    if fusion == "concat" and out == "separate":
        raise ValueError(
            "fusion: 'concat' - needs out 'joint': "
            "two outputs of width d_model cannot be concatenated into one"
        )
    joint_sum = out == "joint" and fusion != "concat"
    if (value == "shared" or joint_sum) and d_ssm != width:
        why = (
            "value 'shared'"
            if value == "shared"
            else f"fusion {fusion!r} before a joint projection"
        )
        raise ValueError(
            f"d_ssm: {d_ssm} - {why} needs d_ssm equal to n_heads * v_head_dim ({width})"
        )
