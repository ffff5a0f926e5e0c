"""Samba: alternating Mamba-1 and windowed attention, each with a gated feed-forward.

Its config is that of lit_gpt, which has no model_type."""

from math import ceil
from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Field, Table, count, flag, number
from hybrid_core.interop.fields import Fields, every
from hybrid_core.mixers.swa import SwaMixer

THETA = 1e4  # of lit_gpt's RoPE, which has no field for it

_MODEL = Table(
    Field("n_layers", "n_layer", Fields.layers),
    count("d_model", "n_embd"),
    flag("tie_embeddings", "mamba_init"),
    number("norm_eps", "norm_eps", 1e-5),
)
_HEADS = Table(
    count("n_heads", "n_head"),
    count("n_kv_heads", "n_query_groups"),
    number("rope_fraction", "rotary_percentage", 1.0),
)
_WINDOW = Table(count("window", "local_window"))
_FFN = Table(count("d_ff", "intermediate_size"))


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = _MODEL.read(c)
    d_model = design["d_model"]
    multiple = c.count("padding_multiple", 512)
    padded_vocab = ceil(c.count("vocab_size") / multiple) * multiple
    c.must("bias", False)
    c.must("parallel_residual", False)
    c.must("_mlp_class", "LLaMAMLP")
    c.must("_norm_class", "FusedRMSNorm", "RMSNorm")
    c.ignore("block_size name nope")
    period = c.count("mb_per_layer")
    pattern = every(design["n_layers"], period, 0, "M", "S")
    ssm = {  # the defaults of mamba_ssm's Mamba, which lit_gpt does not change
        "kind": "mamba1",
        "d_ssm": 2 * d_model,
        "dt_rank": ceil(d_model / 16),
    }
    return design | {
        "vocab_size": c.count("padded_vocab_size", padded_vocab),
        "layers": {"pattern": pattern},
        "attention": _attention(c, d_model),
        "swa": _WINDOW.read(c) | {"sink": 0, "rope_theta": THETA},
        "ssm": ssm,
        "ffn": {"kind": "swiglu"} | _FFN.read(c),
    }


def _attention(c: Fields, d_model: int) -> dict[str, Any]:
    n_heads = c.count("n_head")
    section = _HEADS.read(c, n_kv_heads=n_heads)
    section["head_dim"] = d_model // n_heads
    section["rope_theta"] = THETA
    return section


FAMILY = Family(
    name="samba",
    read=read,
    tables={
        ArchSpec: _MODEL,
        SwaMixer: _HEADS | _WINDOW,
        SwiGLU: _FFN,
    },
    marks=("n_embd", "mb_per_layer", "local_window"),
)
