"""mamba_ssm's own config, which has no model_type: the vocabulary is padded, and attention layers
stand where it says."""

from math import ceil
from typing import Any

from hybrid_core.interop.families import shared
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.fields import Fields, at

KINDS = {"Mamba1": "mamba1", "Mamba2": "mamba2"}


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    d_model = c.count("d_model")
    n = c.layers("n_layer")
    multiple = c.count("pad_vocab_size_multiple", 8)
    ssm_fields = c.section("ssm_cfg")
    attention_fields = c.section("attn_cfg")
    ssm = _ssm(ssm_fields, d_model)
    ssm_fields.close()
    design = {
        "vocab_size": ceil(c.count("vocab_size") / multiple) * multiple,
        "tie_embeddings": c.flag("tie_embeddings", True),
        "d_model": d_model,
        "n_layers": n,
        "norm": "rms" if c.flag("rms_norm", True) else "layer",
        "ssm": ssm,
    }
    c.ignore("fused_add_norm")
    d_ff = c.count("d_intermediate", 0, least=0)
    if d_ff:
        design["ffn"] = {"kind": "swiglu", "d_ff": ceil(d_ff / 128) * 128}
    attention_at = c.indices("attn_layer_idx", n)
    if attention_at:
        design["attention"] = _attention(attention_fields, d_model)
        attention_fields.close()
    return design | {"layers": {"pattern": at(n, attention_at, "A", "M")}}


def _ssm(s: Fields, d_model: int) -> dict[str, Any]:
    kind = s.word("layer", KINDS, "Mamba1")
    section = _mamba1(s, d_model) if kind == "mamba1" else _mamba2(s)
    return section | {
        "d_ssm": s.count("expand", 2) * d_model,
        "d_conv": s.count("d_conv", 4),
        "conv_bias": s.flag("conv_bias", True),
    }


def _mamba1(s: Fields, d_model: int) -> dict[str, Any]:
    return {
        "kind": "mamba1",
        "d_state": s.count("d_state", 16),
        "dt_rank": shared.dt_rank(s, "dt_rank", d_model),
        "proj_bias": s.flag("bias"),
    }


def _mamba2(s: Fields) -> dict[str, Any]:
    biased = s.flag("bias")
    return {
        "d_state": s.count("d_state", 128),
        "head_dim": s.count("headdim", 64),
        "n_groups": s.count("ngroups", 1),
        "chunk_size": s.count("chunk_size", 256),
        "gated_norm": s.flag("rmsnorm", True),
        "norm_first": s.flag("norm_before_gate"),
        "in_bias": biased,
        "out_bias": biased,
    }


def _attention(a: Fields, d_model: int) -> dict[str, Any]:
    """Heads of mamba_ssm's MHA. It has no position encoding unless `rotary_emb_dim` is set."""
    n_heads = a.count("num_heads")
    a.must("causal", True)
    a.must("d_conv", 0)
    head_dim = a.count("head_dim", d_model // n_heads)
    rotated = a.count("rotary_emb_dim", 0, least=0)
    section: dict[str, Any] = {
        "n_heads": n_heads,
        "n_kv_heads": a.count("num_heads_kv", n_heads),
        "head_dim": head_dim,
        "qkv_bias": a.flag("qkv_proj_bias", True),
        "out_bias": a.flag("out_proj_bias", True),
    }
    theta = a.number("rotary_emb_base", 10_000.0)
    if not rotated:
        return section | shared.NOPE
    return section | {
        "rope_theta": theta,
        "rope_fraction": rotated / head_dim,
    }


FAMILY = Family(
    name="mamba_ssm",
    read=read,
    marks=("d_model", "n_layer", "ssm_cfg"),
)
