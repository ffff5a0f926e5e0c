"""Qwen3-Next: Gated DeltaNet and gated attention, with experts in every layer."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields, every
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.gated_deltanet import GatedDeltaNetMixer


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = shared.model(c, "rms_norm_eps", 1e-6)
    n = design["n_layers"]
    c.must("attention_bias", False)
    c.must("mlp_bias", False)
    c.must("use_sliding_window", False, None)
    attention = shared.attention(c, rope_fraction=c.number("partial_rotary_factor", 0.25))
    attention |= {"qk_norm": True, "output_gate": True}
    period = c.count("full_attention_interval", 4)
    default = every(n, period, period - 1, "A", "R")
    pattern = c.kinds("layer_types", n, shared.LINEAR) or default
    deltanet = _deltanet(c)
    experts = c.count("num_experts", 512, least=0)
    feeds = _feed_forwards(c, n, experts)
    moe = _moe(c, experts)
    c.constants["norm_offset"] = 1
    dense = shared.gated(c) if "F" in feeds else None
    c.ignore("intermediate_size hidden_act")
    return design | {
        "layers": {"pattern": pattern, "ffns": feeds},
        "attention": attention,
        "mixers": shared.used({"R": deltanet}, pattern),
        "ffn": dense,
        "ffns": shared.used({"E": moe}, feeds),
    }


def _deltanet(c: Fields) -> dict[str, Any]:
    return {
        "kind": "gated_deltanet",
        "n_k_heads": c.count("linear_num_key_heads", 16),
        "n_v_heads": c.count("linear_num_value_heads", 32),
        "k_head_dim": c.count("linear_key_head_dim", 128),
        "v_head_dim": c.count("linear_value_head_dim", 128),
        "d_conv": c.count("linear_conv_kernel_dim", 4),
    }


def _feed_forwards(c: Fields, n_layers: int, experts: int) -> str:
    """A letter per layer: experts (E) at every `decoder_sparse_step`-th, but for the layers that
    are named dense (F)."""
    step = c.count("decoder_sparse_step", 1)
    dense = frozenset(c.indices("mlp_only_layers", n_layers))
    letters = ""
    for i in range(n_layers):
        sparse = experts and i not in dense and (i + 1) % step == 0
        letters += "E" if sparse else "F"
    return letters


def _moe(c: Fields, experts: int) -> dict[str, Any]:
    return {
        "kind": "moe",
        "n_routed": experts,
        "top_k": c.count("num_experts_per_tok", 10),
        "n_shared": 1,
        "d_expert": c.count("moe_intermediate_size", 512),
        "d_shared": c.count("shared_expert_intermediate_size", 512),
        "shared_gate": True,
        "score": "softmax",
        "norm_top_k": c.flag("norm_topk_prob", True),
    }


def dense_layers(spec: ArchSpec) -> dict[str, Any]:
    """The numbers of the layers without experts."""
    dense = [i for i, layer in enumerate(spec.stack) if not isinstance(layer.ffn, MoE)]
    return {"mlp_only_layers": dense}


_DELTANET_FIELDS = {
    "linear_num_key_heads": "n_k_heads",
    "linear_num_value_heads": "n_v_heads",
    "linear_key_head_dim": "k_head_dim",
    "linear_value_head_dim": "v_head_dim",
    "linear_conv_kernel_dim": "d_conv",
}
_EXPERT_FIELDS = writing.TOP_K | {
    "num_experts": "n_routed",
    "moe_intermediate_size": "d_expert",
    "shared_expert_intermediate_size": "shared_width",
    "norm_topk_prob": "norm_top_k",
}

FAMILY = Family(
    name="qwen3_next",
    read=read,
    defaults={
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
    },
    written=Written(
        "Qwen3NextForCausalLM",
        writing.RMS_EPS,
        {
            AttentionMixer: writing.HEADS | writing.HEAD_DIM,
            GatedDeltaNetMixer: _DELTANET_FIELDS,
            SwiGLU: writing.GATED,
            MoE: _EXPERT_FIELDS,
        },
        (
            writing.partial_rope,
            dense_layers,
            writing.layer_names("layer_types", G="linear_attention", A="full_attention"),
        ),
    ),
)
