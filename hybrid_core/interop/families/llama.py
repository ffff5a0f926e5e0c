"""Llama: full attention and a gated feed-forward in every layer."""

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
    return _MODEL.read(c) | {
        "layers": {"strategy": "transformer"},
        "attention": shared.attention(c),
        "ffn": shared.gated(c),
    }


FAMILY = Family(
    name="llama",
    read=read,
    tables={
        ArchSpec: _MODEL,
        AttentionMixer: table.ATTENTION,
        SwiGLU: table.GATED_BIASED,
    },
    defaults={
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    written=Written("LlamaForCausalLM", (writing.rope,)),
    tensors=Tensors(*tensors.MODEL, {"A": tensors.LLAMA_BLOCK}),
)
