"""Qwen3-Next: Gated DeltaNet and gated attention, with experts in every layer."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, count, derived, flag
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields, every
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.gated_deltanet import GatedDeltaNetMixer

_MODEL = table.model("rms_norm_eps", 1e-6)
_DELTANET = Table(
    count("n_k_heads", "linear_num_key_heads", 16),
    count("n_v_heads", "linear_num_value_heads", 32),
    count("k_head_dim", "linear_key_head_dim", 128),
    count("v_head_dim", "linear_value_head_dim", 128),
    count("d_conv", "linear_conv_kernel_dim", 4),
)
_EXPERTS = Table(
    count("top_k", "num_experts_per_tok", 10),
    count("n_routed", "num_experts", 512, least=0),
    count("d_expert", "moe_intermediate_size", 512),
    count("d_shared", "shared_expert_intermediate_size", 512),
    derived("shared_width", "shared_expert_intermediate_size"),
    flag("norm_top_k", "norm_topk_prob", True),
)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = _MODEL.read(c)
    n = design["n_layers"]
    c.must("attention_bias", False)
    c.must("mlp_bias", False)
    c.must("use_sliding_window", False, None)
    rope_fraction = c.number("partial_rotary_factor", 0.25)
    attention = shared.attention(c, rope_fraction)
    attention |= {"qk_norm": True, "output_gate": True}
    period = c.count("full_attention_interval", 4)
    default = every(n, period, period - 1, "A", "R")
    pattern = c.kinds("layer_types", n, shared.LINEAR) or default
    deltanet = {"kind": "gated_deltanet"} | _DELTANET.read(c)
    moe = _EXPERTS.read(c) | {
        "kind": "moe",
        "n_shared": 1,
        "shared_gate": True,
        "score": "softmax",
    }
    feeds = _feed_forwards(c, n, moe["n_routed"])
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


def _feed_forwards(c: Fields, n_layers: int, n_experts: int) -> str:
    """A letter per layer: experts (E) in every `decoder_sparse_step`-th layer, unless it is named
    dense; else a dense feed-forward (F)."""
    step = c.count("decoder_sparse_step", 1)
    dense = frozenset(c.indices("mlp_only_layers", n_layers))
    letters = ""
    for i in range(n_layers):
        sparse = n_experts and i not in dense and (i + 1) % step == 0
        letters += "E" if sparse else "F"
    return letters


def _dense_layers(spec: ArchSpec) -> dict[str, Any]:
    """The numbers of the layers without experts."""
    dense = [i for i, layer in enumerate(spec.stack) if not isinstance(layer.ffn, MoE)]
    return {"mlp_only_layers": dense}


FAMILY = Family(
    name="qwen3_next",
    read=read,
    tables={
        ArchSpec: _MODEL,
        AttentionMixer: table.HEADS | table.HEAD_DIM,
        GatedDeltaNetMixer: _DELTANET,
        SwiGLU: table.GATED,
        MoE: _EXPERTS,
    },
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
        (
            writing.partial_rope,
            _dense_layers,
            writing.layer_names("layer_types", G="linear_attention", A="full_attention"),
        ),
    ),
)
