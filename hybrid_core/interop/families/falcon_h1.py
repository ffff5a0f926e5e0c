"""Falcon-H1: every layer has parallel attention and Mamba-2 branches and adds their outputs. This
is the paper's intra-hybrid block without norms."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, derived, flag
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.interop.stack_parts import first_of
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer

MULTIPLIERS = """
    lm_head_multiplier embedding_multiplier key_multiplier attention_out_multiplier
    attention_in_multiplier ssm_in_multiplier ssm_out_multiplier
"""

_MODEL = table.model("rms_norm_eps")
_SSM = table.MAMBA2 | Table(
    derived("d_ssm", "mamba_d_ssm"),
    flag("out_bias", "projectors_bias"),
)
_BLOCK = (
    table.ATTENTION.inside("attention")
    | _SSM.inside("ssm")
    | Table(flag("ssm_norm", "mamba_rms_norm"))
)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    shared.silu(c)
    design = _MODEL.read(c)
    attention = shared.attention(c)
    ffn = shared.gated(c)
    normed = c.flag("mamba_rms_norm")
    ssm = _ssm(c, design["d_model"], normed)
    intra = {
        "n_heads": attention["n_heads"],
        "n_kv_heads": attention["n_kv_heads"],
        "qk_head_dim": attention["head_dim"],
        "v_head_dim": attention["head_dim"],
        "d_ssm": ssm["d_ssm"],
        "norm": "none",
        "scalar": "none",
        "fusion": "add",
        "value": "separate",
        "out": "separate",
        "ssm_norm": normed,
    }
    for key in MULTIPLIERS.split():
        c.constant(key, 1.0)
    c.constant("mlp_multipliers", [1.0, 1.0])
    c.constant("ssm_multipliers", [1.0] * 5)
    c.ignore("mamba_use_mlp attn_layer_indices layer_types layers_block_type")
    return design | {
        "layers": {"pattern": "H" * design["n_layers"]},
        "attention": attention,
        "ssm": ssm,
        "intra": intra,
        "ffn": ffn,
    }


def _ssm(c: Fields, d_model: int, normed: bool) -> dict[str, Any]:
    expanded = c.count("mamba_expand", 2) * d_model
    d_ssm = c.count("mamba_d_ssm", expanded)
    n_heads = c.count("mamba_n_heads", 128)
    automatic = c.take("mamba_d_head") == "auto"
    head_dim = d_ssm // n_heads if automatic else c.count("mamba_d_head")
    if head_dim * n_heads != d_ssm:
        rule = f"must be mamba_n_heads * mamba_d_head ({head_dim * n_heads})"
        raise c.refuse("mamba_d_ssm", rule)
    norm_first = c.flag("mamba_norm_before_gate", True)
    section = _SSM.read(c) | {
        "d_ssm": d_ssm,
        "head_dim": head_dim,
        "norm_first": norm_first and normed,
    }
    return section | shared.dt_limit(c)


def _norm_first(spec: ArchSpec) -> dict[str, Any]:
    """Whether Mamba's norm comes before its gate, if it has a norm."""
    mixer = first_of(spec, IntraMixer)
    if mixer is None or not mixer.ssm_norm:
        return {}
    return {"mamba_norm_before_gate": mixer.ssm.norm_first}


_NAMES = (
    tensors.qkv("self_attn", "mixer.attention")
    | tensors.ssm("mamba", "dt_bias", ours="mixer.ssm")
    | {
        "mixer.attention_out.weight": ["self_attn.o_proj.weight"],
        "mixer.ssm_out.weight": ["mamba.out_proj.weight"],
        "mixer.gate_norm.weight": ["mamba.norm.weight"],
    }
    | tensors.FEED_FORWARD
)

FAMILY = Family(
    name="falcon_h1",
    read=read,
    tables={
        ArchSpec: _MODEL,
        IntraMixer: _BLOCK,
        Mamba2Mixer: Table(),
        SwiGLU: table.GATED_BIASED,
    },
    defaults={
        "vocab_size": 128_000,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "mamba_d_ssm": 1024,
        "mamba_d_head": "auto",
    },
    written=Written(
        "FalconH1ForCausalLM",
        (writing.rope, writing.dt_limit, _norm_first),
    ),
    tensors=Tensors(*tensors.FINAL, {"H": _NAMES}),
)
