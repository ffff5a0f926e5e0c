"""Where a checkpoint keeps each tensor of a design, under its published name. No tensor is read
here: live/weights.py does that, with these tables."""

from typing import NamedTuple

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.mixers.shared_block import SharedBlockMixer

# Our name inside a block -> theirs; several are stacked, top to bottom. {e} stands for every routed
# expert in turn, {hybrid} for the number of the hybrid layer.
Names = dict[str, list[str]]

HEAD = "lm_head.weight"
SHARED = ("shared_transf.", "shared_transformer.")  # of Zamba and Zamba2

# The embedding, the last norm and the list of blocks, in the three ways in which checkpoints name
# them.
MODEL = ("model.embed_tokens.weight", "model.norm.weight", "model.layers")
FINAL = ("model.embed_tokens.weight", "model.final_layernorm.weight", "model.layers")
BACKBONE = ("backbone.embeddings.weight", "backbone.norm_f.weight", "backbone.layers")


class Tensors(NamedTuple):
    """The names of one family: of the embedding, the last norm, the list of blocks, and inside a
    block by the letter of its layer.

    `in_memory`: patterns of transformers' names in a live model -> the published names. A name that
    is not in `inside` but ends in .bias belongs to the weight of the same name."""

    embed: str
    norm: str
    blocks: str
    inside: dict[str, Names]
    in_memory: tuple[tuple[str, str], ...] = ()

    def of(self, ours: str, spec: ArchSpec) -> list[str]:
        """Their tensors behind one of ours. Raises KeyError where the family has none."""
        outside = {
            "embed.weight": self.embed,
            "norm.weight": self.norm,
            "head.weight": HEAD,
        }
        if ours in outside:
            return [outside[ours]]
        _, number, name = ours.split(".", 2)
        index = int(number)
        layer = spec.stack[index]
        parts = _with_bias(self.inside[layer.letter], name)
        if "{e}" in parts[0]:
            n_experts = layer.ffn.n_routed if isinstance(layer.ffn, MoE) else 0
            parts = [part.replace("{e}", str(e)) for e in range(n_experts) for part in parts]
        return [self._full_name(part, spec, index) for part in parts]

    def _full_name(self, part: str, spec: ArchSpec, index: int) -> str:
        """The name with its layer; what layers share stands under the first of them."""
        hybrid = sum(layer.letter == "Z" for layer in spec.stack[:index])
        if part.startswith(SHARED):
            index = first_layer(spec, index)
        return f"{self.blocks}.{index}.{part.replace('{hybrid}', str(hybrid))}"


def _with_bias(table: Names, name: str) -> list[str]:
    """The entry of a tensor; a bias without one follows its weight."""
    if name in table or not name.endswith(".bias"):
        return table[name]
    weights = table[name.removesuffix(".bias") + ".weight"]
    return [part.removesuffix(".weight") + ".bias" for part in weights]


def first_layer(spec: ArchSpec, index: int) -> int:
    """The first layer that holds the shared block of layer `index`; a checkpoint may name any of
    them."""
    block = spec.stack[index].mixer
    assert isinstance(block, SharedBlockMixer)
    for i, layer in enumerate(spec.stack):
        if isinstance(layer.mixer, SharedBlockMixer) and layer.mixer.block == block.block:
            return i
    return index


# ---------------------------------------------------------------- names that families share

# Tensors that only one kind of Mamba has, with the same name on both sides.
MAMBA1 = ("x_proj.weight", "dt_proj.weight", "dt_proj.bias")
MAMBA2 = ("dt_bias", "norm.weight")


def qkv(module: str, ours: str = "mixer") -> Names:
    """Queries, keys and values of a module, which are one matrix here."""
    return {f"{ours}.qkv.weight": [f"{module}.{part}_proj.weight" for part in "qkv"]}


def attention(module: str) -> Names:
    """Attention without anything of its own."""
    return qkv(module) | {"mixer.out.weight": [f"{module}.o_proj.weight"]}


def ssm(module: str, *own: str, ours: str = "mixer", **renamed: str) -> Names:
    """Mamba of either kind. `own`: tensors that only one of them has, with the same name on both
    sides; `renamed`: those that this family calls otherwise."""
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
    """A gated feed-forward, whose gate and up are one matrix here."""
    return {
        "ffn.gate_up.weight": [f"{module}.gate_proj.weight", f"{module}.up_proj.weight"],
        "ffn.down.weight": [f"{module}.down_proj.weight"],
    }


def norms(mixer: str, feed_forward: str | None = None) -> Names:
    """The norms before the mixer and, where there is one, before the feed-forward."""
    names = {"mixer_norm.weight": [f"{mixer}.weight"]}
    if feed_forward:
        names["ffn_norm.weight"] = [f"{feed_forward}.weight"]
    return names


# The feed-forward of Bamba, Jamba and Falcon-H1.
FEED_FORWARD = ffn("feed_forward") | norms("input_layernorm", "pre_ff_layernorm")
LLAMA_BLOCK = (
    attention("self_attn") | ffn("mlp") | norms("input_layernorm", "post_attention_layernorm")
)
