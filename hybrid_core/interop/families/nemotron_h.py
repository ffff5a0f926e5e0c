"""Nemotron-H: mixers and feed-forwards are layers of their own, each with one norm.

dt follows `time_step_limit`, as in NVIDIA's own code (modeling_nemotron_h.py). transformers 5.23
clamps dt from below by `time_step_min` instead, an initialisation bound: there a published model
computes something else (transformers#48989)."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.interop.families import shared, tensors, writing
from hybrid_core.interop.families.base import Family
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
DEFAULT_LAYERS = "MEAF"  # of transformers' class, where a config names none
LAYER_FIELDS = ("hybrid_override_pattern", "layers_block_type", "layer_types")
EXPERT_FIELDS = """
    n_routed_experts n_shared_experts moe_intermediate_size moe_shared_expert_intermediate_size
    moe_latent_size num_experts_per_tok routed_scaling_factor n_group topk_group norm_topk_prob
"""
# What older files call fields that are read under their newer names, and what changes nothing here.
OTHER_FIELDS = """
    expand mamba_expand moe_shared_expert_overlap num_nextn_predict_layers mtp_layers_block_type
    mtp_hybrid_override_pattern hidden_dropout rope_theta partial_rotary_factor mamba_dt_min
    mamba_dt_max mamba_dt_init_floor time_step_limit attention_head_dim norm_eps rms_norm_eps
"""


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    parts = _parts(c)
    c.must("attention_bias", False)
    shared.silu(c, "mamba_hidden_act")
    c.must("sliding_window", None)
    c.must("mamba_proj_bias", False)
    c.must("tie_word_embeddings", False)  # transformers ties nothing here, whatever the field says
    design: dict[str, Any] = {
        "vocab_size": c.count("vocab_size"),
        "tie_embeddings": False,
        "norm_eps": _norm_eps(c),
        "d_model": c.count("hidden_size"),
        "n_layers": len(parts),
        "layers": {
            "pattern": _only("MA", parts),
            "ffns": _only("FE", parts),
        },
        "attention": _attention(c),
        "ssm": _ssm(c),
        "ffn": _mlp(c),
    }
    if "E" in parts:
        if design["ffn"]["bias"]:
            raise c.refuse("mlp_bias", "must be False where layers hold experts")
        design["ffns"] = {"E": _experts(c, design["ffn"]["activation"])}
    c.ignore(EXPERT_FIELDS)
    c.ignore(OTHER_FIELDS)
    return design


def _parts(c: Fields) -> str:
    """A letter per layer, from the first of three fields that is there."""
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
    """The parts that are of these letters, and - for the others."""
    found = ""
    for part in parts:
        found += part if part in letters else "-"
    return found


def _norm_eps(c: Fields) -> float:
    older = c.number("rms_norm_eps", c.number("norm_eps", 1e-5))
    return c.number("layer_norm_epsilon", older)


def _attention(c: Fields) -> dict[str, Any]:
    return {
        "n_heads": c.count("num_attention_heads", 32),
        "n_kv_heads": c.count("num_key_value_heads", 8),
        "head_dim": c.count("head_dim", c.count("attention_head_dim", 128)),
        "position": "nope",
    }


def _ssm(c: Fields) -> dict[str, Any]:
    """Mamba-2. Each field is read under its own name, or else under the one of older files."""
    head_dim = c.count("mamba_head_dim", 64)
    biased = c.flag("use_bias")
    section = {
        "d_ssm": c.count("mamba_num_heads", 128) * head_dim,
        "head_dim": head_dim,
        "d_state": c.count("ssm_state_size", 128),
        "d_conv": c.count("conv_kernel", c.count("mamba_d_conv", 4)),
        "n_groups": c.count("n_groups", c.count("mamba_n_groups", 8)),
        "chunk_size": c.count("chunk_size", c.count("mamba_chunk_size", 128)),
        "conv_bias": c.flag("use_conv_bias", c.flag("mamba_conv_bias", True)),
        "in_bias": biased,
        "out_bias": biased,
    }
    limit = "mamba_dt_limit" if "mamba_dt_limit" in c else "time_step_limit"
    return section | shared.dt_limit(c, limit)


def _mlp(c: Fields) -> dict[str, Any]:
    return {
        "kind": "mlp",
        "d_ff": c.count("intermediate_size", 21504),
        "activation": c.word("mlp_hidden_act", shared.ACTIVATIONS, "relu2"),
        "bias": c.flag("mlp_bias"),
    }


def _experts(c: Fields, activation: str) -> dict[str, Any]:
    c.constant("n_group", 1)
    c.constant("topk_group", 1)
    moe = {
        "kind": "moe",
        "n_routed": c.count("n_routed_experts", 8),
        "top_k": c.count("num_experts_per_tok", 2),
        "n_shared": c.count("n_shared_experts", 1),
        "d_expert": c.count("moe_intermediate_size", 7688),
        "d_shared": c.count("moe_shared_expert_intermediate_size", 7688),
        "gated": False,
        "activation": activation,
        "norm_top_k": c.flag("norm_topk_prob", True),
        "scale": c.number("routed_scaling_factor", 1.0),
    }
    if "moe_latent_size" in c:
        moe["d_latent"] = c.count("moe_latent_size")
    return moe


def write_layers(spec: ArchSpec) -> dict[str, Any]:
    """A name per layer."""
    names = {"M": "mamba", "A": "attention", "-": "mlp"}
    listed = []
    for layer in spec.stack:
        if isinstance(layer.ffn, MoE):
            listed.append("moe")
        else:
            listed.append(names.get(layer.letter, "?"))
    return {"layers_block_type": listed}


_SSM_FIELDS = {
    "mamba_num_heads": "n_heads",
    "mamba_head_dim": "head_dim",
    "ssm_state_size": "d_state",
    "conv_kernel": "d_conv",
    "n_groups": "n_groups",
    "chunk_size": "chunk_size",
    "use_bias": "in_bias",
    "use_conv_bias": "conv_bias",
}
_MLP_FIELDS = {
    "intermediate_size": "d_ff",
    "mlp_hidden_act": writing.ACT,
    "mlp_bias": "bias",
}
_EXPERT_FIELDS = writing.TOP_K | {
    "n_routed_experts": "n_routed",
    "n_shared_experts": "n_shared",
    "moe_intermediate_size": "d_expert",
    "moe_shared_expert_intermediate_size": "shared_width",
    "moe_latent_size": "d_latent",
    "norm_topk_prob": "norm_top_k",
    "routed_scaling_factor": "scale",
    "mlp_hidden_act": writing.ACT,
}
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
    defaults={
        "vocab_size": 131_072,
        "hidden_size": 4096,
        "intermediate_size": 21_504,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    written=Written(
        "NemotronHForCausalLM",
        writing.LAYER_EPS,
        {
            AttentionMixer: writing.HEADS | writing.HEAD_DIM,
            Mamba2Mixer: _SSM_FIELDS,
            Mlp: _MLP_FIELDS,
            MoE: _EXPERT_FIELDS,
        },
        (writing.dt_limit, write_layers),
        n_layers=False,
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
