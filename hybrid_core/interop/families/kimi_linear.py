"""Kimi Linear: Kimi Delta Attention and multi-head latent attention, with experts behind the first
layers."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields, at, every
from hybrid_core.mixers.kda import KimiDeltaMixer
from hybrid_core.mixers.mla import LatentAttentionMixer

NAMES = shared.LINEAR | {"full_attention": "L", "attention": "L", "sliding_attention": "L"}


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    c.must("tie_word_embeddings", False)  # transformers ties nothing here, whatever the field says
    design = shared.model(c, "rms_norm_eps")
    n = design["n_layers"]
    linear = c.section("linear_attn_config")
    pattern = _layers(c, linear, n)
    mixers = {
        "L": _latent_attention(c),
        "R": _delta_attention(c, linear),
    }
    linear.close()
    c.must("moe_layer_freq", 1)
    first = c.count("first_k_dense_replace", 1, least=0)
    named = c.kinds("mlp_layer_types", n, {"dense": "F", "sparse": "E"})
    feeds = named or at(n, range(first), "F", "E")
    experts = {"E": _experts(c)}
    c.constant("mla_use_nope", True)
    c.constant("rope_scaling", None)
    c.must("num_nextn_predict_layers", 0)
    c.ignore("q_lora_rank head_dim qk_head_dim model_max_length num_key_value_heads")
    c.ignore("num_experts_per_tok use_grouped_topk rope_theta rope_parameters")
    return design | {
        # vLLM keeps KDA's states so, whatever the model's dtype (kda_state_dtype, mamba_utils.py)
        "state_dtype": "fp32",
        "layers": {"pattern": pattern, "ffns": feeds},
        "mixers": shared.used(mixers, pattern),
        "ffn": shared.gated(c),
        "ffns": shared.used(experts, feeds),
    }


def _layers(c: Fields, linear: Fields, n_layers: int) -> str:
    """Latent attention (L) where it is named, by name or by number from 1; else in every fourth
    layer."""
    full = linear.indices("full_attn_layers", n_layers, first=1)
    linear.indices("kda_layers", n_layers, first=1)
    if full:
        default = at(n_layers, [i - 1 for i in full], "L", "R")
    else:
        default = every(n_layers, 4, 0, "L", "R").replace("L", "R", 1)
    return c.kinds("layer_types", n_layers, NAMES) or default


def _latent_attention(c: Fields) -> dict[str, Any]:
    return {
        "kind": "mla",
        "n_heads": c.count("num_attention_heads"),
        "nope_head_dim": c.count("qk_nope_head_dim", 128),
        "rope_head_dim": c.count("qk_rope_head_dim", 64),
        "v_head_dim": c.count("v_head_dim", 128),
        "kv_rank": c.count("kv_lora_rank", 512),
        "q_rank": c.count("q_lora_rank") if "q_lora_rank" in c else None,
        "bias": c.flag("attention_bias"),
    }


def _delta_attention(c: Fields, linear: Fields) -> dict[str, Any]:
    """Kimi Delta Attention. transformers has its sizes outside the section."""
    return {
        "kind": "kda",
        "n_heads": linear.count("num_heads", c.count("linear_num_heads", 32)),
        "head_dim": linear.count("head_dim", c.count("linear_head_dim", 128)),
        "d_conv": linear.count("short_conv_kernel_size", c.count("linear_conv_kernel_dim", 4)),
    }


def _experts(c: Fields) -> dict[str, Any]:
    moe = {
        "kind": "moe",
        "n_routed": c.count("num_experts", 256),
        "top_k": c.count("num_experts_per_token", c.count("num_experts_per_tok", 8)),
        "n_shared": c.count("num_shared_experts", 1, least=0),
        "d_expert": c.count("moe_intermediate_size", 1024),
        "norm_top_k": c.flag("moe_renormalize", True),
        "scale": c.number("routed_scaling_factor", 2.446),
    }
    c.must("moe_router_activation_func", "sigmoid")
    c.constant("num_expert_group", 1)
    c.constant("topk_group", 1)
    return moe


def feed_forwards(spec: ArchSpec) -> dict[str, Any]:
    """Dense or experts, a name per layer."""
    names = []
    for layer in spec.stack:
        names.append("sparse" if isinstance(layer.ffn, MoE) else "dense")
    return {"mlp_layer_types": names}


_LATENT_FIELDS = {
    "num_attention_heads": "n_heads",
    "qk_nope_head_dim": "nope_head_dim",
    "qk_rope_head_dim": "rope_head_dim",
    "v_head_dim": "v_head_dim",
    "kv_lora_rank": "kv_rank",
    "q_lora_rank": "q_rank",
    "attention_bias": "bias",
}
_DELTA_FIELDS = {
    "linear_num_heads": "n_heads",
    "linear_head_dim": "head_dim",
    "linear_conv_kernel_dim": "d_conv",
}
_EXPERT_FIELDS = {
    "num_experts": "n_routed",
    "num_experts_per_token": "top_k",
    "num_shared_experts": "n_shared",
    "moe_intermediate_size": "d_expert",
    "moe_renormalize": "norm_top_k",
    "routed_scaling_factor": "scale",
}

FAMILY = Family(
    name="kimi_linear",
    read=read,
    defaults={
        "vocab_size": 163_840,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 27,
        "num_attention_heads": 32,
    },
    written=Written(
        "KimiLinearForCausalLM",
        writing.RMS_EPS,
        {
            LatentAttentionMixer: _LATENT_FIELDS,
            KimiDeltaMixer: _DELTA_FIELDS,
            SwiGLU: writing.GATED,
            MoE: _EXPERT_FIELDS,
        },
        (
            feed_forwards,
            writing.layer_names("layer_types", K="linear_attention", L="full_attention"),
        ),
    ),
)
