"""Qwen3 (dense): a Llama with a norm of each query and key head."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.mixers.attention import AttentionMixer

_MODEL = table.model("rms_norm_eps", 1e-6)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = _MODEL.read(c)
    c.must("mlp_bias", False)
    c.must("use_sliding_window", False)
    c.ignore("sliding_window max_window_layers")  # read only with use_sliding_window
    c.kinds("layer_types", design["n_layers"], {"full_attention": "A"})
    return design | {
        "layers": {"strategy": "transformer"},
        "attention": shared.attention(c) | {"qk_norm": True},
        "ffn": shared.gated(c),
    }


_NORMS = {
    "mixer.q_norm.weight": ["self_attn.q_norm.weight"],
    "mixer.k_norm.weight": ["self_attn.k_norm.weight"],
}

FAMILY = Family(
    name="qwen3",
    read=read,
    tables={
        ArchSpec: _MODEL,
        AttentionMixer: table.ATTENTION,
        SwiGLU: table.GATED,
    },
    defaults={
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 22_016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
    },
    written=Written("Qwen3ForCausalLM", (writing.rope,)),
    tensors=Tensors(*tensors.MODEL, {"A": tensors.LLAMA_BLOCK | _NORMS}),
)
