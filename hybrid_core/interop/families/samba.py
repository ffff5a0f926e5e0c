"""Samba's own config (lit_gpt), which has no model_type: Mamba-1 and windows in turn, each with a
gated feed-forward."""

from math import ceil
from typing import Any

from hybrid_core.interop.families.base import Family
from hybrid_core.interop.fields import Fields, every

THETA = 1e4


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    n = c.layers("n_layer")
    d_model = c.count("n_embd")
    multiple = c.count("padding_multiple", 512)
    c.must("bias", False)
    c.must("parallel_residual", False)
    c.must("_mlp_class", "LLaMAMLP")
    c.must("_norm_class", "FusedRMSNorm", "RMSNorm")
    c.ignore("block_size name nope")
    period = c.count("mb_per_layer")
    padded = ceil(c.count("vocab_size") / multiple) * multiple
    return {
        "vocab_size": c.count("padded_vocab_size", padded),
        "tie_embeddings": c.flag("mamba_init"),
        "norm_eps": c.number("norm_eps", 1e-5),
        "d_model": d_model,
        "n_layers": n,
        "layers": {"pattern": every(n, period, 0, "M", "S")},
        "attention": _attention(c, d_model),
        "swa": {"window": c.count("local_window"), "sink": 0, "rope_theta": THETA},
        "ssm": {"kind": "mamba1", "d_ssm": 2 * d_model, "dt_rank": ceil(d_model / 16)},
        "ffn": {"kind": "swiglu", "d_ff": c.count("intermediate_size")},
    }


def _attention(c: Fields, d_model: int) -> dict[str, Any]:
    n_heads = c.count("n_head")
    return {
        "n_heads": n_heads,
        "n_kv_heads": c.count("n_query_groups", n_heads),
        "head_dim": d_model // n_heads,
        "rope_theta": THETA,
        "rope_fraction": c.number("rotary_percentage", 1.0),
    }


FAMILY = Family(
    name="samba",
    read=read,
    marks=("n_embd", "mb_per_layer", "local_window"),
)
