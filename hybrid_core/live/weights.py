"""Load and save the weights of published models.

A checkpoint's tensors become a HybridLM that computes the same function, and vice versa. One of our
tensors may stack several of the checkpoint's. A family's table (interop/families/) lists these by
the checkpoint's tensor names. The names that transformers uses in memory are first translated to
checkpoint names. The model built from the config determines the layers and the size of each tensor.

A config's multipliers (ArchSpec.constants) are factors of whole tensors or of rows. They are
multiplied into the weights on loading and divided out on saving. So modules need not know about
them.
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
from hybrid_core.live.multipliers import factor, scales, ssm_of
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.validation import SpecError

# Zamba's Mamba-1 tensors that have a head axis.
HEAD_BY_HEAD = ("_proj_weight", "_proj_bias", "A_log", ".D")


class WeightsError(SpecError):
    """Tensors that do not fit the design. The message is one line about the first of them."""


# ---------------------------------------------------------------- in and out


def from_transformers(
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    name: str | None = None,
) -> HybridLM:
    """The model of a config.json with the weights of a state dict.

    The weights keep their dtype and device; `model.spec` is the design. Tensors that need neither
    stacking nor a factor share their memory with `state_dict`. Raises SpecError for a config that
    is not supported or whose design cannot be built. Raises WeightsError for a tensor that is
    missing, left over or of the wrong shape.
    """
    spec = spec_from_config(config, name)
    model = build(spec, "meta")
    weights = _ours(model, _family_tensors(config), state_dict)
    model.load_state_dict(weights, assign=True)
    return model


def to_transformers(model: HybridLM) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A config that AutoConfig can load, and the tensors by the checkpoint's names.

    Raises ExportError if no transformers class matches the design.
    """
    config = hf_config(model.spec)
    tensors = _theirs(model, _family_tensors(config))
    return config, tensors


def load_folder(path: Path) -> HybridLM:
    """The model of a folder in Hugging Face format: config.json and *.safetensors.

    Code in the folder is not executed.
    """
    config = read_config(path / "config.json")
    files = sorted(path.glob("*.safetensors"))
    require_files(path, "checkpoint's text file")
    if not files:
        raise WeightsError(f"{path}: no *.safetensors")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read(file)
    return from_transformers(config, tensors, path.resolve().name)


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of one .safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        one_line = " ".join(str(error).split())
        raise WeightsError(f"{file.name}: {one_line[:120]}") from None


def save_folder(model: HybridLM, path: Path) -> None:
    """Write a folder in Hugging Face format.

    Raises ExportError if no transformers class matches the design, and NotWritten on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    config, tensors = to_transformers(model)
    dtype = model.embed.weight.dtype
    config["torch_dtype"] = str(dtype).removeprefix("torch.")
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    folder(path)
    with in_place_of(path / "model.safetensors") as file:
        try:
            save_file(whole, file, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from None
    text = json.dumps(config, indent=2)
    write_whole(path / "config.json", text + "\n")


def _family_tensors(config: Mapping[str, Any]) -> Tensors:
    """The table of the config's family."""
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
    """Our state dict. It uses every tensor of the checkpoint exactly once."""
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
            ours[key] = _stacked(parts).reshape(target.shape)
    if model.head is None and HEAD in left:
        _check_tied(left.pop(HEAD), embedding)
    for name in left:
        raise WeightsError(f"{name}: the design {model.spec.name} has no place for this tensor")
    return ours


def _stacked(parts: list[Tensor]) -> Tensor:
    """The rows of all parts; a single part keeps its memory."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts)


def _check_tied(head: Tensor, embedding: Tensor | None) -> None:
    """Raise unless a head that the config ties to the embedding is equal to it."""
    if embedding is None or not torch.equal(head, embedding):
        rule = "differs from the embedding, though the config ties them"
        raise WeightsError(f"{HEAD}: {rule}")


def _theirs(model: HybridLM, table: Tensors) -> dict[str, Tensor]:
    """The checkpoint's tensors, with our stacked tensors split up."""
    theirs: dict[str, Tensor] = {}
    shared = _shared_keys(model)
    for key, tensor in model.state_dict().items():
        if key in shared:
            continue
        if _is_own(table, key, model.spec):
            _check_no_bias(key, tensor)
            continue
        pieces = list(_pieces(model, table, key, tensor))
        heights = [piece.rows for piece in pieces]
        rows = tensor.reshape(sum(heights), *pieces[0].rest)
        for piece, part in zip(pieces, rows.split(heights), strict=True):
            own = piece.out_of(part)
            theirs[piece.name] = own.reshape(piece.shape)
    return theirs


def _check_no_bias(key: str, bias: Tensor) -> None:
    if bool(bias.any()):
        rule = "a checkpoint of this family has no balancing bias"
        raise WeightsError(f"{key}: not zero - {rule}")


def _shared_keys(model: HybridLM) -> dict[str, str]:
    """Tensors that an earlier layer shares, each with its name in that layer."""
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    for key, tensor in model.named_parameters(remove_duplicate=False):
        earlier = first.setdefault(id(tensor), key)
        if earlier != key:
            shared[key] = earlier
    return shared


def _is_own(table: Tensors, key: str, spec: ArchSpec) -> bool:
    """Whether a tensor is our router's balancing bias and the family's checkpoints have none."""
    if not key.endswith("ffn.bias"):
        return False
    return not _names(table, key, spec)


def _names(table: Tensors, key: str, spec: ArchSpec) -> list[str]:
    """The checkpoint's names for one of our tensors; empty if the family has no such tensor."""
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
    """The checkpoint's tensors by name, with a separate tensor for each expert if checkpoints have
    that."""
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
    """The checkpoint's name of a tensor; of a shared one, the name in the first layer."""
    for pattern, published in table.in_memory:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, published, name)
    parts = name.split(".")  # model.layers.5.shared_transf. ...
    may_be_shared = len(parts) > 3 and f"{parts[3]}." in SHARED
    if may_be_shared and parts[2].isdecimal():
        index = int(parts[2])
        is_layer = index < spec.n_layers
        if is_layer and spec.stack[index].letter == "Z":
            parts[2] = str(first_layer(spec, index))
    return ".".join(parts)


def _has_single_experts(table: Tensors) -> bool:
    """Whether the family's checkpoints have a tensor for each expert."""
    for names in table.inside.values():
        for name in names.get("ffn.down", []):
            if "{e}" in name:
                return True
    return False


def _single_experts(name: str, experts: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of each expert, with their names.

    In memory, transformers stacks all experts of a layer, and the rows of gate on those of up.
    """
    stem, stacked = name.rsplit(".", 1)
    parts = [stacked]
    if stacked == "gate_up_proj":
        parts = ["gate_proj", "up_proj"]
    for e, expert in enumerate(experts):
        pieces = expert.chunk(len(parts))
        for part, rows in zip(parts, pieces, strict=True):
            yield f"{stem}.{e}.{part}.weight", rows


# ---------------------------------------------------------------- one tensor


class _Piece(NamedTuple):
    """One of the checkpoint's tensors, as part of one of ours."""

    name: str
    shape: list[int]  # shape in the checkpoint
    rows: int  # rows of ours that it fills
    rest: tuple[int, ...]  # our shape after the row axis
    factor: float | Tensor  # ours is theirs times this factor
    alternating: bool  # whether its rows alternate between the two halves of ours

    def into(self, theirs: Tensor) -> Tensor:
        """Our rows, from the checkpoint's tensor."""
        rows = theirs
        if self.alternating:
            rows = torch.cat([theirs[0::2], theirs[1::2]])
        if scales(self.factor):
            rows = rows * self.factor
        return rows

    def out_of(self, ours: Tensor) -> Tensor:
        """The checkpoint's tensor, from our rows."""
        rows = ours
        if scales(self.factor):
            rows = rows / self.factor
        if self.alternating:
            halves = rows.chunk(2)
            rows = torch.stack(halves, 1).flatten(0, 1)
        return rows


def _pieces(
    model: HybridLM,
    table: Tensors,
    key: str,
    target: Tensor,
) -> Iterator[_Piece]:
    """The checkpoint's tensors that one of ours stacks, top to bottom."""
    spec = model.spec
    names = _names(table, key, spec)
    if not names:
        raise WeightsError(f"{key}: this family has no tensor for it")
    stacks_experts = target.ndim == 3 and len(names) > 1
    rest = target.shape[2:] if stacks_experts else target.shape[1:]
    n_rows = target.numel() // max(1, rest.numel())
    heights = _heights(model, key, n_rows, len(names))
    heads = _mamba1_heads(spec, key)
    for part, (name, rows) in enumerate(zip(names, heights, strict=True)):
        yield _Piece(
            name,
            _shape(name, rows, rest, heads),
            rows,
            tuple(rest),
            factor=factor(spec, key, part, rows),
            alternating=heads > 1 and ".in_proj." in name,
        )


def _heights(
    model: HybridLM,
    key: str,
    n_rows: int,
    n_tensors: int,
) -> list[int]:
    """The number of rows of each tensor in a stack. They differ only for q, k and v."""
    if ".qkv." not in key:
        return [n_rows // n_tensors] * n_tensors
    owner = key.rsplit(".", 1)[0].removesuffix(".qkv")
    attention: Any = model.get_submodule(owner)
    widths: list[int] = attention.widths
    return widths


def _shape(
    name: str,
    rows: int,
    rest: torch.Size,
    heads: int,
) -> list[int]:
    """The shape in the checkpoint.

    A convolution has an axis for its single input channel, and Zamba's Mamba-1 has a head axis.
    """
    if name.endswith("conv1d.weight"):
        return [rows, 1, *rest]
    if heads > 1 and name.endswith(HEAD_BY_HEAD):
        return [heads, rows // heads, *rest]
    return [rows, *rest]


def _mamba1_heads(spec: ArchSpec, key: str) -> int:
    """Heads of a layer's Mamba-1. If there are several (Zamba), rows of x and z alternate."""
    ssm = ssm_of(spec, key)
    if isinstance(ssm, Mamba1Mixer):
        return ssm.n_heads
    return 1


def _take(left: dict[str, Tensor], piece: _Piece) -> Tensor:
    """The checkpoint's tensor in the shape of our rows; removed from `left`."""
    if piece.name not in left:
        raise WeightsError(f"{piece.name}: missing")
    tensor = left.pop(piece.name)
    if list(tensor.shape) != piece.shape:
        raise WeightsError(f"{piece.name}: {list(tensor.shape)} - must be {piece.shape}")
    return tensor.reshape(piece.rows, *piece.rest)
