"""Weights of published models in and out: the tensors of a checkpoint become a HybridLM that
computes the same, and the other way.

A family is one table: where a checkpoint keeps the tensor, or the several that one of ours stacks,
under their published names (transformers' own in-memory names are brought to them first). Which
layers there are and how large each tensor must be is known from the model that the config
describes. Multipliers of a config (ArchSpec.constants) are factors of whole tensors or rows: they
go into the weights on the way in and come out on the way back, so that no module has to know them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hybrid_core.data import folder, in_place_of, write_whole
from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.files import require_files
from hybrid_core.interop.export import hf_config
from hybrid_core.interop.huggingface import read_config, spec_from_config
from hybrid_core.live.modules import HybridLM, build
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.shared_block import SharedBlockMixer
from hybrid_core.validation import SpecError


class WeightsError(SpecError):
    """Tensors that do not fit the design: one line that names the first of them."""


# Our name inside a block -> theirs; several are stacked, top to bottom. {e} stands for every routed
# expert in turn.
Names = dict[str, list[str]]


def _qkv(module: str, ours: str = "mixer") -> Names:
    return {f"{ours}.qkv.weight": [f"{module}.{part}_proj.weight" for part in "qkv"]}


def _attention(module: str) -> Names:
    return _qkv(module) | {"mixer.out.weight": [f"{module}.o_proj.weight"]}


def _ssm(module: str, *own: str, ours: str = "mixer", **renamed: str) -> Names:
    """Mamba of either kind; `own` are the tensors that only one of them has, with the same name on
    both sides."""
    names = {
        "conv_weight": "conv1d.weight",
        "conv_bias": "conv1d.bias",
        "out.weight": "out_proj.weight",
    } | renamed
    names |= {name: name for name in ("in_proj.weight", "A_log", "D", *own)}
    return {f"{ours}.{mine}": [f"{module}.{theirs}"] for mine, theirs in names.items()}


def _ffn(module: str) -> Names:
    return {
        "ffn.gate_up.weight": [f"{module}.gate_proj.weight", f"{module}.up_proj.weight"],
        "ffn.down.weight": [f"{module}.down_proj.weight"],
    }


def _norms(mixer: str, ffn: str | None = None) -> Names:
    return {"mixer_norm.weight": [f"{mixer}.weight"]} | (
        {"ffn_norm.weight": [f"{ffn}.weight"]} if ffn else {}
    )


def first_layer(spec: ArchSpec, index: int) -> int:
    """The first layer that holds the shared block of layer `index`; a checkpoint may name any of
    them."""
    block = spec.stack[index].mixer
    assert isinstance(block, SharedBlockMixer)
    return next(
        i
        for i, other in enumerate(spec.stack)
        if isinstance(other.mixer, SharedBlockMixer) and other.mixer.block == block.block
    )


class Family(NamedTuple):
    """The names of one family: of the embedding, the last norm, the list of blocks, and inside a
    block by the letter of its layer. `in_memory`: transformers' names in a live model, as patterns
    -> the published ones."""

    embed: str
    norm: str
    blocks: str
    inside: dict[str, Names]
    in_memory: tuple[tuple[str, str], ...] = ()

    def of(self, ours: str, spec: ArchSpec) -> list[str]:
        """Their tensors behind one of ours."""
        outside = {"embed.weight": self.embed, "norm.weight": self.norm, "head.weight": HEAD}
        if ours in outside:
            return [outside[ours]]
        _, index, name = ours.split(".", 2)
        layer = spec.stack[int(index)]
        table = self.inside[layer.letter]
        biased = name not in table and name.endswith(".bias")
        theirs = table[name.removesuffix(".bias") + ".weight" if biased else name]
        if biased:
            theirs = [part.removesuffix(".weight") + ".bias" for part in theirs]
        hybrid = sum(other.letter == "Z" for other in spec.stack[: int(index)])
        theirs = [part.replace("{hybrid}", str(hybrid)) for part in theirs]
        n_experts = layer.ffn.n_routed if isinstance(layer.ffn, MoE) else 0
        repeated = (
            [part.format(e=e) for e in range(n_experts) for part in theirs]
            if "{e}" in theirs[0]
            else theirs
        )
        return [
            f"{self.blocks}.{first_layer(spec, int(index)) if part.startswith(SHARED) else index}.{part}"
            for part in repeated
        ]


SHARED = ("shared_transf.", "shared_transformer.")  # of Zamba and Zamba2
HEAD = "lm_head.weight"
MAMBA1 = ("x_proj.weight", "dt_proj.weight", "dt_proj.bias")
MAMBA2 = ("dt_bias", "norm.weight")
LLAMA_BLOCK = (
    _attention("self_attn") | _ffn("mlp") | _norms("input_layernorm", "post_attention_layernorm")
)
BACKBONE = ("backbone.embeddings.weight", "backbone.norm_f.weight", "backbone.layers")
MODEL = ("model.embed_tokens.weight", "model.norm.weight", "model.layers")
FINAL = ("model.embed_tokens.weight", "model.final_layernorm.weight", "model.layers")
PRE_FF = _ffn("feed_forward") | _norms("input_layernorm", "pre_ff_layernorm")
JAMBA_REST = PRE_FF | {
    "ffn.router.weight": ["feed_forward.router.weight"],
    "ffn.gate_up": [
        "feed_forward.experts.{e}.gate_proj.weight",
        "feed_forward.experts.{e}.up_proj.weight",
    ],
    "ffn.down": ["feed_forward.experts.{e}.down_proj.weight"],
}
JAMBA_NORMS = {
    f"{part}_norm.weight": f"{part.lower()}_layernorm.weight" for part in ("dt", "B", "C")
}
GRANITE_REST = _norms("input_layernorm", "post_attention_layernorm") | {
    "ffn.router.weight": ["block_sparse_moe.router.layer.weight"],
    "ffn.gate_up": ["block_sparse_moe.input_linear.weight"],
    "ffn.down": ["block_sparse_moe.output_linear.weight"],
    "ffn.shared.gate_up.weight": ["shared_mlp.input_linear.weight"],
    "ffn.shared.down.weight": ["shared_mlp.output_linear.weight"],
    "ffn.gate_up.weight": ["shared_mlp.input_linear.weight"],
    "ffn.down.weight": ["shared_mlp.output_linear.weight"],
}
NEMOTRON_FFN = {
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
FALCON_H1 = (
    _qkv("self_attn", "mixer.attention")
    | _ssm("mamba", "dt_bias", ours="mixer.ssm")
    | {
        "mixer.attention_out.weight": ["self_attn.o_proj.weight"],
        "mixer.ssm_out.weight": ["mamba.out_proj.weight"],
    }
    | {"mixer.gate_norm.weight": ["mamba.norm.weight"]}
    | PRE_FF
)
EXPERTS = (
    r"(.*)\.block_sparse_moe\.experts\.gate_up_proj",
    r"\1.block_sparse_moe.input_linear.weight",
)


def _shared(block: str, ssm: Names, ffn: Names) -> Names:
    """Zamba's hybrid layer: the shared block, its projection, and the SSM one level further
    down."""
    inside = _qkv(f"{block}.self_attn", "mixer.block.attention") | {
        "mixer.block.attention.out.weight": [f"{block}.self_attn.o_proj.weight"]
    }
    inside |= {
        f"mixer.block.{key}": [f"{block}.feed_forward.{part}" for part in parts]
        for key, parts in ffn.items()
    }
    inside |= {
        "mixer.block.norm.weight": [f"{block}.input_layernorm.weight"],
        "mixer.linear.weight": ["linear.weight"],
    }
    inside |= {"mixer.block.ffn_norm.weight": [f"{block}.pre_ff_layernorm.weight"]} | _norms(
        "mamba_decoder.input_layernorm"
    )
    return inside | {key.replace("mixer.", "mixer.ssm."): parts for key, parts in ssm.items()}


def _adapters(block: str) -> Names:
    """Zamba2's, which a list keeps by the number of the hybrid layer, {hybrid}."""
    attention, ffn = f"{block}.self_attn.linear_", f"{block}.feed_forward.gate_up_proj_adapter_list"
    names = {
        f"mixer.qkv_adapters.{i}.": f"{attention}{part}_adapter_list"
        for i, part in enumerate("qkv")
    }
    names |= {"mixer.ffn_adapter.": ffn}
    return {
        f"{key}{part}.weight": [f"{theirs}.{{hybrid}}.{i}.weight"]
        for key, theirs in names.items()
        for i, part in enumerate(("narrow", "wide"))
    }


ZAMBA = {
    "x_proj.weight": "x_proj_weight",
    "dt_proj.weight": "dt_proj_weight",
    "dt_proj.bias": "dt_proj_bias",
}
ZAMBA_FFN = {
    "ffn.gate_up.weight": ["gate_proj.weight", "up_proj.weight"],
    "ffn.down.weight": ["down_proj.weight"],
}
ZAMBA2_FFN = {
    "ffn.gate_up.weight": ["gate_up_proj.weight"],
    "ffn.down.weight": ["down_proj.weight"],
}

FAMILIES: dict[str, Family] = {
    "llama": Family(*MODEL, {"A": LLAMA_BLOCK}),
    "mistral": Family(*MODEL, {"A": LLAMA_BLOCK, "S": LLAMA_BLOCK}),
    "mamba": Family(*BACKBONE, {"m": _ssm("mixer", *MAMBA1) | _norms("norm")}),
    "falcon_mamba": Family(*BACKBONE, {"m": _ssm("mixer", *MAMBA1) | _norms("norm")}),
    "mamba2": Family(*BACKBONE, {"M": _ssm("mixer", *MAMBA2) | _norms("norm")}),
    "bamba": Family(
        *FINAL, {"A": _attention("self_attn") | PRE_FF, "M": _ssm("mamba", *MAMBA2) | PRE_FF}
    ),
    "jamba": Family(
        *FINAL,
        {
            "A": _attention("self_attn") | JAMBA_REST,
            "m": _ssm("mamba", *MAMBA1, **JAMBA_NORMS) | JAMBA_REST,
        },
    ),
    "zamba": Family(
        *FINAL,
        {
            "m": _ssm("mamba", **ZAMBA) | _norms("input_layernorm"),
            "Z": _shared("shared_transf", _ssm("mamba_decoder.mamba", **ZAMBA), ZAMBA_FFN),
        },
    ),
    "zamba2": Family(
        *FINAL,
        {
            "M": _ssm("mamba", *MAMBA2) | _norms("input_layernorm"),
            "Z": _shared("shared_transformer", _ssm("mamba_decoder.mamba", *MAMBA2), ZAMBA2_FFN)
            | _adapters("shared_transformer"),
        },
    ),
    "falcon_h1": Family(*FINAL, {"H": FALCON_H1}),
    "nemotron_h": Family(
        *BACKBONE,
        {
            "A": _attention("mixer") | _norms("norm"),
            "M": _ssm("mixer", *MAMBA2) | _norms("norm"),
            "-": NEMOTRON_FFN,
        },
        ((r"model\.(.*)", r"backbone.\1"),),
    ),
    "granitemoehybrid": Family(
        *MODEL,
        {"A": _attention("self_attn") | GRANITE_REST, "M": _ssm("mamba", *MAMBA2) | GRANITE_REST},
        (
            EXPERTS,
            (
                r"(.*)\.block_sparse_moe\.experts\.down_proj",
                r"\1.block_sparse_moe.output_linear.weight",
            ),
            (r"(.*)\.block_sparse_moe\.router\.weight", r"\1.block_sparse_moe.router.layer.weight"),
        ),
    ),
}


# ---------------------------------------------------------------- in and out


def from_transformers(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor], name: str | None = None
) -> HybridLM:
    """The model of a config.json with the weights of its state dict, in their dtype and on their
    device; `model.spec` is its design.

    Tensors that need neither stacking nor a factor share their memory with `state_dict`. Raises
    SpecError for a config that is not understood or not built, and WeightsError for a tensor that
    is missing, left over or of the wrong shape."""
    spec = spec_from_config(config, name)
    model = build(spec, "meta")
    model.load_state_dict(_ours(model, _family(config), state_dict), assign=True)
    return model


def to_transformers(model: HybridLM) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A config that AutoConfig loads and the tensors under their published names. Raises
    ExportError where no class says the design."""
    config = hf_config(model.spec)
    return config, _theirs(model, _family(config))


def load_folder(path: Path) -> HybridLM:
    """The model of a folder in Hugging Face format: config.json and *.safetensors. Nothing in it is
    executed."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config, files = read_config(path / "config.json"), sorted(path.glob("*.safetensors"))
    require_files(path, "checkpoint's text file")
    if not files:
        raise WeightsError(f"{path}: no *.safetensors")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(f"{file.name}: {' '.join(str(error).split())[:120]}") from None
    return from_transformers(config, tensors, path.resolve().name)


def save_folder(model: HybridLM, path: Path) -> None:
    """Write a folder in Hugging Face format. Raises ExportError where no class written there says
    the design, NotWritten on a full disk."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    config, tensors = to_transformers(model)
    folder(path)
    dtype = str(model.embed.weight.dtype).removeprefix("torch.")
    with in_place_of(path / "model.safetensors") as file:
        try:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()},
                file,
                {"format": "pt"},
            )
        except SafetensorError as error:
            raise OSError(str(error)) from None
    write_whole(path / "config.json", json.dumps(config | {"torch_dtype": dtype}, indent=2) + "\n")


def _family(config: Mapping[str, Any]) -> Family:
    family = config.get("model_type")
    if family not in FAMILIES:
        raise WeightsError(f"model_type: {family!r} - weights convert for {', '.join(FAMILIES)}")
    return FAMILIES[family]


def _ours(model: HybridLM, family: Family, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict. Every tensor of theirs is used once."""
    left = {
        _published(name, family, model.spec): tensor
        for name, tensor in state.items()
        if not name.endswith("rotary_emb.inv_freq")
    }
    _split_experts(left, family)
    embedding, shared = left.get(family.embed), _shared_keys(model)
    ours: dict[str, Tensor] = {}
    for key, target in model.state_dict().items():
        if first := shared.get(key):
            ours[key] = ours[first]
            continue
        if _is_own(family, key, model.spec):
            ours[key] = torch.zeros(target.shape, dtype=target.dtype)
            continue
        pieces = list(_pieces(model, family, key, target))
        parts = [piece.into(_take(left, piece)) for piece in pieces]
        ours[key] = (torch.cat(parts) if len(parts) > 1 else parts[0]).reshape(target.shape)
    if model.head is None and HEAD in left and not torch.equal(left.pop(HEAD), embedding):  # type: ignore[arg-type]
        raise WeightsError(f"{HEAD}: differs from the embedding, though the config ties them")
    if left:
        raise WeightsError(
            f"{next(iter(left))}: the design {model.spec.name} has no place for this tensor"
        )
    return ours


def _theirs(model: HybridLM, family: Family) -> dict[str, Tensor]:
    """Their tensors, of ours taken apart."""
    theirs, shared = {}, _shared_keys(model)
    for key, tensor in model.state_dict().items():
        if key in shared:
            continue
        if _is_own(family, key, model.spec):
            if bool(tensor.any()):
                raise WeightsError(
                    f"{key}: not zero - a checkpoint of this family has no balancing bias"
                )
            continue
        pieces = list(_pieces(model, family, key, tensor))
        rows = tensor.reshape(sum(piece.rows for piece in pieces), *pieces[0].rest)
        for piece, part in zip(pieces, rows.split([piece.rows for piece in pieces]), strict=True):
            theirs[piece.name] = piece.out_of(part).reshape(piece.shape)
    return theirs


def _shared_keys(model: HybridLM) -> dict[str, str]:
    """Tensors that an earlier layer holds too, with their name there."""
    first: dict[int, str] = {}
    return {
        key: seen
        for key, tensor in model.named_parameters(remove_duplicate=False)
        if (seen := first.setdefault(id(tensor), key)) != key
    }


def _is_own(family: Family, key: str, spec: ArchSpec) -> bool:
    """Whether a tensor is our router's balancing bias, and the family's checkpoints have none."""
    return key.endswith("ffn.bias") and not _known(family, key, spec)


def _published(name: str, family: Family, spec: ArchSpec) -> str:
    """The published name of a tensor, under the first of the layers that share it."""
    for pattern, published in family.in_memory:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, published, name)
    parts = name.split(".")
    if len(parts) > 3 and f"{parts[3]}." in SHARED and parts[2].isdecimal():
        index = int(parts[2])
        if index < spec.n_layers and spec.stack[index].letter == "Z":
            parts[2] = str(first_layer(spec, index))
    return ".".join(parts)


def _split_experts(left: dict[str, Tensor], family: Family) -> None:
    """Where checkpoints have experts one by one, transformers holds them stacked in memory, and a
    gate over its up."""
    if not any(
        "{e}" in name for table in family.inside.values() for name in table.get("ffn.down", [])
    ):
        return
    for name in [name for name in left if re.search(r"experts\.(gate_up|up|down)_proj$", name)]:
        stem, stacked = name.rsplit(".", 1)
        parts = ("gate_proj", "up_proj") if stacked == "gate_up_proj" else (stacked,)
        for e, expert in enumerate(left.pop(name)):
            left |= {
                f"{stem}.{e}.{part}.weight": rows
                for part, rows in zip(parts, expert.chunk(len(parts)), strict=True)
            }


class Piece(NamedTuple):
    """One of their tensors behind one of ours: its name and shape, how many rows of ours it fills,
    what it is multiplied by, and whether its rows alternate between two halves of ours."""

    name: str
    shape: list[int]
    rows: int
    rest: tuple[int, ...]
    factor: float | Tensor
    alternating: bool

    def into(self, theirs: Tensor) -> Tensor:
        """Our rows of their tensor."""
        rows = torch.cat([theirs[0::2], theirs[1::2]]) if self.alternating else theirs
        return rows * self.factor if _scales(self.factor) else rows

    def out_of(self, ours: Tensor) -> Tensor:
        """Their tensor of our rows."""
        rows = ours / self.factor if _scales(self.factor) else ours
        return torch.stack(rows.chunk(2), 1).flatten(0, 1) if self.alternating else rows


def _pieces(model: HybridLM, family: Family, key: str, target: Tensor) -> Iterator[Piece]:
    names = family.of(key, model.spec) if _known(family, key, model.spec) else []
    if not names:
        raise WeightsError(f"{key}: this family has no tensor for it")
    flat = target.shape[2:] if target.ndim == 3 and len(names) > 1 else target.shape[1:]
    total = target.numel() // max(1, flat.numel())
    rows = [total // len(names)] * len(names)
    if ".qkv." in key:  # the only one stacked of unequal parts
        rows = model.get_submodule(key.rsplit(".", 1)[0].removesuffix(".qkv")).widths  # type: ignore[assignment]
    for i, (name, n) in enumerate(zip(names, rows, strict=True)):
        shape = [n, 1, *flat] if name.endswith("conv1d.weight") else [n, *flat]
        heads = _mamba1_heads(model.spec, key)
        if heads > 1 and name.endswith(("_proj_weight", "_proj_bias", "A_log", ".D")):
            shape = [heads, shape[0] // heads, *shape[1:]]
        yield Piece(
            name,
            shape,
            n,
            tuple(flat),
            _factor(model.spec, key, i, n),
            heads > 1 and ".in_proj." in name,
        )


def _known(family: Family, key: str, spec: ArchSpec) -> bool:
    try:
        return bool(family.of(key, spec))
    except KeyError:
        return False


def _mamba1_heads(spec: ArchSpec, key: str) -> int:
    """Heads of a layer's Mamba-1: where there are several (Zamba), their tensors have an axis for
    them, and x and z alternate."""
    mixer = spec.stack[int(key.split(".")[1])].mixer if key.startswith("layers.") else None
    ssm = getattr(mixer, "ssm", mixer)
    return ssm.n_heads if isinstance(ssm, Mamba1Mixer) else 1


def _take(left: dict[str, Tensor], piece: Piece) -> Tensor:
    """Their tensor, removed from those left, in the shape of our rows."""
    if piece.name not in left:
        raise WeightsError(f"{piece.name}: missing")
    tensor = left.pop(piece.name)
    if list(tensor.shape) != piece.shape:
        raise WeightsError(f"{piece.name}: {list(tensor.shape)} - must be {piece.shape}")
    return tensor.reshape(piece.rows, *piece.rest)


# ---------------------------------------------------------------- multipliers


def _scales(factor: float | Tensor) -> bool:
    return isinstance(factor, Tensor) or factor != 1


def _factor(spec: ArchSpec, key: str, part: int, rows: int) -> float | Tensor:
    """What their tensor is multiplied by to be ours. `part` counts the pieces of a stack: q, k, v
    or gate, up."""
    m, name = spec.constants, key.split(".", 2)[-1]
    if not m:
        return 1.0
    logits = m.get("lm_head_multiplier", 1.0) / m.get("logits_scaling", 1.0)
    outside = {"embed.weight": m.get("embedding_multiplier", 1.0), "head.weight": logits}
    # A tied table holds the embedding's factor, which the last norm takes back before the logits.
    outside["norm.weight"] = logits / outside["embed.weight"] if spec.tie_embeddings else 1.0
    if key in outside:
        return float(outside[key])
    if name.startswith("mixer.ssm.in_proj."):
        return _in_proj_factor(spec, key, rows)
    bias, residual = name.endswith(".bias"), m.get("residual_multiplier", 1.0)
    into = 1.0 if bias else m.get("attention_in_multiplier", 1.0)
    mlp = m.get("mlp_multipliers", (1.0, 1.0))
    inside = {
        "mixer.attention.qkv": into * (m.get("key_multiplier", 1.0) if part == 1 else 1.0),
        "mixer.attention_out": m.get("attention_out_multiplier", 1.0),
        "mixer.ssm_out": m.get("ssm_out_multiplier", 1.0),
        "mixer.out": residual,
        "ffn.gate_up": mlp[0] if part == 0 else 1.0,
        "ffn.down": mlp[1] * residual,
        "ffn.shared.down": residual,
    }
    return float(inside.get(name.removesuffix(".weight").removesuffix(".bias"), 1.0))


def _in_proj_factor(spec: ArchSpec, key: str, rows: int) -> float | Tensor:
    """Falcon-H1's factors of z, x, B, C and dt, and of the input, which a bias does not see."""
    ssm = getattr(spec.stack[int(key.split(".")[1])].mixer, "ssm", None)
    assert isinstance(ssm, Mamba2Mixer)
    into = 1.0 if key.endswith(".bias") else spec.constants.get("ssm_in_multiplier", 1.0)
    if "ssm_multipliers" not in spec.constants:
        return float(into)
    d_bc = ssm.n_groups * ssm.d_state
    widths = torch.tensor([ssm.d_ssm, ssm.d_ssm, d_bc, d_bc, ssm.n_heads])
    factors = into * torch.tensor(
        spec.constants["ssm_multipliers"], dtype=torch.float32
    ).repeat_interleave(widths)
    assert len(factors) == rows
    return factors if key.endswith(".bias") else factors[:, None]
