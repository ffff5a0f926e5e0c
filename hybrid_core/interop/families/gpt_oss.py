"""gpt-oss: a window in every second layer, learnt attention sinks, biases in all projections, and
experts with a clamped gate."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.interop.families import shared, table, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, count
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields, every
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.swa import SwaMixer

# GptOssConfig's RoPE scaling if a config has none.
DEFAULT_SCALING = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}

_MODEL = table.model("rms_norm_eps")
_EXPERTS = Table(
    count("top_k", "num_experts_per_tok", 4),
    count("n_routed", "num_local_experts", 128),
    count("d_expert", "intermediate_size"),
)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = _MODEL.read(c)
    n = design["n_layers"]
    attention = shared.attention(c, theta=150_000.0) | {"sink_logits": True}
    biased = c.flag("attention_bias", True)
    attention |= {"qkv_bias": biased, "out_bias": biased}
    alternating = every(n, 2, 1, "A", "S")
    pattern = c.kinds("layer_types", n, shared.WINDOWED) or alternating
    shared.silu(c)
    if "rope_parameters" not in c and "rope_scaling" not in c:
        c.constants["rope_scaling"] = dict(DEFAULT_SCALING)
    ffn = _experts(c)
    swa = {
        "window": c.count("sliding_window", 128),
        "sink": 0,
        "rope_theta": attention["rope_theta"],
    }
    return design | {
        "layers": {"pattern": pattern},
        "attention": attention,
        "swa": swa,
        "ffn": ffn,
    }


def _experts(c: Fields) -> dict[str, Any]:
    c.constant("swiglu_limit", 7.0)
    c.constant("swiglu_alpha", 1.702)
    moe = _EXPERTS.read(c)
    c.must("experts_per_token", moe["top_k"])
    c.ignore("initial_context_length")
    return moe | {
        "kind": "moe",
        "n_shared": 0,
        "bias": True,
        "score": "softmax",
        "norm_top_k": True,
        "activation": "clamped_swiglu",
    }


def _rope(spec: ArchSpec) -> dict[str, Any]:
    """RoPE. GptOssConfig scales it unless the config has `rope_parameters` without scaling."""
    found = writing.rope(spec)
    if "rope_scaling" in spec.constants or "rope_scaling" in found:
        return found
    return {"rope_parameters": found | {"rope_type": "default"}}


FAMILY = Family(
    name="gpt_oss",
    read=read,
    tables={
        ArchSpec: _MODEL,
        SwaMixer: table.ATTENTION,
        AttentionMixer: table.ATTENTION,
        MoE: _EXPERTS,
    },
    defaults={
        "vocab_size": 201_088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 36,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
    },
    written=Written(
        "GptOssForCausalLM",
        (
            _rope,
            writing.window,
            writing.layer_names("layer_types", S="sliding_attention", A="full_attention"),
        ),
    ),
    fused_experts=True,
)
