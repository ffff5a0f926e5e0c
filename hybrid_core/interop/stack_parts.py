"""The parts of a design's stack, for formats that describe each kind of part once for all
layers."""

from collections.abc import Iterator
from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.none import NoMixer


def first_of(spec: ArchSpec, kind: type[Any]) -> Any:
    """The first mixer or feed-forward of exactly this type, or None."""
    for layer in spec.stack:
        for part in (layer.mixer, layer.ffn):
            if type(part) is kind:
                return part
    return None


def first_attention(spec: ArchSpec) -> AttentionMixer | None:
    """The first attention of a design, either a layer's mixer or inside one."""
    for layer in spec.stack:
        for mixer in (layer.mixer, getattr(layer.mixer, "attention", None)):
            if isinstance(mixer, AttentionMixer):
                return mixer
    return None


def ssm_parts(spec: ArchSpec) -> Iterator[Mixer | None]:
    """The mixers of all layers, then the `ssm` inside each (None if there is none)."""
    for layer in spec.stack:
        yield layer.mixer
    for layer in spec.stack:
        yield getattr(layer.mixer, "ssm", None)


def kinds(spec: ArchSpec) -> dict[type[Any], str]:
    """The types of the design's mixers and feed-forwards, with their names. The `ssm` inside a
    mixer counts too."""
    found: dict[type[Any], str] = {}
    for layer in spec.stack:
        for part in (layer.mixer, getattr(layer.mixer, "ssm", None), layer.ffn):
            if part is not None and not isinstance(part, NoMixer):
                found[type(part)] = part.kind
    return found
