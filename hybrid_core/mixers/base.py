"""The base class of every mixer: a frozen spec, which YAML selects by its `kind`, and an entry that
tells the rest of the explorer how to show and build it.

Symbols are those of Mamba-2 (arXiv 2405.21060) and Llama. A `quiet` field is written to YAML only
if it differs from its default, so a new option does not change saved designs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import BeforeValidator, PlainSerializer

from hybrid_core.factors import Factors
from hybrid_core.terms import MixerCosts
from hybrid_core.validation import Frozen, nearest, short

# The sections of a design's YAML by name. None if the design lacks one.
Sections = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Entry:
    """The names, colour and module of a kind of layer. There is one entry per kind.

    `name`: its `kind` in YAML. `meaning`: one line for the glossary. `label`: its name on pages.
    `letter`: one ASCII character, unique among kinds. `colour`: in figures. `module`:
    "package.module:Class", loaded on first use, so nothing here imports torch. None for a kind that
    is costed, not built."""

    name: str
    meaning: str
    label: str
    letter: str
    colour: str
    module: str | None = None
    # The name next to the letter in a legend, for a kind that has sections.
    short: str = ""
    # The YAML sections that describe a layer of this kind. None: the kind has no sections, and a
    # design spells it out under `mixers`.
    sections: tuple[str, ...] | None = None
    # `quiet` options whose non-default values the module supports, and options that it supports
    # only in a mixer inside this one.
    built: frozenset[str] = frozenset()
    built_inside: frozenset[str] = frozenset()
    # Names of its matrices, as in the products of its costs, and the ones that quantisers do not
    # treat as linear layers.
    matrices: tuple[str, ...] = ()
    not_linear: tuple[str, ...] = ()
    # Framework -> its symbol for such a layer, e.g. in Megatron-LM's hybrid pattern.
    symbols: Mapping[str, str] = field(default_factory=dict)

    @property
    def light(self) -> bool:
        """Whether black text has more contrast on the colour than white text (WCAG 2.2)."""
        channels = bytes.fromhex(self.colour.removeprefix("#"))
        red, green, blue = (_linear(channel / 255) for channel in channels)
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        with_black = (luminance + 0.05) / 0.05
        with_white = 1.05 / (luminance + 0.05)
        return with_black > with_white


def _linear(share: float) -> float:
    """One channel of an sRGB colour as linear light, 0 to 1."""
    if share <= 0.04045:
        return share / 12.92
    return float(((share + 0.055) / 1.055) ** 2.4)


class Mixer(Frozen):
    """The token mixer of one layer."""

    entry: ClassVar[Entry]
    kind: ClassVar[str]  # the entry's name

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "entry" in vars(cls):
            cls.kind = cls.entry.name

    def costs(self, d_model: int) -> MixerCosts:
        """The closed forms of this layer in a model of width `d_model`."""
        raise TypeError(f"{type(self).__name__} has no costs")

    def shrunk(self, factors: Factors) -> Self:
        """The same mixer in a proxy."""
        raise TypeError(f"{type(self).__name__} cannot shrink")

    def unbuilt(self) -> Iterator[str]:
        """More reasons why the module does not support this mixer. Options outside `entry.built`
        are reported elsewhere."""
        return iter(())

    @classmethod
    def usual(cls, d_model: int) -> "Mixer | None":
        """The layer of this kind that Compose offers, with the usual proportions in a model of
        width `d_model`. None if Compose does not offer the kind."""
        return None

    @classmethod
    def from_sections(cls, sections: Sections) -> "Mixer":
        """The mixer that a design's sections describe. `check_sections` has accepted them."""
        raise TypeError(f"{cls.__name__} has no sections")

    @classmethod
    def check_sections(cls, sections: Sections) -> None:
        """Raise ValueError unless the sections describe a layer of this kind."""
        for name in cls.entry.sections or ():
            if sections[name] is None:
                raise ValueError(
                    f"{name}: missing - there are layers of kind {cls.entry.letter}, "
                    f"which need the section {name!r}"
                )


def needs_mamba2(sections: Sections, letter: str) -> None:
    """Raise ValueError unless the section `ssm` is a Mamba-2."""
    kind = sections["ssm"].kind
    if kind != "mamba2":
        raise ValueError(
            f"ssm.kind: {kind!r} - kind {letter} has Mamba-2 branches and needs ssm.kind 'mamba2'"
        )


# ---------------------------------------------------------------- reading and writing `kind`


def _read_mixer(value: Any) -> Any:
    """The mixer that a mapping with a `kind` describes. Other values are returned as they are."""
    if not isinstance(value, dict):
        return value
    kinds = _mixer_kinds()
    kind = value.get("kind")
    if kind not in kinds:
        raise ValueError(f"kind: {short(kind)} - must be {nearest(kind, kinds)}")
    fields = {str(key): item for key, item in value.items()}
    del fields["kind"]
    return kinds[kind].make(**fields)


def _write_mixer(mixer: Mixer) -> dict[str, Any]:
    return {"kind": mixer.kind} | mixer.model_dump(exclude_none=True)


def _mixer_kinds() -> dict[str, type[Mixer]]:
    """Every kind of mixer by its name in YAML."""
    return {cls.kind: cls for cls in _descendants(Mixer) if "entry" in vars(cls)}


def _descendants(cls: type[Any]) -> Iterator[type[Any]]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


# The annotation that makes a mixer field readable by its `kind`.
MIXER = (BeforeValidator(_read_mixer), PlainSerializer(_write_mixer))
