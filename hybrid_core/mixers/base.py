"""What every kind of mixer is: a frozen spec that YAML can name by its `kind`.

Terms: design in the README, symbols as in Mamba-2 (arXiv 2405.21060) and Llama. A field made with
`quiet` is written to YAML only where it differs from its default, so that a new option changes no
saved design."""

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BeforeValidator, PlainSerializer

from hybrid_core.terms import MixerCosts
from hybrid_core.validation import (
    Frozen,
    nearest,
    short,
)


class Mixer(Frozen):
    """What mixes tokens in one layer. `kind` names it in YAML, `letter` in a pattern
    (placement.py), in figures alone where it has none."""

    kind: ClassVar[str]
    letter: ClassVar[str]

    def costs(self, d_model: int) -> MixerCosts:
        """The closed forms of such a layer in a model of width `d_model`."""
        raise TypeError(f"{type(self).__name__} has no costs")


def _read_mixer(value: Any) -> Any:
    """A mixer from a mapping with its `kind`."""
    if not isinstance(value, dict):
        return value
    kinds = mixer_kinds()
    kind = value.get("kind")
    if kind not in kinds:
        raise ValueError(f"kind: {short(kind)} - must be {nearest(kind, kinds)}")
    return kinds[kind].make(**{str(key): item for key, item in value.items() if key != "kind"})


def _write_mixer(mixer: Mixer) -> dict[str, Any]:
    return {"kind": mixer.kind} | mixer.model_dump(exclude_none=True)


def mixer_kinds() -> dict[str, type[Mixer]]:
    """Every kind of mixer by its name in YAML."""
    return {cls.kind: cls for cls in _descendants(Mixer) if "kind" in vars(cls)}


def _descendants(cls: type[Any]) -> Iterator[type[Any]]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


MIXER = (
    BeforeValidator(_read_mixer),
    PlainSerializer(_write_mixer),
)  # what makes a field of a mixer's type readable with `kind`
