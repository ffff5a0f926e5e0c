"""What stands in a design's stack: the parts that a format writes once for all layers."""

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
    """The first attention of a design, in a layer of its own or inside another mixer."""
    for layer in spec.stack:
        for mixer in (layer.mixer, getattr(layer.mixer, "attention", None)):
            if isinstance(mixer, AttentionMixer):
                return mixer
    return None


def ssm_parts(spec: ArchSpec) -> Iterator[Mixer | None]:
    """Every mixer that may be a state-space one: those of the layers, then those inside them."""
    for layer in spec.stack:
        yield layer.mixer
    for layer in spec.stack:
        yield getattr(layer.mixer, "ssm", None)


def kinds(spec: ArchSpec) -> dict[type[Any], str]:
    """The types that a design is made of, those inside its mixers included, with their names."""
    found: dict[type[Any], str] = {}
    for layer in spec.stack:
        for part in (layer.mixer, getattr(layer.mixer, "ssm", None), layer.ffn):
            if part is not None and not isinstance(part, NoMixer):
                found[type(part)] = part.kind
    return found
