"""The axes along which two branches of one layer are fused (paper, Appendix D), and which choices
can be combined."""

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
    """The section `diff` of the differential mixers. Heads come from the section `attention`,
    Mamba branches from `ssm`. The defaults are Diff-T and Diff-M of Table 18.

    `norm` group: an RMSNorm of each head. In attention it normalises each fused pair and multiplies
    it by one minus lambda's initial value, as in arXiv 2410.05258. In Mamba it normalises each head
    of both branches. `scalar` diff_t: the second branch is scaled by lambda. `fusion`: the first
    branch minus the second, or their sum."""

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
    """Raise ValueError unless the axes can be combined. `width`: width of the attention branch."""
    if fusion == "concat" and out == "separate":
        raise ValueError(
            "fusion: 'concat' - needs out 'joint': "
            "two outputs of width d_model cannot be concatenated into one"
        )
    if d_ssm == width:
        return
    why = None
    if value == "shared":
        why = "value 'shared'"
    elif out == "joint" and fusion != "concat":
        why = f"fusion {fusion!r} before a joint projection"
    if why is not None:
        raise ValueError(
            f"d_ssm: {d_ssm} - {why} needs d_ssm equal to n_heads * v_head_dim ({width})"
        )
