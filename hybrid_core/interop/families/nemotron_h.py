"""Nemotron-H: every layer is either a mixer or a feed-forward, with one norm.

dt follows `time_step_limit`, as in NVIDIA's own code (modeling_nemotron_h.py). transformers 5.23
instead clamps dt from below by `time_step_min`, which is only meant for initialisation. So
published models give different results there (transformers#48989)."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.interop.families import shared, table, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import (
    Table,
    activation,
    count,
    derived,
    flag,
    number,
    optional_count,
)
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer

SYMBOLS = {
    "M": "M",
    "*": "A",
    "-": "F",
    "E": "E",
}
NAMES = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "A",
    "full_attention": "A",
    "mlp": "F",
    "moe": "E",
}
DEFAULT_LAYERS = "MEAF"  # of transformers' class, if a config names no layers
LAYER_FIELDS = ("hybrid_override_pattern", "layers_block_type", "layer_types")
EXPERT_FIELDS = """
    n_routed_experts n_shared_experts moe_intermediate_size moe_shared_expert_intermediate_size
    moe_latent_size num_experts_per_tok routed_scaling_factor n_group topk_group norm_topk_prob
"""
# Older names of fields that are read under a newer name, and fields that change nothing here.
OTHER_FIELDS = """
    expand mamba_expand moe_shared_expert_overlap num_nextn_predict_layers mtp_layers_block_type
    mtp_hybrid_override_pattern hidden_dropout rope_theta partial_rotary_factor mamba_dt_min
    mamba_dt_max mamba_dt_init_floor time_step_limit
"""

_MODEL = Table(
    count("vocab_size", "vocab_size"),
    count("d_model", "hidden_size"),
    number("norm_eps", "layer_norm_epsilon", 1e-5, older=("rms_norm_eps", "norm_eps")),
    derived("tie_embeddings", "tie_word_embeddings"),
)
_ATTENTION = Table(
    count("n_heads", "num_attention_heads", 32),
    count("n_kv_heads", "num_key_value_heads", 8),
    count("head_dim", "head_dim", 128, older=("attention_head_dim",)),
)
_SSM = Table(
    derived("n_heads", "mamba_num_heads"),
    count("head_dim", "mamba_head_dim", 64),
    count("d_state", "ssm_state_size", 128),
    count("d_conv", "conv_kernel", 4, older=("mamba_d_conv",)),
    count("n_groups", "n_groups", 8, older=("mamba_n_groups",)),
    count("chunk_size", "chunk_size", 128, older=("mamba_chunk_size",)),
    flag("out_bias", "use_bias"),
    flag("in_bias", "use_bias"),
    flag("conv_bias", "use_conv_bias", True, older=("mamba_conv_bias",)),
)
_MLP = Table(
    count("d_ff", "intermediate_size", 21504),
    activation("mlp_hidden_act", "relu2"),
    flag("bias", "mlp_bias"),
)
_EXPERTS = table.TOP_K | Table(
    count("n_routed", "n_routed_experts", 8),
    count("n_shared", "n_shared_experts", 1),
    count("d_expert", "moe_intermediate_size", 7688),
    count("d_shared", "moe_shared_expert_intermediate_size", 7688),
    derived("shared_width", "moe_shared_expert_intermediate_size"),
    optional_count("d_latent", "moe_latent_size"),
    flag("norm_top_k", "norm_topk_prob", True),
    number("scale", "routed_scaling_factor", 1.0),
    activation("mlp_hidden_act", "relu2"),
)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    parts = _parts(c)
    c.must("attention_bias", False)
    shared.silu(c, "mamba_hidden_act")
    c.must("sliding_window", None)
    c.must("mamba_proj_bias", False)
    c.must("tie_word_embeddings", False)  # transformers ties nothing here, regardless of the field
    design = _MODEL.read(c) | {
        "tie_embeddings": False,
        "n_layers": len(parts),
        "layers": {
            "pattern": _only("MA", parts),
            "ffns": _only("FE", parts),
        },
        "attention": _ATTENTION.read(c) | shared.NOPE,
        "ssm": _ssm(c),
        "ffn": {"kind": "mlp"} | _MLP.read(c),
    }
    if "E" in parts:
        if design["ffn"]["bias"]:
            raise c.refuse("mlp_bias", "must be False if layers have experts")
        design["ffns"] = {"E": _experts(c)}
    c.ignore(EXPERT_FIELDS)
    c.ignore(OTHER_FIELDS)
    return design


def _parts(c: Fields) -> str:
    """A letter per layer, from the first of LAYER_FIELDS that the config has."""
    for key in LAYER_FIELDS:
        if key in c:
            return _named_parts(c, key)
    default = len(DEFAULT_LAYERS)
    n = c.layers("num_hidden_layers", default)
    if n != default:
        rule = f"without it the class has {default} layers, num_hidden_layers is {n}"
        raise c.refuse("layers_block_type", rule)
    c.ignore(" ".join(LAYER_FIELDS))
    return DEFAULT_LAYERS


def _named_parts(c: Fields, key: str) -> str:
    listed = c.take(key)
    length = len(listed) if isinstance(listed, list | str) else 1
    n = c.layers("num_hidden_layers", length)
    names = SYMBOLS if isinstance(listed, str) else NAMES
    parts = c.kinds(key, n, names) or ""
    for other in ("layers_block_type", "layer_types"):
        if c.kinds(other, n, NAMES) not in (None, parts):
            raise c.refuse(other, f"contradicts {key}")
    return parts


def _only(letters: str, parts: str) -> str:
    """The parts with these letters, and - in place of all others."""
    found = ""
    for part in parts:
        found += part if part in letters else "-"
    return found


def _ssm(c: Fields) -> dict[str, Any]:
    section = _SSM.read(c)
    section["d_ssm"] = c.count("mamba_num_heads", 128) * section["head_dim"]
    limit = "mamba_dt_limit" if "mamba_dt_limit" in c else "time_step_limit"
    return section | shared.dt_limit(c, limit)


def _experts(c: Fields) -> dict[str, Any]:
    c.constant("n_group", 1)
    c.constant("topk_group", 1)
    return {"kind": "moe", "gated": False} | _EXPERTS.read(c)


def _write_layers(spec: ArchSpec) -> dict[str, Any]:
    """The name of each layer."""
    names = {"M": "mamba", "A": "attention", "-": "mlp"}
    listed = []
    for layer in spec.stack:
        if isinstance(layer.ffn, MoE):
            listed.append("moe")
        else:
            listed.append(names.get(layer.letter, "?"))
    return {"layers_block_type": listed}


_FEED_FORWARD = {
    "ffn_norm.weight": ["norm.weight"],
    "ffn.up.weight": ["mixer.up_proj.weight"],
    "ffn.down.weight": ["mixer.down_proj.weight"],
    "ffn.router.weight": ["mixer.gate.weight"],
    "ffn.bias": ["mixer.gate.e_score_correction_bias"],
    "ffn.up": ["mixer.experts.{e}.up_proj.weight"],
    "ffn.down": ["mixer.experts.{e}.down_proj.weight"],
    "ffn.latent.weight": ["mixer.fc1_latent_proj.weight"],
    "ffn.out.weight": ["mixer.fc2_latent_proj.weight"],
    "ffn.shared.up.weight": ["mixer.shared_experts.up_proj.weight"],
    "ffn.shared.down.weight": ["mixer.shared_experts.down_proj.weight"],
}

FAMILY = Family(
    name="nemotron_h",
    read=read,
    tables={
        ArchSpec: _MODEL,
        AttentionMixer: _ATTENTION,
        Mamba2Mixer: _SSM,
        Mlp: _MLP,
        MoE: _EXPERTS,
    },
    defaults={
        "vocab_size": 131_072,
        "hidden_size": 4096,
        "intermediate_size": 21_504,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    written=Written(
        "NemotronHForCausalLM",
        (writing.dt_limit, _write_layers),
    ),
    tensors=Tensors(
        *tensors.BACKBONE,
        {
            "A": tensors.attention("mixer") | tensors.norms("norm"),
            "M": tensors.ssm("mixer", *tensors.MAMBA2) | tensors.norms("norm"),
            "-": _FEED_FORWARD,
        },
        in_memory=((r"model\.(.*)", r"backbone.\1"),),
    ),
)
