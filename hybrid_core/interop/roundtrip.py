"""Checks whether a format can express a design: the export is read back and compared with the
design.

A difference is reported as the path and the value in the design, so an error names what the format
lacks."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import Layer
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.registry import AnyFfn
from hybrid_core.mixers.base import Mixer
from hybrid_core.validation import SpecError, short


class ExportError(SpecError):
    """A format cannot express a design. The message is one line."""


_MODEL_KEYS = (
    "vocab_size",
    "tie_embeddings",
    "norm_eps",
    "d_model",
    "post_norm",
    "norm",
    "meta_tokens",
    "outside_params",
    "constants",
)


def require_same(spec: ArchSpec, design: dict[str, Any], format_name: str) -> None:
    """Raise SpecError unless `design`, as read back, is the same model as `spec`."""
    kept = {key: value for key, value in design.items() if value is not None}
    other = ArchSpec.from_mapping({"schema": 1, "name": spec.name} | kept)
    difference = first_difference(spec, other)
    if difference:
        raise SpecError(f"{difference} - {format_name} cannot express it")


def first_difference(spec: ArchSpec, other: ArchSpec) -> str | None:
    """The first difference, with the value of `spec`. None if both are the same model."""
    if spec.n_layers != other.n_layers:
        return f"n_layers: {spec.n_layers}"
    pairs = zip(spec.stack, other.stack, strict=True)
    for number, (layer, other_layer) in enumerate(pairs, start=1):
        mine = _with_one_shared_expert(layer)
        theirs = _with_one_shared_expert(other_layer)
        if mine != theirs:
            return f"layer {number}: {_of_layer(mine, theirs)}"
    for key in _MODEL_KEYS:
        value = getattr(spec, key)
        if value != getattr(other, key):
            return f"{key}: {short(value)}"
    return None


def _with_one_shared_expert(layer: Layer) -> Layer:
    """The layer with its shared experts merged into one. This is the same model, because every
    token goes through all of them."""
    ffn = layer.ffn
    if not isinstance(ffn, MoE) or not ffn.n_shared:
        return layer
    one = ffn.model_copy(update={"n_shared": 1, "d_shared": ffn.shared_width})
    return layer._replace(ffn=one)


def _of_layer(mine: Layer, theirs: Layer) -> str:
    if mine.mixer != theirs.mixer:
        return f"{mine.mixer.kind}{_of_part(mine.mixer, theirs.mixer)}"
    if mine.ffn is None:
        return "ffn: none"
    return f"ffn {mine.ffn.kind}{_of_part(mine.ffn, theirs.ffn)}"


def _of_part(mine: Mixer | AnyFfn, theirs: Mixer | AnyFfn | None) -> str:
    """The path to the first difference inside a part, and the value there. Empty if the other
    part is of another kind."""
    if type(mine) is not type(theirs):
        return ""
    for key in type(mine).model_fields:
        value = getattr(mine, key)
        other = getattr(theirs, key)
        if value == other:
            continue
        if isinstance(value, Mixer) and isinstance(other, Mixer):
            return f".{key}{_of_part(value, other)}"
        return f".{key}: {short(value)}"
    return ""
