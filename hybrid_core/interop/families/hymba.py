"""Hymba: every layer has parallel attention and Mamba-1 branches. Each branch has one norm, and
their mean is projected. Some layers reuse the keys and values of an earlier layer."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, count
from hybrid_core.interop.fields import Fields, is_whole
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.swa import SwaMixer

NEUTRAL = {
    "kv_weight_reuse": False,
    "memory_tokens_interspersed_every": 0,
    "num_mamba": 1,
    "num_experts": 1,
    "kq_norm": "none",
    "attn_hidden_size": -1,
    "kq_head_dim": -1,
    "kv_reuse_every_i_layer": -1,
}
AXES = {
    "norm": "group",
    "scalar": "none",
    "fusion": "add",
    "value": "separate",
    "out": "joint",
    "whole_norm": True,
}

_MODEL = table.model("rms_norm_eps", 1e-6, tied=True)
_WINDOW = Table(count("window", "sliding_window"))
_FFN = Table(
    count("d_ff", "intermediate_size"),
    table.activation("mlp_hidden_act"),
    table.flag("bias", "mlp_bias"),
)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = _MODEL.read(c)
    n = design["n_layers"]
    shared.silu(c)
    for key, value in NEUTRAL.items():
        c.must(key, value)
    c.must("mamba_proj_bias", False)
    c.kinds("layer_type", n, {"h": "H", "hybrid": "H"})
    c.ignore("attn_implementation_new calc_logits_for_entire_prompt conv_dim num_experts_per_tok")
    c.ignore("seq_length orig_max_position_embeddings")
    ssm = shared.mamba1(c)
    ssm["dt_bc_norm"] = c.flag("mamba_inner_layernorms", True)
    attention = _attention(c, design["d_model"], ssm["d_ssm"])
    meta_tokens = c.count("num_memory_tokens", 0, least=0)
    pattern = _layers(c, n)
    window = {"kind": "swa", "sink": meta_tokens} | _WINDOW.read(c)
    kinds: dict[str, dict[str, Any]] = {
        "G": {"kind": "attention"},
        "W": window,
        "g": {"kind": "attention", "reuse_kv": True},
        "w": window | {"reuse_kv": True},
    }
    mixers = {}
    for letter, kind in kinds.items():
        if letter in pattern:
            branches = {"attention": kind | attention, "ssm": ssm}
            mixers[letter] = {"kind": "intra"} | branches | AXES
    return design | {
        "layers": {"pattern": pattern},
        "mixers": mixers,
        "ffn": {"kind": "swiglu"} | _FFN.read(c),
        "meta_tokens": meta_tokens,
    }


def _attention(c: Fields, d_model: int, d_ssm: int) -> dict[str, Any]:
    n_heads = c.count("num_attention_heads")
    v_head_dim = d_ssm // n_heads
    c.must("v_head_dim", v_head_dim)
    section = table.HEADS.read(c, n_kv_heads=n_heads) | {
        "head_dim": d_model // n_heads,
        "v_head_dim": v_head_dim,
    }
    theta = _theta(c, section["head_dim"])
    if not c.flag("rope", True):
        return section | shared.NOPE
    return section | {"rope_theta": theta}


def _theta(c: Fields, head_dim: int) -> float:
    """RoPE's theta. The scaling "ntk" increases it by a fixed factor for all lengths."""
    theta = c.number("rope_theta", 1e4)
    scaling = c.word("rope_type", {"ntk": "ntk", "default": "default"}, "default")
    if scaling != "ntk":
        return theta
    longest = c.count("max_position_embeddings", 8192)
    trained = c.count("orig_max_position_embeddings", 2048)
    stretch = 2 * longest / trained - 1
    if stretch <= 0 or head_dim <= 2:
        rule = "needs max_position_embeddings above half of orig_max_position_embeddings, and"
        raise c.refuse("rope_type", f"{rule} heads wider than 2")
    exponent = head_dim / (head_dim - 2)
    return float(theta * stretch**exponent)


def _layers(c: Fields, n_layers: int) -> str:
    """A letter per layer: full attention (G) or a window (W). Lower-case letters mark
    layers that reuse keys and values."""
    everywhere = c.indices("global_attn_idx", n_layers)
    reusing = _reusing(c, n_layers)
    letters = ""
    for i in range(n_layers):
        letter = "G" if i in everywhere else "W"
        letters += letter.lower() if i in reusing else letter
    return letters


def _reusing(c: Fields, n_layers: int) -> set[int]:
    """The layers that reuse keys and values: all but the first of each group."""
    key = "kv_reuse_group"
    groups = c.take(key, None) or []
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise c.refuse(key, "must be a list of lists of layer numbers")
    layers = [layer for group in groups for layer in group]
    exist = all(is_whole(layer) and 0 <= layer < n_layers for layer in layers)
    if not exist or len(set(layers)) < len(layers):
        raise c.refuse(key, f"must name layers from 0 to {n_layers - 1}, each once")
    reusing = set()
    for group in filter(None, groups):
        first = group[0]
        consecutive = range(first, first + len(group))
        if group != list(consecutive):
            rule = "must be groups of consecutive layers: a layer reuses the keys and values of the"
            raise c.refuse(key, f"{rule} last layer that computed any")
        reusing.update(group[1:])
    return reusing


FAMILY = Family(
    name="hymba",
    read=read,
    tables={
        ArchSpec: _MODEL,
        AttentionMixer: table.HEADS,
        SwaMixer: table.HEADS | _WINDOW,
        Mamba1Mixer: table.MAMBA1,
        SwiGLU: _FFN,
    },
)
