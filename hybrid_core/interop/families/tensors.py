"""The tensor names in checkpoints, by the tensor of our model that they belong to. live/weights.py
reads the tensors."""

from typing import NamedTuple

from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import Layer
from hybrid_core.ffns.moe import MoE
from hybrid_core.mixers.shared_block import SharedBlockMixer

# Our name inside a layer -> theirs. Several tensors are stacked from top to bottom into ours. {e}
# stands for each routed expert in turn, {hybrid} for the number of the hybrid layer.
Names = dict[str, list[str]]

HEAD = "lm_head.weight"
SHARED = ("shared_transf.", "shared_transformer.")  # the shared blocks of Zamba and Zamba2

# The embedding, the last norm and the list of layers. Checkpoints name them in one of three ways.
MODEL = ("model.embed_tokens.weight", "model.norm.weight", "model.layers")
FINAL = ("model.embed_tokens.weight", "model.final_layernorm.weight", "model.layers")
BACKBONE = ("backbone.embeddings.weight", "backbone.norm_f.weight", "backbone.layers")


class Tensors(NamedTuple):
    """The tensor names of one family.

    `embed`, `norm`, `blocks`: the embedding, the last norm, the list of layers. `inside`: the names
    inside a layer, by its letter. A bias without an entry has its weight's name, with .bias.
    `in_memory`: patterns of names in transformers' live model -> the published names."""

    embed: str
    norm: str
    blocks: str
    inside: dict[str, Names]
    in_memory: tuple[tuple[str, str], ...] = ()

    def of(self, ours: str, spec: ArchSpec) -> list[str]:
        """Their names for one of our tensors (`layers.3.mixer.qkv.weight`). Raises KeyError if the
        family has no such tensor."""
        outside = {
            "embed.weight": self.embed,
            "norm.weight": self.norm,
            "head.weight": HEAD,
        }
        if ours in outside:
            return [outside[ours]]
        _, number, name = ours.split(".", maxsplit=2)
        index = int(number)
        layer = spec.stack[index]
        parts = _with_bias(self.inside[layer.letter], name)
        if "{e}" in parts[0]:
            parts = _of_each_expert(parts, layer)
        return [self._full_name(part, spec, index) for part in parts]

    def _full_name(self, part: str, spec: ArchSpec, index: int) -> str:
        """The name including its layer. A shared block has the number of the first layer that uses
        it."""
        hybrids_before = spec.pattern[:index].count("Z")
        part = part.replace("{hybrid}", str(hybrids_before))
        if part.startswith(SHARED):
            index = first_layer(spec, index)
        return f"{self.blocks}.{index}.{part}"


def _of_each_expert(parts: list[str], layer: Layer) -> list[str]:
    """The names of all experts of a layer, in order."""
    found: list[str] = []
    if isinstance(layer.ffn, MoE):
        for expert in range(layer.ffn.n_routed):
            found += [part.replace("{e}", str(expert)) for part in parts]
    return found


def _with_bias(table: Names, name: str) -> list[str]:
    """The entry of a tensor. A bias without an entry gets its weight's name, with .bias."""
    if name in table or not name.endswith(".bias"):
        return table[name]
    weights = table[name.removesuffix(".bias") + ".weight"]
    return [part.removesuffix(".weight") + ".bias" for part in weights]


def first_layer(spec: ArchSpec, index: int) -> int:
    """The first layer, from 0, that uses the shared block of layer `index`. A checkpoint may store
    the block's tensors under any layer that uses it."""
    mixer = spec.stack[index].mixer
    assert isinstance(mixer, SharedBlockMixer)
    for i, layer in enumerate(spec.stack):
        other = layer.mixer
        if isinstance(other, SharedBlockMixer) and other.block == mixer.block:
            return i
    return index


# ---------------------------------------------------------------- names that families share

# Tensors that only one kind of Mamba has. Their names are the same as ours.
MAMBA1 = ("x_proj.weight", "dt_proj.weight", "dt_proj.bias")
MAMBA2 = ("dt_bias", "norm.weight")


def qkv(module: str, ours: str = "mixer") -> Names:
    """Queries, keys and values of a module, which are one matrix in our model."""
    return {f"{ours}.qkv.weight": [f"{module}.{part}_proj.weight" for part in "qkv"]}


def attention(module: str) -> Names:
    """Attention with only the query, key, value and output projections."""
    return qkv(module) | {"mixer.out.weight": [f"{module}.o_proj.weight"]}


def ssm(module: str, *own: str, ours: str = "mixer", **renamed: str) -> Names:
    """Mamba of either kind. `own`: tensors that only one kind has, with the same names as ours.
    `renamed`: our name -> the family's, if they differ."""
    names = {
        "conv_weight": "conv1d.weight",
        "conv_bias": "conv1d.bias",
        "out.weight": "out_proj.weight",
    }
    names |= renamed
    for name in ("in_proj.weight", "A_log", "D", *own):
        names[name] = name
    return {f"{ours}.{mine}": [f"{module}.{theirs}"] for mine, theirs in names.items()}


def ffn(module: str) -> Names:
    """A gated feed-forward. Gate and up are one matrix in our model."""
    return {
        "ffn.gate_up.weight": [f"{module}.gate_proj.weight", f"{module}.up_proj.weight"],
        "ffn.down.weight": [f"{module}.down_proj.weight"],
    }


def norms(mixer: str, feed_forward: str | None = None) -> Names:
    """The norm before the mixer, and the one before the feed-forward if the layer has one."""
    names = {"mixer_norm.weight": [f"{mixer}.weight"]}
    if feed_forward:
        names["ffn_norm.weight"] = [f"{feed_forward}.weight"]
    return names


# The feed-forward of Bamba, Jamba and Falcon-H1.
FEED_FORWARD = ffn("feed_forward") | norms("input_layernorm", "pre_ff_layernorm")
LLAMA_BLOCK = (
    attention("self_attn") | ffn("mlp") | norms("input_layernorm", "post_attention_layernorm")
)
