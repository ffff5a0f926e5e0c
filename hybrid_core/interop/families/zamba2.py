"""Zamba2: Mamba-2 layers. Hybrid layers also run one of a few shared blocks, in turn, with their
own low-rank adapters.

dt has no lower limit, as in Zyphra's own code (Zyphra/Zamba2 at 1b182f4, mamba2_layer.py: dt_limit
is (0, inf)). transformers 5.23 clamps it by `time_step_min`, as for Nemotron-H."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.families import shared, table, tensors, writing, zamba
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, activation, count, derived, flag
from hybrid_core.interop.families.tensors import Names, Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields, at
from hybrid_core.interop.stack_parts import first_attention
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.shared_block import SharedBlockMixer

GATED_EPS = 1e-5  # of Mamba-2's gated norm, regardless of `rms_norm_eps`

_MODEL = table.model("rms_norm_eps", tied=True)
_SSM = Table(
    derived("n_heads", "n_mamba_heads"),
    count("d_state", "mamba_d_state", 64),
    count("d_conv", "mamba_d_conv", 4),
    count("n_groups", "mamba_ngroups", 1),
    count("chunk_size", "chunk_size", 256),
    flag("out_bias", "add_bias_linear"),
    flag("in_bias", "add_bias_linear"),
)
_FFN = Table(
    count("d_ff", "intermediate_size"),
    activation("hidden_act", "gelu"),
    flag("bias", "add_bias_linear"),
)
_ADAPTERS = Table(
    count("adapter_rank", "adapter_rank", 128, least=0),
    flag("attention_adapters", "use_shared_attention_adapter"),
)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    c.must("tie_word_embeddings", True)
    design = _MODEL.read(c)
    d_model = design["d_model"]
    ssm = _ssm(c, d_model)
    if design["norm_eps"] != GATED_EPS:
        c.constants["gated_norm_eps"] = GATED_EPS
    pattern = _layers(c, design["n_layers"])
    ffn = _feed_forward(c, d_model)
    c.ignore("mamba_headdim kv_channels num_query_groups use_mem_eff_path state_size ft_lora")
    c.ignore("lora_rank layers mamba_num_heads")
    c.constant("use_long_context", False)
    position = _position(c)
    adapters = _adapters(c)
    n_blocks = c.count("num_mem_blocks", 1)
    block = {
        "attention": zamba.block_attention(c, d_model) | position,
        "ffn": ffn,
        "ssm": ssm,
    }
    return design | zamba.hybrid_layers(pattern, n_blocks, block | adapters)


def _ssm(c: Fields, d_model: int) -> dict[str, Any]:
    n_heads = c.count("n_mamba_heads", 8)
    d_ssm = c.count("mamba_expand", 2) * d_model
    if d_ssm % n_heads:
        raise c.refuse("n_mamba_heads", f"must divide mamba_expand * hidden_size ({d_ssm})")
    c.must("use_conv_bias", True)  # transformers has the bias, regardless of the field
    section = _SSM.read(c) | {
        "d_ssm": d_ssm,
        "head_dim": d_ssm // n_heads,
    }
    return section | shared.dt_limit(c)


def _layers(c: Fields, n_layers: int) -> str:
    hybrid = c.indices("hybrid_layer_ids", n_layers)
    numbered = at(n_layers, hybrid, "Z", "M")
    pattern = zamba.named_layers(c, n_layers) or numbered
    if hybrid and pattern != numbered:
        raise c.refuse("hybrid_layer_ids", "contradicts layers_block_type")
    return pattern


def _feed_forward(c: Fields, d_model: int) -> dict[str, Any]:
    ffn = _FFN.read(c, d_ff=4 * d_model)
    c.must("ffn_hidden_size", ffn["d_ff"], None)
    return {"kind": "swiglu"} | ffn


def _position(c: Fields) -> dict[str, Any]:
    if c.flag("use_mem_rope"):
        return shared.rope(c, 1.0)
    c.ignore("rope_theta rope_scaling rope_parameters")
    return shared.NOPE


def _adapters(c: Fields) -> dict[str, Any]:
    """The low-rank adapters that each use of a shared block has."""
    adapters = _ADAPTERS.read(c)
    n_heads = c.count("num_attention_heads")
    n_kv_heads = c.count("num_key_value_heads", n_heads)
    if adapters["attention_adapters"] and n_kv_heads != n_heads:
        # the class makes adapters as wide as all heads
        rule = f"must be num_attention_heads ({n_heads}) with use_shared_attention_adapter"
        raise c.refuse("num_key_value_heads", rule)
    return adapters


def _write_blocks(spec: ArchSpec) -> dict[str, Any]:
    """The number of shared blocks, and whether they have RoPE."""
    attention = first_attention(spec)
    blocks = set()
    for layer in spec.stack:
        if isinstance(layer.mixer, SharedBlockMixer):
            blocks.add(layer.mixer.block)
    return {
        "num_mem_blocks": len(blocks),
        "use_mem_rope": attention is not None and attention.position == "rope",
    }


def _adapter_names(block: str) -> Names:
    """Tensor names of the adapters: a list has one for each hybrid layer, by its number
    ({hybrid})."""
    lists = {"mixer.ffn_adapter.": f"{block}.feed_forward.gate_up_proj_adapter_list"}
    for i, part in enumerate("qkv"):
        lists[f"mixer.qkv_adapters.{i}."] = f"{block}.self_attn.linear_{part}_adapter_list"
    names: Names = {}
    for ours, theirs in lists.items():
        names[f"{ours}narrow.weight"] = [f"{theirs}.{{hybrid}}.0.weight"]
        names[f"{ours}wide.weight"] = [f"{theirs}.{{hybrid}}.1.weight"]
    return names


_BLOCK = "shared_transformer"
_FEED_FORWARD = {
    "ffn.gate_up.weight": ["gate_up_proj.weight"],
    "ffn.down.weight": ["down_proj.weight"],
}
_BLOCK_NAMES = zamba.block_names(
    _BLOCK,
    tensors.ssm("mamba_decoder.mamba", *tensors.MAMBA2),
    _FEED_FORWARD,
)

FAMILY = Family(
    name="zamba2",
    read=read,
    tables={
        ArchSpec: _MODEL,
        Mamba2Mixer: _SSM,
        SharedBlockMixer: zamba.BLOCK | _ADAPTERS,
    },
    defaults={
        "vocab_size": 32_000,
        "hidden_size": 2560,
        "num_hidden_layers": 54,
        "num_attention_heads": 32,
    },
    written=Written(
        "Zamba2ForCausalLM",
        (
            writing.expand(),
            writing.dt_limit,
            _write_blocks,
            writing.rope,
            writing.layer_names("layers_block_type", **writing.HYBRID_NAMES),
        ),
    ),
    tensors=Tensors(
        *tensors.FINAL,
        {
            "M": tensors.ssm("mamba", *tensors.MAMBA2) | tensors.norms("input_layernorm"),
            "Z": _BLOCK_NAMES | _adapter_names(_BLOCK),
        },
    ),
)
