"""Kimi Linear: Kimi Delta Attention and multi-head latent attention. The first layers have a dense
feed-forward, the others have experts."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, count, flag, number, optional_count
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields, at, every
from hybrid_core.mixers.kda import KimiDeltaMixer
from hybrid_core.mixers.mla import LatentAttentionMixer

NAMES = {
    "linear_attention": "R",
    "conv": "R",
    "recurrent": "R",
    "full_attention": "L",
    "attention": "L",
    "sliding_attention": "L",
}

_MODEL = table.model("rms_norm_eps")
_LATENT = Table(
    count("n_heads", "num_attention_heads"),
    count("nope_head_dim", "qk_nope_head_dim", 128),
    count("rope_head_dim", "qk_rope_head_dim", 64),
    count("v_head_dim", "v_head_dim", 128),
    count("kv_rank", "kv_lora_rank", 512),
    optional_count("q_rank", "q_lora_rank"),
    flag("bias", "attention_bias"),
)
_DELTA = Table(
    count("n_heads", "linear_num_heads", 32),
    count("head_dim", "linear_head_dim", 128),
    count("d_conv", "linear_conv_kernel_dim", 4),
)
# Moonshot's own files have these fields in the section `linear_attn_config`.
_DELTA_SECTION = Table(
    count("n_heads", "num_heads"),
    count("head_dim", "head_dim"),
    count("d_conv", "short_conv_kernel_size"),
)
_EXPERTS = Table(
    count("n_routed", "num_experts", 256),
    count("top_k", "num_experts_per_token", 8, older=("num_experts_per_tok",)),
    count("n_shared", "num_shared_experts", 1, least=0),
    count("d_expert", "moe_intermediate_size", 1024),
    flag("norm_top_k", "moe_renormalize", True),
    number("scale", "routed_scaling_factor", 2.446),
)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    c.must("tie_word_embeddings", False)  # transformers ties nothing here, regardless of the field
    design = _MODEL.read(c)
    n = design["n_layers"]
    linear = c.section("linear_attn_config")
    pattern = _layers(c, linear, n)
    delta = _DELTA_SECTION.read(linear, **_DELTA.read(c))
    mixers = {
        "L": {"kind": "mla"} | _LATENT.read(c),
        "R": {"kind": "kda"} | delta,
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
    c.ignore("head_dim qk_head_dim model_max_length num_key_value_heads")
    c.ignore("use_grouped_topk rope_theta rope_parameters")
    return design | {
        # vLLM's dtype for KDA's states, regardless of the model's dtype (kda_state_dtype,
        # mamba_utils.py)
        "state_dtype": "fp32",
        "layers": {"pattern": pattern, "ffns": feeds},
        "mixers": shared.used(mixers, pattern),
        "ffn": shared.gated(c),
        "ffns": shared.used(experts, feeds),
    }


def _layers(c: Fields, linear: Fields, n_layers: int) -> str:
    """A letter per layer: latent attention (L) or KDA (R). `full_attn_layers` counts from 1. A
    config that names no layers has latent attention in every fourth layer."""
    full = linear.indices("full_attn_layers", n_layers, first=1)
    linear.indices("kda_layers", n_layers, first=1)
    if full:
        default = at(n_layers, [i - 1 for i in full], "L", "R")
    else:
        default = "R" + every(n_layers, 4, 0, "L", "R")[1:]
    return c.kinds("layer_types", n_layers, NAMES) or default


def _experts(c: Fields) -> dict[str, Any]:
    c.must("moe_router_activation_func", "sigmoid")
    c.constant("num_expert_group", 1)
    c.constant("topk_group", 1)
    return {"kind": "moe"} | _EXPERTS.read(c)


def _feed_forwards(spec: ArchSpec) -> dict[str, Any]:
    """The kind of feed-forward of each layer, by name."""
    names = []
    for layer in spec.stack:
        names.append("sparse" if isinstance(layer.ffn, MoE) else "dense")
    return {"mlp_layer_types": names}


FAMILY = Family(
    name="kimi_linear",
    read=read,
    tables={
        ArchSpec: _MODEL,
        LatentAttentionMixer: _LATENT,
        KimiDeltaMixer: _DELTA,
        SwiGLU: table.GATED,
        MoE: _EXPERTS,
    },
    defaults={
        "vocab_size": 163_840,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 27,
        "num_attention_heads": 32,
    },
    written=Written(
        "KimiLinearForCausalLM",
        (
            _feed_forwards,
            writing.layer_names("layer_types", K="linear_attention", L="full_attention"),
        ),
    ),
)
