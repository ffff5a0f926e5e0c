"""Two levels of support for a design: *costed* (parameters, FLOPs and cache are exact) and *built*
(our modules compute it too).

A mixer without a module is only costed. So is any `quiet` option that differs from its default,
unless the entry of its kind lists it as built."""

from collections.abc import Iterator, Set
from functools import cache
from typing import Any

from hybrid_core.design.constants import ABSORBED
from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.base import FeedForward
from hybrid_core.mixers.base import Mixer
from hybrid_core.validation import Frozen, SpecError, models_in, short

# Options of the whole design that our modules compute. The last two change how values are stored,
# not the values.
BUILT = frozenset({"meta_tokens", "quantization", "state_dtype"})
TABLES = frozenset({"mixers", "ffns", "constants"})  # checked elsewhere


def not_built(spec: ArchSpec) -> str | None:
    """The first part of a design that our modules do not compute, or None if they compute all of
    it."""
    return next(_reasons(spec), None)


def require_built(spec: ArchSpec) -> None:
    """Raise SpecError, with the reason, for a design that is costed, not built."""
    reason = not_built(spec)
    if reason:
        raise SpecError(
            f"{reason} - costed, not built: parameters, FLOPs and cache are known, "
            "but our modules do not compute it"
        )


def options(spec: ArchSpec) -> set[str]:
    """Every option of a design that differs from its default, built or not, as `name: value`."""
    parts: set[Frozen] = {spec}
    for layer in spec.distinct:
        parts.add(layer.mixer)
        parts.update(mixer for _, mixer in _inside(layer.mixer))
        if layer.ffn is not None:
            parts.add(layer.ffn)
    return {line for part in parts for line in _differing(part, TABLES)}


def _reasons(spec: ArchSpec) -> Iterator[str]:
    for layer in spec.distinct:
        yield from _of_mixer(layer.mixer)
        if layer.ffn is not None:
            yield from _of_ffn(layer.ffn, "ffn")
    yield from _differing(spec, BUILT | TABLES)
    for key, value in spec.constants.items():
        if key not in ABSORBED:
            yield f"constants.{key}: {short(value)}"


def _of_mixer(mixer: Mixer) -> Iterator[str]:
    if mixer.entry.module is None:
        yield mixer.entry.label
    else:
        yield from _options(mixer, mixer.kind)
    for key in _part_fields(type(mixer)):
        part = getattr(mixer, key)
        if isinstance(part, FeedForward):
            yield from _of_ffn(part, f"{mixer.kind}.{key}")
    yield from mixer.unbuilt()


def _of_ffn(ffn: FeedForward, name: str) -> Iterator[str]:
    for line in _differing(ffn, ffn.entry.built):
        yield f"{name}.{line}"
    yield from ffn.unbuilt(name)


def _options(mixer: Mixer, name: str, also: Set[str] = frozenset()) -> Iterator[str]:
    """Options of a mixer, and of mixers inside it, that are not built. Those in `also` are built
    only in this place."""
    for key, part in _inside(mixer):
        yield from _options(part, f"{name}.{key}", mixer.entry.built_inside)
    for line in _differing(mixer, mixer.entry.built | also):
        yield f"{name}.{line}"


def _inside(mixer: Mixer) -> Iterator[tuple[str, Mixer]]:
    """The mixers inside a mixer, by the names of their fields."""
    for key in _part_fields(type(mixer)):
        part = getattr(mixer, key)
        if isinstance(part, Mixer):
            yield key, part


@cache
def _part_fields(kind: type[Mixer]) -> list[str]:
    """Names of the fields of a kind of mixer that may hold a mixer or a feed-forward."""
    found = []
    for key, field in kind.model_fields.items():
        parts = models_in(field.annotation)
        if any(issubclass(part, Mixer | FeedForward) for part in parts):
            found.append(key)
    return found


def _differing(part: Frozen, known: Set[str]) -> Iterator[str]:
    """The `quiet` options of a part that differ from their defaults, except the known ones."""
    for key, default in _quiet_defaults(type(part)).items():
        value = getattr(part, key)
        if value != default and key not in known:
            yield f"{key}: {short(value)}"


@cache
def _quiet_defaults(part: type[Frozen]) -> dict[str, Any]:
    """The default of each `quiet` option of a model class."""
    found = {}
    for key, field in part.model_fields.items():
        if field.exclude_if is not None:
            found[key] = field.get_default()
    return found
