"""Mistral: a Llama, with a window in every layer if the config has one."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, derived
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.mixers.swa import SwaMixer

WINDOW = 4096  # the default of an absent field; null means no window

_MODEL = table.model("rms_norm_eps", 1e-6)
_THETA = Table(derived("rope_theta", "rope_theta"))
_WINDOWED = table.HEADS | table.HEAD_DIM | _THETA


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    c.must("attention_bias", False)
    c.must("mlp_bias", False)
    design = _MODEL.read(c)
    attention = shared.attention(c)
    design |= {
        "attention": attention,
        "ffn": shared.gated(c),
    }
    if c.take("sliding_window", WINDOW) is None:
        return design | {"layers": {"strategy": "transformer"}}
    if "rope_scaling" in attention:
        rule = "must be null if RoPE is scaled: windowed layers have no scaling here"
        raise c.refuse("sliding_window", rule)
    swa = {
        "window": c.count("sliding_window", WINDOW),
        "sink": 0,
        "rope_theta": attention["rope_theta"],
    }
    return design | {"layers": {"strategy": "swa", "ratio": "0:1"}, "swa": swa}


FAMILY = Family(
    name="mistral",
    read=read,
    tables={
        ArchSpec: _MODEL,
        SwaMixer: _WINDOWED,
        SwiGLU: table.GATED,
    },
    defaults={
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    written=Written("MistralForCausalLM", (writing.window,)),
    tensors=Tensors(
        *tensors.MODEL,
        {
            "A": tensors.LLAMA_BLOCK,
            "S": tensors.LLAMA_BLOCK,
        },
    ),
)
