"""Weights of transformers' models in: a state dict and its config become a HybridLM that computes the same.

A family is one entry of FAMILIES: where transformers keeps the tensor, or the several that one of ours stacks. Which layers there
are and how large each tensor must be is known from the model that the config describes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hybrid_core.interop.huggingface import spec_from_config
from hybrid_core.modules import HybridLM, build


class WeightsError(ValueError):
    """Tensors that do not fit the design: one line that names the first of them."""


# Our name inside a block -> theirs; several are stacked, top to bottom.
Names = dict[str, list[str]]

ATTENTION: Names = {
    "mixer.qkv.weight": ["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"],
    "mixer.out.weight": ["self_attn.o_proj.weight"],
}


def _ssm(module: str, *own: str) -> Names:
    """Mamba of either kind; `own` are the tensors that only one of them has, with the same name on both sides."""
    renamed = {"conv_weight": "conv1d.weight", "conv_bias": "conv1d.bias", "out.weight": "out_proj.weight"}
    names = renamed | {name: name for name in ("in_proj.weight", "A_log", "D", *own)}
    return {f"mixer.{ours}": [f"{module}.{theirs}"] for ours, theirs in names.items()}


def _ffn(module: str) -> Names:
    return {
        "ffn.gate_up.weight": [f"{module}.gate_proj.weight", f"{module}.up_proj.weight"],
        "ffn.down.weight": [f"{module}.down_proj.weight"],
    }


def _norms(mixer: str, ffn: str | None = None) -> Names:
    return {"mixer_norm.weight": [f"{mixer}.weight"]} | ({"ffn_norm.weight": [f"{ffn}.weight"]} if ffn else {})


class Family(NamedTuple):
    """The names of one family: of the embedding, the last norm, the list of blocks, and inside a block by the letter of its layer."""

    embed: str
    norm: str
    blocks: str
    inside: dict[str, Names]

    def of(self, ours: str, pattern: str) -> list[str]:
        """Their tensors behind one of ours, in a model whose layers are `pattern`."""
        outside = {"embed.weight": self.embed, "norm.weight": self.norm, "head.weight": HEAD}
        if ours in outside:
            return [outside[ours]]
        _, index, name = ours.split(".", 2)
        return [f"{self.blocks}.{index}.{theirs}" for theirs in self.inside[pattern[int(index)]][name]]


HEAD = "lm_head.weight"
MAMBA1 = ("x_proj.weight", "dt_proj.weight", "dt_proj.bias")
MAMBA2 = ("dt_bias", "norm.weight")
LLAMA_BLOCK = ATTENTION | _ffn("mlp") | _norms("input_layernorm", "post_attention_layernorm")
LLAMA = Family("model.embed_tokens.weight", "model.norm.weight", "model.layers", {"A": LLAMA_BLOCK, "S": LLAMA_BLOCK})
BAMBA_REST = _ffn("feed_forward") | _norms("input_layernorm", "pre_ff_layernorm")
BAMBA_BLOCKS = {"A": ATTENTION | BAMBA_REST, "M": _ssm("mamba", *MAMBA2) | BAMBA_REST}
BACKBONE = ("backbone.embeddings.weight", "backbone.norm_f.weight", "backbone.layers")

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "mamba": Family(*BACKBONE, {"M": _ssm("mixer", *MAMBA1) | _norms("norm")}),
    "mamba2": Family(*BACKBONE, {"M": _ssm("mixer", *MAMBA2) | _norms("norm")}),
    "bamba": Family("model.embed_tokens.weight", "model.final_layernorm.weight", "model.layers", BAMBA_BLOCKS),
}


def from_transformers(config: Mapping[str, Any], state_dict: Mapping[str, Tensor], name: str | None = None) -> HybridLM:
    """The model of a config.json with the weights of its state dict, in their dtype and on their device; `model.spec` is its design.

    Tensors that need no stacking share their memory with `state_dict`. Raises SpecError for a config that is not understood and
    WeightsError for a tensor that is missing, left over or of the wrong shape.
    """
    model = build(spec_from_config(config, name), "meta")
    model.load_state_dict(_convert(model, FAMILIES[config["model_type"]], state_dict), assign=True)
    return model


def _convert(model: HybridLM, family: Family, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict. Every tensor of theirs is used once."""
    left = {name: tensor for name, tensor in theirs.items() if not name.endswith("rotary_emb.inv_freq")}  # once saved, never read
    ours = {}
    for key, target in model.state_dict().items():
        pieces = [_take(left, name, shape) for name, shape in _pieces(model, family, key, target)]
        ours[key] = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
    if model.head is None and not torch.equal(left.pop(HEAD, ours["embed.weight"]), ours["embed.weight"]):
        raise WeightsError(f"{HEAD}: differs from the embedding, though the config ties them")
    if left:
        raise WeightsError(f"{next(iter(left))}: the design {model.spec.name} has no place for this tensor")
    return ours


def _pieces(model: HybridLM, family: Family, key: str, target: Tensor) -> Iterator[tuple[str, list[int]]]:
    """Name and shape that each of their tensors behind `key` must have."""
    names = family.of(key, model.spec.pattern)
    rows: Any = [len(target) // len(names)] * len(names)
    if key.endswith(".qkv.weight"):  # the only one stacked of unequal parts
        rows = model.get_submodule(key.removesuffix(".qkv.weight")).widths
    for name, n in zip(names, rows, strict=True):
        yield name, [n, *target.shape[1:]]


def _take(left: dict[str, Tensor], name: str, shape: list[int]) -> Tensor:
    """Their tensor, removed from those left; a convolution over single channels loses its axis of one."""
    if name not in left:
        raise WeightsError(f"{name}: missing")
    tensor = left.pop(name)
    needed = [shape[0], 1, *shape[1:]] if name.endswith("conv1d.weight") else shape
    if list(tensor.shape) != needed:
        raise WeightsError(f"{name}: {list(tensor.shape)} - must be {needed}")
    return tensor.reshape(shape)
