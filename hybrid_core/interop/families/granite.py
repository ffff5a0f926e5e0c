"""Granite 4: attention or Mamba-2, and a shared feed-forward in every layer. Larger models also
have routed experts."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, count, derived
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.interop.stack_parts import first_attention, first_of
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer

_MODEL = table.model("rms_norm_eps", 1e-6)
_DENSE = Table(
    count("d_ff", "shared_intermediate_size", 1024),
    table.activation("hidden_act"),
)
_EXPERTS = table.TOP_K | Table(
    count("n_routed", "num_local_experts", 8),
    count("d_expert", "intermediate_size"),
    count("d_shared", "shared_intermediate_size", 1024),
    derived("shared_width", "shared_intermediate_size"),
    table.activation("hidden_act"),
)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = _MODEL.read(c)
    n = design["n_layers"]
    n_experts = c.count("num_local_experts", 8, least=0)
    c.must("normalization_function", "rmsnorm")
    c.must("mlp_bias", False)
    attention = _attention(c)
    for key in ("embedding_multiplier", "residual_multiplier", "logits_scaling"):
        c.constant(key, 1.0, 1)
    by_type = c.kinds("layer_types", n, shared.HYBRID)
    by_block = c.kinds("layers_block_type", n, shared.HYBRID)
    pattern = by_type or by_block or "M" * n
    ffn = _experts(c) if n_experts else {"kind": "swiglu"} | _DENSE.read(c)
    c.ignore("hidden_act intermediate_size num_experts_per_tok init_method")
    return design | {
        "layers": {"pattern": pattern},
        "attention": attention,
        "ssm": _ssm(c, design["d_model"], pattern),
        "ffn": ffn,
    }


def _attention(c: Fields) -> dict[str, Any]:
    has_rope = c.take("position_embedding_type", None) == "rope"
    c.must("position_embedding_type", None, "nope", "rope")
    section = shared.attention(c, rope_fraction=1.0 if has_rope else None)
    if not has_rope:
        c.ignore("rope_theta rope_scaling rope_parameters")
    scale = c.number("attention_multiplier", 1.0)
    if scale != section["head_dim"] ** -0.5:
        section["softmax_scale"] = scale
    return section


def _ssm(c: Fields, d_model: int, pattern: str) -> dict[str, Any] | None:
    """Mamba-2, or None if there is no Mamba layer."""
    if "M" in pattern:
        return shared.bamba_ssm(c, d_model)
    c.ignore("mamba_n_heads mamba_n_groups mamba_d_state mamba_d_head mamba_d_conv mamba_expand")
    c.ignore("mamba_chunk_size mamba_conv_bias mamba_proj_bias time_step_limit")
    return None


def _experts(c: Fields) -> dict[str, Any]:
    return _EXPERTS.read(c) | {
        "kind": "moe",
        "n_shared": 1,
        "score": "softmax",
        "norm_top_k": True,
    }


def _write(spec: ArchSpec) -> dict[str, Any]:
    """The expert fields for a design without experts, the scale of the attention scores, and the
    position encoding."""
    config: dict[str, Any] = {}
    dense = first_of(spec, SwiGLU)
    if dense:
        config["num_local_experts"] = 0
        config["intermediate_size"] = dense.d_ff
    mixer = first_attention(spec)
    if mixer:
        config["attention_multiplier"] = mixer.softmax_scale or mixer.head_dim**-0.5
        config["position_embedding_type"] = "rope" if mixer.position == "rope" else "nope"
    return config


_MOE = "block_sparse_moe"
_REST = tensors.norms("input_layernorm", "post_attention_layernorm") | {
    "ffn.router.weight": [f"{_MOE}.router.layer.weight"],
    "ffn.gate_up": [f"{_MOE}.input_linear.weight"],
    "ffn.down": [f"{_MOE}.output_linear.weight"],
    "ffn.shared.gate_up.weight": ["shared_mlp.input_linear.weight"],
    "ffn.shared.down.weight": ["shared_mlp.output_linear.weight"],
    "ffn.gate_up.weight": ["shared_mlp.input_linear.weight"],
    "ffn.down.weight": ["shared_mlp.output_linear.weight"],
}
_IN_MEMORY = (
    (rf"(.*)\.{_MOE}\.experts\.gate_up_proj", rf"\1.{_MOE}.input_linear.weight"),
    (rf"(.*)\.{_MOE}\.experts\.down_proj", rf"\1.{_MOE}.output_linear.weight"),
    (rf"(.*)\.{_MOE}\.router\.weight", rf"\1.{_MOE}.router.layer.weight"),
)

FAMILY = Family(
    name="granitemoehybrid",
    read=read,
    tables={
        ArchSpec: _MODEL,
        AttentionMixer: table.HEADS | table.BIASES,
        Mamba2Mixer: table.MAMBA2,
        SwiGLU: _DENSE,
        MoE: _EXPERTS,
    },
    defaults={
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    written=Written(
        "GraniteMoeHybridForCausalLM",
        (
            writing.spare_heads,
            writing.expand(),
            writing.dt_limit,
            _write,
            writing.rope,
            writing.layer_names("layer_types", **writing.HYBRID_NAMES),
        ),
    ),
    tensors=Tensors(
        *tensors.MODEL,
        {
            "A": tensors.attention("self_attn") | _REST,
            "M": tensors.ssm("mamba", *tensors.MAMBA2) | _REST,
        },
        in_memory=_IN_MEMORY,
    ),
    fused_experts=True,
)
