"""mamba_ssm's own config, which has no model_type: Mamba layers, attention layers at given
positions, and a vocabulary padded to a multiple."""

from math import ceil
from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.families import shared
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Field, Table, count, derived, flag
from hybrid_core.interop.fields import Fields, at

KINDS = {"Mamba1": "mamba1", "Mamba2": "mamba2"}

_MODEL = Table(
    count("d_model", "d_model"),
    Field("n_layers", "n_layer", Fields.layers),
    flag("tie_embeddings", "tie_embeddings", True),
)
# The sections `ssm_cfg` and `attn_cfg`.
_MAMBA = Table(
    count("d_conv", "d_conv", 4),
    flag("conv_bias", "conv_bias", True),
)
_MAMBA1 = _MAMBA | Table(
    count("d_state", "d_state", 16),
    derived("dt_rank", "dt_rank"),
    flag("proj_bias", "bias"),
)
_MAMBA2 = _MAMBA | Table(
    count("d_state", "d_state", 128),
    count("head_dim", "headdim", 64),
    count("n_groups", "ngroups", 1),
    count("chunk_size", "chunk_size", 256),
    flag("gated_norm", "rmsnorm", True),
    flag("norm_first", "norm_before_gate"),
    flag("out_bias", "bias"),
    flag("in_bias", "bias"),
)
_ATTENTION = Table(
    count("n_heads", "num_heads"),
    count("n_kv_heads", "num_heads_kv"),
    count("head_dim", "head_dim"),
    flag("qkv_bias", "qkv_proj_bias", True),
    flag("out_bias", "out_proj_bias", True),
)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = _MODEL.read(c)
    d_model = design["d_model"]
    multiple = c.count("pad_vocab_size_multiple", 8)
    padded_vocab = ceil(c.count("vocab_size") / multiple) * multiple
    ssm_fields = c.section("ssm_cfg")
    attention_fields = c.section("attn_cfg")
    ssm = _ssm(ssm_fields, d_model)
    ssm_fields.close()
    design |= {
        "vocab_size": padded_vocab,
        "norm": "rms" if c.flag("rms_norm", True) else "layer",
        "ssm": ssm,
    }
    c.ignore("fused_add_norm")
    d_ff = c.count("d_intermediate", 0, least=0)
    if d_ff:
        rounded = ceil(d_ff / 128) * 128  # mamba_ssm/modules/mlp.py, GatedMLP
        design["ffn"] = {"kind": "swiglu", "d_ff": rounded}
    n = design["n_layers"]
    attention_at = c.indices("attn_layer_idx", n)
    if attention_at:
        design["attention"] = _attention(attention_fields, d_model)
        attention_fields.close()
    pattern = at(n, attention_at, "A", "M")
    return design | {"layers": {"pattern": pattern}}


def _ssm(s: Fields, d_model: int) -> dict[str, Any]:
    if s.word("layer", KINDS, "Mamba1") == "mamba2":
        section = _MAMBA2.read(s)
    else:
        section = _MAMBA1.read(s) | {
            "kind": "mamba1",
            "dt_rank": shared.dt_rank(s, "dt_rank", d_model),
        }
    return section | {"d_ssm": s.count("expand", 2) * d_model}


def _attention(a: Fields, d_model: int) -> dict[str, Any]:
    """mamba_ssm's MHA. It has no position encoding unless `rotary_emb_dim` is set."""
    n_heads = a.count("num_heads")
    a.must("causal", True)
    a.must("d_conv", 0)
    rotated = a.count("rotary_emb_dim", 0, least=0)
    section = _ATTENTION.read(
        a,
        n_kv_heads=n_heads,
        head_dim=d_model // n_heads,
    )
    theta = a.number("rotary_emb_base", 10_000.0)
    if not rotated:
        return section | shared.NOPE
    return section | {
        "rope_theta": theta,
        "rope_fraction": rotated / section["head_dim"],
    }


FAMILY = Family(
    name="mamba_ssm",
    read=read,
    tables={ArchSpec: _MODEL},
    marks=("d_model", "n_layer", "ssm_cfg"),
)
