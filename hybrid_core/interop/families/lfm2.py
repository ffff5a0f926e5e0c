"""LFM2: short convolutions and attention layers."""

from math import ceil
from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, count, derived, flag
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields, at
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.short_conv import ShortConvMixer

_MODEL = table.model("norm_eps", tied=True)
_CONV = Table(
    count("d_conv", "conv_L_cache", 3),
    flag("bias", "conv_bias"),
)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = _MODEL.read(c)
    design["tie_embeddings"] = c.flag("tie_embedding", design["tie_embeddings"])
    attention = _attention(c, design["d_model"])
    pattern = _layers(c, design["n_layers"])
    width = _width(c)
    c.ignore("intermediate_size block_multiple_of block_ffn_dim_multiplier full_attn_idxs")
    c.ignore("rope_theta block_dim block_mlp_init_scale block_norm_eps block_out_init_scale")
    c.ignore("block_use_swiglu block_use_xavier_init conv_dim conv_dim_out conv_use_xavier_init")
    c.ignore("num_heads use_pos_enc")
    conv = {"kind": "short_conv"} | _CONV.read(c)
    return design | {
        "layers": {"pattern": pattern},
        "attention": attention,
        "mixers": shared.used({"R": conv}, pattern),
        "ffn": {"kind": "swiglu", "d_ff": width},
    }


def _attention(c: Fields, d_model: int) -> dict[str, Any]:
    c.must("attention_bias", False)
    n_heads = c.count("num_attention_heads")
    section = table.HEADS.read(c, n_kv_heads=8) | {
        "qk_norm": True,
        "head_dim": c.count("head_dim", d_model // n_heads),
    }
    return section | shared.rope(c, 1.0, theta=1e6)


def _layers(c: Fields, n_layers: int) -> str:
    """A letter per layer: attention (A) or a convolution (R). A config that names no layers has
    attention in all of them."""
    full = list(range(n_layers))
    if "full_attn_idxs" in c:
        full = c.indices("full_attn_idxs", n_layers)
    numbered = at(n_layers, full, "A", "R")
    return c.kinds("layer_types", n_layers, shared.LINEAR) or numbered


def _width(c: Fields) -> int:
    """The feed-forward's width. With `block_auto_adjust_ff_dim` it is two thirds of the field,
    times a factor, rounded up to a multiple."""
    newer_width = c.count("intermediate_size", 12288)
    width = c.count("block_ff_dim", newer_width)
    if not c.flag("block_auto_adjust_ff_dim", True):
        return width
    multiple = c.count("block_multiple_of", 256)
    factor = c.number("block_ffn_dim_multiplier", 1.0)
    adjusted = int(factor * (2 * width // 3))
    return ceil(adjusted / multiple) * multiple


def _keep_width(spec: ArchSpec) -> dict[str, Any]:
    """No adjustment: `intermediate_size` is the width itself."""
    return {"block_auto_adjust_ff_dim": False}


FAMILY = Family(
    name="lfm2",
    read=read,
    tables={
        ArchSpec: _MODEL,
        AttentionMixer: table.HEADS,
        ShortConvMixer: _CONV,
        SwiGLU: Table(derived("d_ff", "intermediate_size")),
    },
    defaults={
        "vocab_size": 65_536,
        "hidden_size": 2560,
        "intermediate_size": 12_288,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    written=Written(
        "Lfm2ForCausalLM",
        (
            writing.rope,
            _keep_width,
            writing.layer_names("layer_types", C="conv", A="full_attention"),
        ),
    ),
)
