"""ArchSpec: the single description of a model. Everything else reads the tuple of layers that it
resolves to (`ArchSpec.stack`).

The YAML sections (sections.py) describe the usual kinds of layer. `mixers` and `ffns` assign more
letters to mixers and feed-forwards that a design spells out in full. The kinds of layer are in
mixers/."""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from hybrid_core.design import placement as layout
from hybrid_core.design.constants import checked_constants
from hybrid_core.design.quantization import StoredWeights, up_to
from hybrid_core.design.sections import SECTIONS, LayersSection, SsmSection
from hybrid_core.design.stack import Layer, check_reuse
from hybrid_core.ffns.registry import AnyFfn, Ffn
from hybrid_core.files import read_file
from hybrid_core.mixers.attention import AttentionSection
from hybrid_core.mixers.base import MIXER, Mixer, Sections
from hybrid_core.mixers.fusion import DiffSection
from hybrid_core.mixers.intra import IntraSection
from hybrid_core.mixers.none import NoMixer
from hybrid_core.mixers.registry import WRITTEN
from hybrid_core.mixers.swa import SwaSection
from hybrid_core.stored import ComputeDtype
from hybrid_core.validation import (
    MAX_LAYERS,
    Count,
    Dim,
    Epsilon,
    Frozen,
    Size,
    SpecError,
    exact_int,
    quiet,
    short,
)
from hybrid_core.yaml_io import dump, safe_mapping


class _Table(dict[str, Any]):
    """A hashable mapping, because designs must be hashable."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


def _table(reserved: str) -> AfterValidator:
    """A validator for keys: single letters or digits, but none of `reserved`."""

    def check(value: dict[str, Any]) -> _Table:
        for key in value:
            is_letter = len(key) == 1 and key.isascii() and key.isalnum()
            if not is_letter or key in reserved:
                raise ValueError(
                    f"{short(key)} - must be one letter or digit, but not {', '.join(reserved)}"
                )
        return _Table(value)

    return AfterValidator(check)


def _not_blank(name: str) -> str:
    if not name.strip(" "):
        raise ValueError("must not be blank")
    return name


class ArchSpec(Frozen):
    """A whole model. `stack` is the tuple of layers that costs, modules, figures and exports read.

    `post_norm`: mixer and feed-forward are also followed by a norm (Gemma). `meta_tokens`: learnt
    tokens before every prompt, which the caches hold too (Hymba). `outside_params`: parameters
    outside the language model, e.g. of a vision tower. `constants`: fields of a published config
    that change the computation but no cost, under their published names. `quantization`: matrices
    that are stored in fewer bits. `state_dtype`: the dtype in which an engine keeps scan states.
    These two do not change which model it is."""

    schema_: Annotated[Literal[1], BeforeValidator(exact_int), Field(alias="schema")] = 1
    name: Annotated[
        str,
        Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$"),
        AfterValidator(_not_blank),
    ]
    vocab_size: Annotated[int, BeforeValidator(exact_int), Field(ge=1, le=10_000_000)]
    tie_embeddings: bool = True
    norm_eps: Epsilon = 1e-5
    d_model: Dim
    n_layers: Annotated[int, BeforeValidator(exact_int), Field(ge=1, le=MAX_LAYERS)]
    layers: LayersSection
    attention: AttentionSection | None = None
    swa: SwaSection | None = None
    ssm: SsmSection | None = None
    intra: IntraSection | None = None
    diff: DiffSection | None = None
    ffn: Ffn | None = None
    mixers: Annotated[dict[str, Annotated[Mixer, *MIXER]], _table("".join(layout.LETTERS))] = quiet(
        _Table()
    )
    ffns: Annotated[dict[str, Ffn], _table("F")] = quiet(_Table())
    post_norm: bool = quiet(False)
    norm: Literal["rms", "layer"] = quiet("rms")
    meta_tokens: Count = quiet(0)
    outside_params: Size = quiet(0)
    constants: Annotated[
        dict[str, Any], AfterValidator(checked_constants), AfterValidator(_Table)
    ] = quiet(_Table())
    quantization: Annotated[tuple[StoredWeights, ...], Field(strict=False)] = quiet(())
    state_dtype: ComputeDtype | None = quiet(None)

    @model_validator(mode="after")
    def _rules(self) -> "ArchSpec":
        self._check_letters()
        used = sorted(set(self.letters) - set(self.mixers))
        for letter in used:
            WRITTEN[letter].check_sections(self._sections)
        if self.intra is not None:
            self.intra.check_beside(self.attention, self.ssm)
        if any(layer.mixer == NoMixer() and layer.ffn is None for layer in self.stack):
            raise ValueError(
                f"layers.pattern: {short(self.letters)} - "
                "a layer without mixer (-) needs a feed-forward"
            )
        check_reuse(self.stack)
        self._check_stored_layers()
        return self

    def _check_stored_layers(self) -> None:
        """Raise ValueError unless the layers that `quantization` names exist."""
        for rule in self.quantization:
            outside = [layer for layer in rule.layers or () if layer > self.n_layers]
            if outside:
                raise ValueError(
                    f"quantization.layers: {outside[0]} - "
                    f"must be from 1 to n_layers ({self.n_layers})"
                )

    def _check_letters(self) -> None:
        """Raise ValueError unless every letter of the two patterns is defined."""
        known = {**layout.LETTERS, "-": "none"} | {
            letter: mixer.kind for letter, mixer in self.mixers.items()
        }
        if not set(self.letters) <= set(known):
            legend = ", ".join(f"{letter} ({name})" for letter, name in known.items())
            raise ValueError(f"layers.pattern: {short(self.letters)} - may hold only {legend}")
        feeds = self._feeds
        if len(feeds) != self.n_layers:
            raise ValueError(
                f"layers.ffns: {short(feeds)} - has {len(feeds)} letters, "
                f"must have n_layers ({self.n_layers})"
            )
        if not set(feeds) <= {"F", "-", *self.ffns}:
            own = ", ".join(self.ffns) or "ffns"
            raise ValueError(
                f"layers.ffns: {short(feeds)} - may hold only F (the section ffn), - (none), {own}"
            )

    def __hash__(self) -> int:
        return self.hashed

    @cached_property
    def hashed(self) -> int:
        """The hash, computed once because every cost cache uses it."""
        keys = type(self).model_fields
        return hash(tuple(getattr(self, key) for key in keys))

    @cached_property
    def letters(self) -> str:
        """The letters of the mixers as written, including those of `mixers`."""
        return self.layers.resolve(self.n_layers)

    @cached_property
    def _feeds(self) -> str:
        """The letters of the feed-forwards."""
        if self.layers.ffns is None:
            return "F" * self.n_layers
        return self.layers.ffns

    @cached_property
    def pattern(self) -> str:
        """One letter per layer by the kind of its mixer, e.g. `MMMAMMMAMMMMM`."""
        return "".join(layer.letter for layer in self.stack)

    @cached_property
    def stack(self) -> tuple[Layer, ...]:
        """The layers as built, first to last. Equal layers are one object."""
        pairs = zip(self.letters, self._feeds, strict=True)
        return tuple(self._by_letters[pair] for pair in pairs)

    @cached_property
    def distinct(self) -> dict[Layer, int]:
        """Each distinct layer and its number of occurrences in the stack, in order of
        appearance."""
        counts = Counter(zip(self.letters, self._feeds, strict=True))
        found: Counter[Layer] = Counter()
        for pair, n in counts.items():
            found[self._by_letters[pair]] += n
        return found

    @cached_property
    def _by_letters(self) -> dict[tuple[str, str], Layer]:
        """The layer that each pair of letters (mixer, feed-forward) stands for."""
        mixers: dict[str, Mixer] = dict(self.mixers)
        for letter in set(self.letters) - set(mixers):
            mixers[letter] = WRITTEN[letter].from_sections(self._sections)
        feeds: dict[str, AnyFfn | None] = {"-": None, "F": self.ffn} | dict(self.ffns)
        made: dict[Layer, Layer] = {}
        found = {}
        for letter, feed in set(zip(self.letters, self._feeds, strict=True)):
            layer = Layer(mixers[letter], feeds[feed])
            # Two letters may stand for equal layers.
            found[letter, feed] = made.setdefault(layer, layer)
        return found

    @property
    def _sections(self) -> Sections:
        """The sections that describe layers of the WRITTEN kinds."""
        names = set().union(*SECTIONS.values())
        return {name: getattr(self, name) for name in names}

    def same_model(self, other: "ArchSpec") -> bool:
        """Whether both are the same model, regardless of their names and of how their layers are
        written."""
        return self._resolved() == other._resolved()

    def _resolved(self) -> tuple[Any, ...]:
        plain = (
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
        return (self.stack, *(getattr(self, key) for key in plain))

    # ------------------------------------------------------------ YAML

    @classmethod
    def from_mapping(cls, data: dict[str, Any]) -> "ArchSpec":
        """Validate a mapping read from YAML. Raises SpecError with one line."""
        if "schema" not in data:
            raise SpecError("schema: missing - a design starts with 'schema: 1'")
        return cls._valid(data)

    @classmethod
    def from_yaml(cls, text: str | bytes) -> "ArchSpec":
        """Read a design from YAML text. Raises SpecError with one line."""
        return cls.from_mapping(safe_mapping(text))

    @classmethod
    def load(cls, path: str | Path) -> "ArchSpec":
        """Read a design from a YAML file. Raises SpecError with one line."""
        return cls.from_yaml(read_file(Path(path), "design"))

    def to_yaml(self) -> str:
        """The design as byte-stable YAML: `from_yaml(s.to_yaml()) == s`, and saving that again
        gives the same text."""
        return dump(self.model_dump(mode="json", exclude_none=True))

    def replace(self, **changes: Any) -> "ArchSpec":
        """A copy with these top-level values changed, validated again. Raises SpecError with one
        line. A shallower stack keeps the storage formats of its remaining layers."""
        if isinstance(changes.get("n_layers"), int) and self.quantization:
            changes.setdefault("quantization", up_to(self.quantization, changes["n_layers"]))
        data = self.model_dump(exclude_none=True)
        for key, value in changes.items():
            data.pop(key, None)
            if isinstance(value, BaseModel):
                data[key] = value.model_dump(exclude_none=True)
            elif value is not None:
                data[key] = value
        return ArchSpec.from_mapping(data)
