"""Bamba: attention or Mamba-2, and a feed-forward, in every layer."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields, at
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer

_MODEL = table.model("rms_norm_eps")


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = _MODEL.read(c)
    n = design["n_layers"]
    attention = shared.attention(c, rope_fraction=0.5)
    ffn = shared.gated(c)
    ssm = shared.bamba_ssm(c, design["d_model"])
    rotated = round(attention["head_dim"] * attention["rope_fraction"])
    c.must("attn_rotary_emb", rotated)
    named = c.kinds("layer_types", n, shared.HYBRID)
    attention_layers = c.indices("attn_layer_indices", n)
    numbered = at(n, attention_layers, "A", "M")
    if named and "attn_layer_indices" in c and named != numbered:
        raise c.refuse("layer_types", "contradicts attn_layer_indices")
    return design | {
        "layers": {"pattern": named or numbered},
        "attention": attention,
        "ssm": ssm,
        "ffn": ffn,
    }


def _attention_indices(spec: ArchSpec) -> dict[str, Any]:
    """The numbers of the attention layers, from 0."""
    indices = [i for i, letter in enumerate(spec.pattern) if letter == "A"]
    return {"attn_layer_indices": indices}


FAMILY = Family(
    name="bamba",
    read=read,
    tables={
        ArchSpec: _MODEL,
        AttentionMixer: table.HEADS | table.BIASES,
        Mamba2Mixer: table.MAMBA2,
        SwiGLU: table.GATED_BIASED,
    },
    defaults={
        "vocab_size": 128_000,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    written=Written(
        "BambaForCausalLM",
        (
            writing.spare_heads,
            writing.partial_rope,
            writing.expand(),
            writing.dt_limit,
            _attention_indices,
        ),
    ),
    tensors=Tensors(
        *tensors.FINAL,
        {
            "A": tensors.attention("self_attn") | tensors.FEED_FORWARD,
            "M": tensors.ssm("mamba", *tensors.MAMBA2) | tensors.FEED_FORWARD,
        },
    ),
)
