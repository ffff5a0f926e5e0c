"""gpt-oss: windows in every second layer, learnt sinks, biases everywhere, and experts with a
clamped gate."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.interop.families import shared, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields, every
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.swa import SwaMixer

# How GptOssConfig scales RoPE where a config says nothing of it.
DEFAULT_SCALING = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = shared.model(c, "rms_norm_eps")
    n = design["n_layers"]
    attention = shared.attention(c, theta=150_000.0) | {"sink_logits": True}
    biased = c.flag("attention_bias", True)
    attention |= {"qkv_bias": biased, "out_bias": biased}
    pattern = c.kinds("layer_types", n, shared.WINDOWED) or every(n, 2, 1, "A", "S")
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
    top_k = c.count("num_experts_per_tok", 4)
    c.must("experts_per_token", top_k)
    c.ignore("initial_context_length")
    return {
        "kind": "moe",
        "n_routed": c.count("num_local_experts", 128),
        "top_k": top_k,
        "n_shared": 0,
        "d_expert": c.count("intermediate_size"),
        "bias": True,
        "score": "softmax",
        "norm_top_k": True,
        "activation": "clamped_swiglu",
    }


def rope(spec: ArchSpec) -> dict[str, Any]:
    """RoPE. GptOssConfig scales it unless it is told not to."""
    found = writing.rope(spec)
    if "rope_scaling" in spec.constants or "rope_scaling" in found:
        return found
    return {"rope_parameters": found | {"rope_type": "default"}}


FAMILY = Family(
    name="gpt_oss",
    read=read,
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
        writing.RMS_EPS,
        {
            SwaMixer: writing.BIASED | writing.HEAD_DIM,
            AttentionMixer: writing.BIASED | writing.HEAD_DIM,
            MoE: writing.TOP_K
            | {
                "num_local_experts": "n_routed",
                "intermediate_size": "d_expert",
            },
        },
        (
            rope,
            writing.window,
            writing.layer_names("layer_types", S="sliding_attention", A="full_attention"),
        ),
    ),
    fused_experts=True,
)
