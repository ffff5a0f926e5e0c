"""RecurrentGemma: alternating RG-LRU and windowed attention. The gates and the feed-forward have
biases."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, count, derived, flag
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.mixers.rg_lru import RgLruMixer
from hybrid_core.mixers.swa import SwaMixer

LETTERS = {"recurrent": "R", "attention": "W"}

_MODEL = table.model("rms_norm_eps", 1e-6, tied=True)
_ATTENTION = table.HEADS | Table(
    flag("qkv_bias", "attention_bias"),
    count("window", "attention_window_size", 2048),
)
_RG_LRU = Table(
    count("width", "lru_width"),
    count("d_conv", "conv1d_width", 4),
    derived("n_blocks", "num_attention_heads"),
)
_FFN = Table(table.activation("hidden_activation", "gelu_pytorch_tanh"))


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = _MODEL.read(c)
    n = design["n_layers"]
    d_model = design["d_model"]
    n_heads = c.count("num_attention_heads")
    c.must("head_dim", d_model // n_heads)
    types = _types(c)
    pattern = ""
    for i in range(n):
        name = types[i % len(types)]
        pattern += LETTERS[name]
    mixers = {
        "W": _attention(c, d_model, n_heads),
        "R": {"kind": "rg_lru", "n_blocks": n_heads} | _RG_LRU.read(c, width=d_model),
    }
    gate_and_up = c.count("intermediate_size", 3 * d_model)
    ffn = _FFN.read(c) | {
        "kind": "swiglu",
        "d_ff": gate_and_up // 2,
        "bias": True,
    }
    c.constant("logits_soft_cap", None)
    c.constants["norm_offset"] = 1
    c.constants["embedding_multiplier"] = d_model**0.5
    c.ignore("w_init_variance_scale final_w_init_variance_scale")
    return design | {
        "layers": {"pattern": pattern},
        "mixers": shared.used(mixers, pattern),
        "ffn": ffn,
    }


def _types(c: Fields) -> list[str]:
    """The names of the first layers. The pattern repeats them."""
    types = c.take("block_types", ["recurrent", "recurrent", "attention"])
    rule = "must be a list of 'recurrent' and 'attention'"
    if not isinstance(types, list | tuple) or not types:
        raise c.refuse("block_types", rule)
    if not all(isinstance(name, str) and name in LETTERS for name in types):
        raise c.refuse("block_types", rule)
    return list(types)


def _attention(c: Fields, d_model: int, n_heads: int) -> dict[str, Any]:
    section = _ATTENTION.read(c, n_kv_heads=n_heads) | {
        "kind": "swa",
        "head_dim": d_model // n_heads,
        "out_bias": True,
        "sink": 0,
    }
    rope_fraction = c.number("partial_rotary_factor", 0.5)
    return section | shared.rope(c, rope_fraction)


def _block_types(spec: ArchSpec) -> dict[str, Any]:
    """The name of each layer."""
    names = {"R": "recurrent", "S": "attention"}
    return {"block_types": [names[letter] for letter in spec.pattern]}


def _feed_forward(spec: ArchSpec) -> dict[str, Any]:
    """The width of gate and up together, which `intermediate_size` counts."""
    ffn = spec.stack[0].ffn
    return {"intermediate_size": 2 * ffn.d_ff} if isinstance(ffn, SwiGLU) else {}


FAMILY = Family(
    name="recurrent_gemma",
    read=read,
    tables={
        ArchSpec: _MODEL,
        SwaMixer: _ATTENTION,
        RgLruMixer: _RG_LRU,
        SwiGLU: _FFN,
    },
    defaults={
        "vocab_size": 256_000,
        "hidden_size": 2560,
        "intermediate_size": 7680,
        "num_hidden_layers": 26,
        "num_attention_heads": 10,
        "logits_soft_cap": 30.0,
    },
    written=Written(
        "RecurrentGemmaForCausalLM",
        (writing.partial_rope, _feed_forward, _block_types),
        implied=("embedding_multiplier",),
    ),
)
