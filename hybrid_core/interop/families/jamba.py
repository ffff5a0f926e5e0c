"""Jamba: Mamba-1 with norms of dt, B and C. Attention layers and experts each repeat with a period.
There is no position encoding."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, count
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields, every
from hybrid_core.interop.stack_parts import first_of
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer

_MODEL = table.model("rms_norm_eps", 1e-6)
_EXPERTS = table.TOP_K | Table(count("n_routed", "num_experts", 16))


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    c.must("attention_bias", False)
    c.must("mlp_bias", False)
    shared.silu(c)
    design = _MODEL.read(c)
    n = design["n_layers"]
    design["attention"] = shared.attention(c, rope_fraction=None)
    c.must("sliding_window", None)
    pattern = _attention_layers(c, n)
    c.ignore("layers_num_experts")
    period = c.count("expert_layer_period", 2)
    offset = c.count("expert_layer_offset", 1, least=0)
    moe = _EXPERTS.read(c) | {
        "kind": "moe",
        "n_shared": 0,
        "score": "softmax",
    }
    layers = {"pattern": pattern}
    ffns: dict[str, Any] = {}
    if moe["n_routed"] > 1:
        layers["ffns"] = every(n, period, offset, "E", "F")
        ffns["E"] = moe | {"d_expert": c.count("intermediate_size")}
    return design | {
        "layers": layers,
        "ssm": shared.mamba1(c) | {"dt_bc_norm": True},
        "ffn": shared.gated(c),
        "ffns": ffns,
    }


def _attention_layers(c: Fields, n_layers: int) -> str:
    period = c.count("attn_layer_period", 8)
    offset = c.count("attn_layer_offset", 4, least=0)
    pattern = every(n_layers, period, offset, "A", "M")
    for key in ("layer_types", "layers_block_type"):
        if c.kinds(key, n_layers, shared.HYBRID) not in (None, pattern):
            raise c.refuse(key, "contradicts attn_layer_period and attn_layer_offset")
    return pattern


def _write_layers(spec: ArchSpec) -> dict[str, Any]:
    """Periods and offsets of the attention layers and of the experts."""
    period, offset = _period(spec.pattern, "A")
    config: dict[str, Any] = {
        "attn_layer_period": period,
        "attn_layer_offset": offset,
    }
    feeds = ""
    for layer in spec.stack:
        feeds += "E" if isinstance(layer.ffn, MoE) else "F"
    if "E" not in feeds:
        return config | {"num_experts": 1}
    if "F" not in feeds:
        config["intermediate_size"] = first_of(spec, MoE).d_expert
    period, offset = _period(feeds, "E")
    return config | {
        "expert_layer_period": period,
        "expert_layer_offset": offset,
    }


def _period(letters: str, letter: str) -> tuple[int, int]:
    """Period and offset of the layers with one letter. If there are none, the offset is beyond the
    last layer. The result may be wrong for an irregular pattern. Then the config reads back as
    another model and is rejected."""
    n_layers = len(letters)
    indices = [i for i, other in enumerate(letters) if other == letter]
    if not indices:
        return n_layers + 1, n_layers
    if len(indices) == 1:
        return n_layers, indices[0]
    first, second = indices[:2]
    return second - first, first


_NORMS = {
    "dt_norm.weight": "dt_layernorm.weight",
    "B_norm.weight": "b_layernorm.weight",
    "C_norm.weight": "c_layernorm.weight",
}
_EXPERT = "feed_forward.experts.{e}"
_REST = tensors.FEED_FORWARD | {
    "ffn.router.weight": ["feed_forward.router.weight"],
    "ffn.gate_up": [f"{_EXPERT}.gate_proj.weight", f"{_EXPERT}.up_proj.weight"],
    "ffn.down": [f"{_EXPERT}.down_proj.weight"],
}

FAMILY = Family(
    name="jamba",
    read=read,
    tables={
        ArchSpec: _MODEL,
        AttentionMixer: table.HEADS,
        Mamba1Mixer: table.MAMBA1,
        SwiGLU: table.GATED,
        MoE: _EXPERTS,
    },
    defaults={
        "vocab_size": 65_536,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    written=Written(
        "JambaForCausalLM",
        (writing.spare_heads, writing.expand(), _write_layers),
    ),
    tensors=Tensors(
        *tensors.FINAL,
        {
            "A": tensors.attention("self_attn") | _REST,
            "m": tensors.ssm("mamba", *tensors.MAMBA1, **_NORMS) | _REST,
        },
    ),
)
