"""Gemma 3 (text): windowed layers with their own RoPE base, extra norms after the mixer and the
feed-forward, and embeddings multiplied by the square root of d_model."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields, every
from hybrid_core.interop.stack_parts import first_of
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.swa import SwaMixer

_MODEL = table.model("rms_norm_eps", 1e-6, tied=True)
_FFN = Table(
    table.count("d_ff", "intermediate_size"),
    table.activation("hidden_activation", "gelu_pytorch_tanh"),
)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = _MODEL.read(c)
    n = design["n_layers"]
    thetas = _thetas(c)
    attention = _attention(c) | {"rope_theta": thetas["full_attention"]}
    c.constant("final_logit_softcapping")
    c.constant("attn_logit_softcapping")
    c.must("use_bidirectional_attention", False, None)
    newer_period = c.count("_sliding_window_pattern", 6)
    period = c.count("sliding_window_pattern", newer_period)
    default = every(n, period, period - 1, "A", "S")
    pattern = c.kinds("layer_types", n, shared.WINDOWED) or default
    c.constants["norm_offset"] = 1
    c.constants["embedding_multiplier"] = design["d_model"] ** 0.5
    swa = {
        "window": c.count("sliding_window", 4096),
        "sink": 0,
        "rope_theta": thetas["sliding_attention"],
    }
    return design | {
        "layers": {"pattern": pattern},
        "attention": attention,
        "swa": swa,
        "ffn": {"kind": "swiglu", "bias": c.flag("mlp_bias")} | _FFN.read(c),
        "post_norm": True,
    }


def _thetas(c: Fields) -> dict[str, float]:
    """RoPE's theta in full and in windowed layers. transformers 5 writes both into
    `rope_parameters`."""
    new = c.section("rope_parameters")
    thetas = {
        "full_attention": c.number("rope_theta", 1e6),
        "sliding_attention": c.number("rope_local_base_freq", 1e4),
    }
    for layers, theta in tuple(thetas.items()):
        own = new.section(layers)
        thetas[layers] = own.number("rope_theta", theta)
        own.constant("rope_type", "default")
        own.constant("factor")
        own.close()
        c.constants |= own.constants
    new.close()
    c.constant("rope_scaling")
    return thetas


def _attention(c: Fields) -> dict[str, Any]:
    section = table.ATTENTION.read(c, n_heads=8, n_kv_heads=4, head_dim=256)
    section["qk_norm"] = True
    scale = c.number("query_pre_attn_scalar", 256) ** -0.5
    if scale != section["head_dim"] ** -0.5:
        section["softmax_scale"] = scale
    return section


def _write(spec: ArchSpec) -> dict[str, Any]:
    """Both thetas, the window, and the scale of the attention scores."""
    local = first_of(spec, SwaMixer)
    full = first_of(spec, AttentionMixer)
    config: dict[str, Any] = {}
    if full:
        config["rope_theta"] = full.rope_theta
    if local:
        config["rope_local_base_freq"] = local.rope_theta
        config["sliding_window"] = local.window
    either = full or local
    scale = either.softmax_scale or either.head_dim**-0.5
    config["query_pre_attn_scalar"] = round(scale**-2)
    return config


FAMILY = Family(
    name="gemma3_text",
    read=read,
    tables={
        ArchSpec: _MODEL,
        SwaMixer: table.ATTENTION,
        AttentionMixer: table.ATTENTION,
        SwiGLU: _FFN,
    },
    defaults={
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
    },
    written=Written(
        "Gemma3ForCausalLM",
        (_write, writing.layer_names("layer_types", S="sliding_attention", A="full_attention")),
        implied=("embedding_multiplier",),
    ),
)
