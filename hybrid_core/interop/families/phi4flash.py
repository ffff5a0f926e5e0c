"""Phi-4-mini-flash (SambaY, arXiv 2507.06607).

The lower half alternates Mamba-1 and windowed differential attention. One layer of full attention
follows. The layers above it reuse its keys and values, or gate the output of the last scan."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.fields import Fields, is_whole
from hybrid_core.mixers.diff_attention import DiffAttentionMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer

AXES = {
    "norm": "group",
    "scalar": "diff_t",
    "fusion": "diff",
    "shared_norm": True,
}

_MODEL = table.model("layer_norm_eps", tied=True)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    shared.silu(c)
    c.must("lm_head_bias", False)
    design = _MODEL.read(c)
    ssm = shared.mamba1(c)
    period = c.count("mb_per_layer", 2)
    window = _window(c)
    c.ignore("resid_pdrop embd_pdrop rope_theta rope_scaling original_max_position_embeddings")
    c.ignore("attention_bias")
    c.must("layer_types", None)
    attention = _attention(c, design["d_model"])
    mixers = {
        "W": attention | {"window": window},
        "G": attention,
        "x": attention | {"reuse_kv": True},
        "g": {"kind": "gated_memory", "d_memory": ssm["d_ssm"], "bias": ssm["proj_bias"]},
    }
    n = design["n_layers"]
    pattern = ""
    for i in range(n):
        pattern += _letter(i, n, period)
    return design | {
        "layers": {"pattern": pattern},
        "ssm": ssm,
        "mixers": shared.used(mixers, pattern),
        "ffn": shared.gated(c),
        "norm": "layer",
    }


def _window(c: Fields) -> int:
    """The window of the windowed layers. Published configs list one per layer."""
    window = c.take("sliding_window", 2047)
    listed: list[int] = [window]
    if isinstance(window, list):
        listed = [width for width in window if width is not None]
    valid = all(is_whole(width) and width > 0 for width in listed)
    if not listed or not valid or len(set(listed)) > 1:
        raise c.refuse("sliding_window", "must be the same window in every windowed layer")
    return listed[0]


def _attention(c: Fields, d_model: int) -> dict[str, Any]:
    n_heads = c.count("num_attention_heads")
    section = table.HEADS.read(c, n_kv_heads=4) | {
        "kind": "diff_attention",
        "head_dim": d_model // n_heads,
        "position": "nope",
        "qkv_bias": True,
        "out_bias": True,
    }
    return section | AXES


def _letter(index: int, n_layers: int, period: int) -> str:
    """The letter of a layer: Mamba (M), a window (W), full attention (G), reused keys and values
    (x), or the gated memory (g)."""
    late = index >= n_layers // 2 + 2
    if index % period == 0:
        return "g" if late else "M"
    if late:
        return "x"
    return "W" if index < n_layers // 2 else "G"


FAMILY = Family(
    name="phi4flash",
    read=read,
    tables={
        ArchSpec: _MODEL,
        DiffAttentionMixer: table.HEADS,
        Mamba1Mixer: table.MAMBA1,
        SwiGLU: table.GATED_BIASED,
    },
)
