"""Zamba: Mamba-1 layers. Some are hybrid layers, which also run an attention block that they all
share. Zamba2 uses the functions here."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.families import shared, table, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, count
from hybrid_core.interop.families.tensors import Names, Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields, every
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.shared_block import SharedBlockMixer

_MODEL = table.model("rms_norm_eps", tied=True)
_SSM = table.MAMBA1 | Table(count("n_heads", "n_mamba_heads", 2))
BLOCK = table.HEADS.inside("attention") | table.GATED.inside("ffn")


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    # transformers ties both the blocks and the embeddings, or neither
    c.must("tie_word_embeddings", True)
    design = _MODEL.read(c)
    ssm = shared.mamba1(c) | _SSM.read(c)
    shared.silu(c, "hidden_mamba_act")
    c.must("sliding_window", None)
    c.ignore("rope_theta num_query_groups")
    n = design["n_layers"]
    period = c.count("attn_layer_period", 6)
    offset = c.count("attn_layer_offset", 4, least=0)
    # ZambaConfig: the third layer is hybrid, and the period starts after it
    behind = every(max(n - 3, 0), period, offset, "Z", "M")
    default = f"MMZ{behind}"[:n]
    pattern = named_layers(c, n) or default
    ffn = shared.gated(c)
    ffn |= Table(table.activation("hidden_act", "gelu")).read(c)
    block = {
        "attention": block_attention(c, design["d_model"]) | shared.NOPE,
        "ffn": ffn,
        "ssm": ssm,
    }
    return design | hybrid_layers(pattern, 1, block)


def named_layers(c: Fields, n_layers: int) -> str | None:
    """A letter per layer, from its name: M, or Z for a hybrid layer. None if the config has no
    names."""
    for key in ("layers_block_type", "layer_types"):
        found = c.kinds(key, n_layers, shared.HYBRID)
        if found:
            return found
    return None


def block_attention(c: Fields, d_model: int) -> dict[str, Any]:
    """The shared block's attention. Its input is the residual stream concatenated with the
    embedding, so it is twice as wide as the model."""
    n_heads = c.count("num_attention_heads")
    d_attention = c.count("attention_hidden_size", 2 * d_model)
    head_dim = c.count("attention_head_dim", 2 * d_model // n_heads)
    if d_attention != 2 * d_model or head_dim * n_heads != 2 * d_model:
        rule = f"must give heads that add up to twice hidden_size ({2 * d_model})"
        raise c.refuse("num_attention_heads", rule)
    return table.HEADS.read(c, n_kv_heads=n_heads) | {
        "kind": "attention",
        "head_dim": head_dim,
        "d_input": 2 * d_model,
        "softmax_scale": (head_dim / 2) ** -0.5,
    }


def hybrid_layers(
    pattern: str,
    n_blocks: int,
    block: dict[str, Any],
) -> dict[str, Any]:
    """The layers of a design. Hybrid layers (Z) use the shared blocks in turn; the others (M) are
    plain Mamba layers. `block`: the fields of a shared block."""
    ssm = block["ssm"]
    kind = block | {"kind": "shared_block", "ssm": {"kind": "mamba2"} | ssm}
    letters = ""
    taken = 0
    for letter in pattern:
        if letter == "M":
            letters += letter
        else:
            letters += str(taken % n_blocks)
            taken += 1
    used = range(min(n_blocks, taken))
    return {
        "layers": {"pattern": letters},
        "ssm": ssm,
        "mixers": {str(number): kind | {"block": number} for number in used},
    }


def block_names(block: str, ssm: Names, feed_forward: dict[str, list[str]]) -> Names:
    """Tensor names of a hybrid layer: the shared block, its projection, and the Mamba layer, whose
    names are nested one level deeper than in other layers."""
    names = tensors.qkv(f"{block}.self_attn", "mixer.block.attention")
    names |= {
        "mixer.block.attention.out.weight": [f"{block}.self_attn.o_proj.weight"],
        "mixer.block.norm.weight": [f"{block}.input_layernorm.weight"],
        "mixer.block.ffn_norm.weight": [f"{block}.pre_ff_layernorm.weight"],
        "mixer.linear.weight": ["linear.weight"],
    }
    for key, parts in feed_forward.items():
        names[f"mixer.block.{key}"] = [f"{block}.feed_forward.{part}" for part in parts]
    for key, parts in ssm.items():
        names[key.replace("mixer.", "mixer.ssm.")] = parts
    return names | tensors.norms("mamba_decoder.input_layernorm")


_SSM_NAMES = {
    "x_proj.weight": "x_proj_weight",
    "dt_proj.weight": "dt_proj_weight",
    "dt_proj.bias": "dt_proj_bias",
}
_FEED_FORWARD = {
    "ffn.gate_up.weight": ["gate_proj.weight", "up_proj.weight"],
    "ffn.down.weight": ["down_proj.weight"],
}

FAMILY = Family(
    name="zamba",
    read=read,
    tables={
        ArchSpec: _MODEL,
        Mamba1Mixer: _SSM,
        SharedBlockMixer: BLOCK,
    },
    defaults={
        "vocab_size": 32_000,
        "hidden_size": 3712,
        "intermediate_size": 14_848,
        "num_hidden_layers": 76,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
    written=Written(
        "ZambaForCausalLM",
        (
            writing.expand(),
            writing.layer_names("layers_block_type", **writing.HYBRID_NAMES),
        ),
    ),
    tensors=Tensors(
        *tensors.FINAL,
        {
            "m": tensors.ssm("mamba", **_SSM_NAMES) | tensors.norms("input_layernorm"),
            "Z": block_names(
                "shared_transf",
                tensors.ssm("mamba_decoder.mamba", **_SSM_NAMES),
                _FEED_FORWARD,
            ),
        },
    ),
)
