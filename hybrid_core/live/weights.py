"""Weights of published models in and out: the tensors of a checkpoint become a HybridLM that
computes the same, and the other way.

A family's table (interop/families/) says where a checkpoint keeps the tensor, or the several that
one of ours stacks, under their published names. transformers' own names in memory are brought to
these first. Which layers there are and how large each tensor must be is known from the model that
the config describes. Multipliers of a config (ArchSpec.constants) are factors of whole tensors or
rows. They go into the weights on the way in and come out on the way back, so that no module has to
know them.
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
from hybrid_core.files import require_files
from hybrid_core.interop.families.registry import TENSORS
from hybrid_core.interop.families.tensors import HEAD, SHARED, Tensors, first_layer
from hybrid_core.interop.huggingface import hf_config, read_config, spec_from_config
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.validation import SpecError


class WeightsError(SpecError):
    """Tensors that do not fit the design: one line that names the first of them."""


# ---------------------------------------------------------------- in and out


def from_transformers(
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    name: str | None = None,
) -> HybridLM:
    """The model of a config.json with the weights of its state dict, in their dtype and on their
    device; `model.spec` is its design.

    Tensors that need neither stacking nor a factor share their memory with `state_dict`. Raises
    SpecError for a config that is not understood or not built, and WeightsError for a tensor that
    is missing, left over or of the wrong shape."""
    spec = spec_from_config(config, name)
    model = build(spec, "meta")
    model.load_state_dict(_ours(model, _tensors(config), state_dict), assign=True)
    return model


def to_transformers(model: HybridLM) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A config that AutoConfig loads and the tensors under their published names. Raises
    ExportError where no class says the design."""
    config = hf_config(model.spec)
    return config, _theirs(model, _tensors(config))


def load_folder(path: Path) -> HybridLM:
    """The model of a folder in Hugging Face format: config.json and *.safetensors. Nothing in it is
    executed."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(path / "config.json")
    files = sorted(path.glob("*.safetensors"))
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
    config["torch_dtype"] = str(model.embed.weight.dtype).removeprefix("torch.")
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    folder(path)
    with in_place_of(path / "model.safetensors") as file:
        try:
            save_file(whole, file, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from None
    write_whole(path / "config.json", json.dumps(config, indent=2) + "\n")


def _tensors(config: Mapping[str, Any]) -> Tensors:
    family = config.get("model_type")
    if family not in TENSORS:
        raise WeightsError(f"model_type: {family!r} - weights convert for {', '.join(TENSORS)}")
    return TENSORS[family]


# ---------------------------------------------------------------- all tensors of a model


def _ours(
    model: HybridLM,
    table: Tensors,
    state: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Our state dict. Every tensor of theirs is used once."""
    left = _published_tensors(model.spec, table, state)
    embedding = left.get(table.embed)
    shared = _shared_keys(model)
    ours: dict[str, Tensor] = {}
    for key, target in model.state_dict().items():
        if key in shared:
            ours[key] = ours[shared[key]]
        elif _is_own(table, key, model.spec):
            ours[key] = torch.zeros(target.shape, dtype=target.dtype)
        else:
            pieces = _pieces(model, table, key, target)
            parts = [piece.into(_take(left, piece)) for piece in pieces]
            stacked = torch.cat(parts) if len(parts) > 1 else parts[0]
            ours[key] = stacked.reshape(target.shape)
    if model.head is None and HEAD in left:
        head = left.pop(HEAD)
        if embedding is None or not torch.equal(head, embedding):
            rule = "differs from the embedding, though the config ties them"
            raise WeightsError(f"{HEAD}: {rule}")
    for name in left:
        raise WeightsError(f"{name}: the design {model.spec.name} has no place for this tensor")
    return ours


def _theirs(model: HybridLM, table: Tensors) -> dict[str, Tensor]:
    """Their tensors, of ours taken apart."""
    theirs: dict[str, Tensor] = {}
    shared = _shared_keys(model)
    for key, tensor in model.state_dict().items():
        if key in shared:
            continue
        if _is_own(table, key, model.spec):
            if bool(tensor.any()):
                rule = "a checkpoint of this family has no balancing bias"
                raise WeightsError(f"{key}: not zero - {rule}")
            continue
        pieces = list(_pieces(model, table, key, tensor))
        heights = [piece.rows for piece in pieces]
        rows = tensor.reshape(sum(heights), *pieces[0].rest)
        for piece, part in zip(pieces, rows.split(heights), strict=True):
            theirs[piece.name] = piece.out_of(part).reshape(piece.shape)
    return theirs


def _shared_keys(model: HybridLM) -> dict[str, str]:
    """Tensors that an earlier layer holds too, with their name there."""
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    for key, tensor in model.named_parameters(remove_duplicate=False):
        earlier = first.setdefault(id(tensor), key)
        if earlier != key:
            shared[key] = earlier
    return shared


def _is_own(table: Tensors, key: str, spec: ArchSpec) -> bool:
    """Whether a tensor is our router's balancing bias, and the family's checkpoints have none."""
    return key.endswith("ffn.bias") and not _names(table, key, spec)


def _names(table: Tensors, key: str, spec: ArchSpec) -> list[str]:
    """Their tensors behind one of ours; none where the family has no such tensor."""
    try:
        return table.of(key, spec)
    except KeyError:
        return []


# ---------------------------------------------------------------- their names


def _published_tensors(
    spec: ArchSpec,
    table: Tensors,
    state: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Their tensors under the published names, experts one by one where checkpoints have them
    so."""
    named: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.endswith("rotary_emb.inv_freq"):
            named[_published(name, table, spec)] = tensor
    if not _has_single_experts(table):
        return named
    split: dict[str, Tensor] = {}
    for name, tensor in named.items():
        if re.search(r"experts\.(gate_up|up|down)_proj$", name):
            split |= _single_experts(name, tensor)
        else:
            split[name] = tensor
    return split


def _published(name: str, table: Tensors, spec: ArchSpec) -> str:
    """The published name of a tensor, under the first of the layers that share it."""
    for pattern, published in table.in_memory:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, published, name)
    parts = name.split(".")
    if len(parts) > 3 and f"{parts[3]}." in SHARED and parts[2].isdecimal():
        index = int(parts[2])
        if index < spec.n_layers and spec.stack[index].letter == "Z":
            parts[2] = str(first_layer(spec, index))
    return ".".join(parts)


def _has_single_experts(table: Tensors) -> bool:
    down = [name for names in table.inside.values() for name in names.get("ffn.down", [])]
    return any("{e}" in name for name in down)


def _single_experts(name: str, experts: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of each expert. transformers holds all experts of a layer stacked in memory, and
    a gate over its up."""
    stem, stacked = name.rsplit(".", 1)
    parts = ["gate_proj", "up_proj"] if stacked == "gate_up_proj" else [stacked]
    for e, expert in enumerate(experts):
        for part, rows in zip(parts, expert.chunk(len(parts)), strict=True):
            yield f"{stem}.{e}.{part}.weight", rows


# ---------------------------------------------------------------- one tensor


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
        if self.alternating:
            return torch.stack(rows.chunk(2), 1).flatten(0, 1)
        return rows


def _pieces(
    model: HybridLM,
    table: Tensors,
    key: str,
    target: Tensor,
) -> Iterator[Piece]:
    """Their tensors behind one of ours, top to bottom."""
    spec = model.spec
    names = _names(table, key, spec)
    if not names:
        raise WeightsError(f"{key}: this family has no tensor for it")
    stacked_experts = target.ndim == 3 and len(names) > 1
    rest = target.shape[2:] if stacked_experts else target.shape[1:]
    heads = _mamba1_heads(spec, key)
    heights = _heights(
        model,
        key,
        target.numel() // max(1, rest.numel()),
        len(names),
    )
    for i, (name, rows) in enumerate(zip(names, heights, strict=True)):
        yield Piece(
            name,
            _shape(name, rows, rest, heads),
            rows,
            tuple(rest),
            factor=_factor(spec, key, i, rows),
            alternating=heads > 1 and ".in_proj." in name,
        )


def _heights(model: HybridLM, key: str, total: int, n: int) -> list[int]:
    """How many rows each of n tensors fills. Only queries, keys and values are of unequal parts."""
    if ".qkv." not in key:
        return [total // n] * n
    module: Any = model.get_submodule(key.rsplit(".", 1)[0].removesuffix(".qkv"))
    widths: list[int] = module.widths
    return widths


def _shape(
    name: str,
    rows: int,
    rest: torch.Size,
    heads: int,
) -> list[int]:
    """The shape of their tensor. A convolution has an axis for its one input channel, and Zamba's
    Mamba-1 one for its heads."""
    if name.endswith("conv1d.weight"):
        return [rows, 1, *rest]
    if heads > 1 and name.endswith(("_proj_weight", "_proj_bias", "A_log", ".D")):
        return [heads, rows // heads, *rest]
    return [rows, *rest]


def _mamba1_heads(spec: ArchSpec, key: str) -> int:
    """Heads of a layer's Mamba-1. Where there are several (Zamba), x and z alternate."""
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


def _factor(
    spec: ArchSpec,
    key: str,
    part: int,
    rows: int,
) -> float | Tensor:
    """What their tensor is multiplied by to be ours. `part` counts the pieces of a stack: q, k, v
    or gate, up."""
    if not spec.constants:
        return 1.0
    outside = _outside_factors(spec)
    if key in outside:
        return outside[key]
    name = key.split(".", 2)[-1]
    if name.startswith("mixer.ssm.in_proj."):
        return _in_proj_factor(spec, key, rows)
    inside = _inside_factors(spec.constants, part, biased=name.endswith(".bias"))
    return inside.get(name.removesuffix(".weight").removesuffix(".bias"), 1.0)


def _outside_factors(spec: ArchSpec) -> dict[str, float]:
    """Factors of the tensors outside the layers. A tied table holds the embedding's factor, which
    the last norm takes back before the logits."""
    m = spec.constants
    embedding = float(m.get("embedding_multiplier", 1.0))
    logits = float(m.get("lm_head_multiplier", 1.0) / m.get("logits_scaling", 1.0))
    return {
        "embed.weight": embedding,
        "head.weight": logits,
        "norm.weight": logits / embedding if spec.tie_embeddings else 1.0,
    }


def _inside_factors(m: Mapping[str, Any], part: int, biased: bool) -> dict[str, float]:
    """Factors of the tensors of a layer, without the name's last word. A bias does not see what
    multiplies the input."""
    into = 1.0 if biased else m.get("attention_in_multiplier", 1.0)
    if part == 1:
        into *= m.get("key_multiplier", 1.0)
    gate, down = m.get("mlp_multipliers", (1.0, 1.0))
    residual = m.get("residual_multiplier", 1.0)
    factors = {
        "mixer.attention.qkv": into,
        "mixer.attention_out": m.get("attention_out_multiplier", 1.0),
        "mixer.ssm_out": m.get("ssm_out_multiplier", 1.0),
        "mixer.out": residual,
        "ffn.gate_up": gate if part == 0 else 1.0,
        "ffn.down": down * residual,
        "ffn.shared.down": residual,
    }
    return {name: float(factor) for name, factor in factors.items()}


def _in_proj_factor(spec: ArchSpec, key: str, rows: int) -> float | Tensor:
    """Falcon-H1's factors of z, x, B, C and dt, and of the input, which a bias does not see."""
    ssm = getattr(spec.stack[int(key.split(".")[1])].mixer, "ssm", None)
    assert isinstance(ssm, Mamba2Mixer)
    biased = key.endswith(".bias")
    into = 1.0 if biased else spec.constants.get("ssm_in_multiplier", 1.0)
    if "ssm_multipliers" not in spec.constants:
        return float(into)
    d_bc = ssm.n_groups * ssm.d_state
    widths = torch.tensor([ssm.d_ssm, ssm.d_ssm, d_bc, d_bc, ssm.n_heads])
    multipliers = torch.tensor(spec.constants["ssm_multipliers"], dtype=torch.float32)
    factors = into * multipliers.repeat_interleave(widths)
    assert len(factors) == rows
    return factors if biased else factors[:, None]
