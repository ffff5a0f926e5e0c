"""ArchSpec: the one description of a model. Everything else reads the tuple of layers it resolves to (`ArchSpec.stack`).

The YAML sections (`attention`, `swa`, `ssm`, `intra`, `diff`, `ffn`) are what a person writes for the usual kinds of layer; `mixers` and
`ffns` give further letters to mixers and feed-forwards that a design spells out whole. What one layer is: parts.py.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from hybrid_core import placement as layout
from hybrid_core.constants import checked_constants
from hybrid_core.files import read_file
from hybrid_core.parts import (
    MIXER,
    Activation,
    AnyFfn,
    AttentionFields,
    AttentionMixer,
    DeclaredMixer,
    DiffAttentionMixer,
    DiffFusion,
    DiffMamba2Mixer,
    DiffScalar,
    Ffn,
    Fusion,
    GatedDeltaNetMixer,
    GatedMemoryMixer,
    IntraMixer,
    KimiDeltaMixer,
    LatentAttentionMixer,
    Layer,
    Mamba1Fields,
    Mamba1Mixer,
    Mamba2Fields,
    Mamba2Mixer,
    Mixer,
    Mlp,
    MoE,
    NoMixer,
    Norm,
    Out,
    RgLruMixer,
    RopeScaling,
    Scalar,
    SharedBlockMixer,
    ShortConvMixer,
    SideBySideMixer,
    SwaMixer,
    SwiGLU,
    Value,
    check_reuse,
    fusible,
    key_value_heads,
)
from hybrid_core.stored import ComputeDtype, StoredWeights, WeightFormat, up_to
from hybrid_core.validation import (
    MAX_DIM,
    MAX_LAYERS,
    Count,
    Dim,
    Epsilon,
    Frozen,
    Length,
    Positive,
    Share,
    Size,
    SpecError,
    Theta,
    divides,
    exact_int,
    first_line,
    nearest,
    quiet,
    rotates_pairs,
    short,
)
from hybrid_core.yaml_io import dump, safe_mapping

__all__ = [
    "MAX_DIM",
    "MAX_LAYERS",
    "SECTIONS",
    "Activation",
    "AnyFfn",
    "ArchSpec",
    "AttentionMixer",
    "AttentionSection",
    "ComputeDtype",
    "Count",
    "DeclaredMixer",
    "DiffAttentionMixer",
    "DiffMamba2Mixer",
    "DiffSection",
    "Dim",
    "Ffn",
    "Frozen",
    "Fusion",
    "GatedDeltaNetMixer",
    "GatedMemoryMixer",
    "IntraMixer",
    "IntraSection",
    "KimiDeltaMixer",
    "LatentAttentionMixer",
    "Layer",
    "LayersSection",
    "Length",
    "Mamba1Mixer",
    "Mamba1Section",
    "Mamba2Mixer",
    "Mamba2Section",
    "Mixer",
    "Mlp",
    "MoE",
    "NoMixer",
    "Norm",
    "Out",
    "Positive",
    "RgLruMixer",
    "RopeScaling",
    "Scalar",
    "Share",
    "SharedBlockMixer",
    "ShortConvMixer",
    "SideBySideMixer",
    "Size",
    "SpecError",
    "StoredWeights",
    "SwaMixer",
    "SwaSection",
    "SwiGLU",
    "Value",
    "WeightFormat",
    "divides",
    "first_line",
    "key_value_heads",
    "nearest",
    "rotates_pairs",
    "short",
]


# ---------------------------------------------------------------- the sections a person writes


class LayersSection(Frozen):
    """Which layer is of which kind: a strategy with ratio and placement, or with indices, or a pattern of letters.

    `ffns`: the feed-forward of each layer, where they differ: F is the section `ffn`, - none, other letters are those of `ffns`.
    """

    strategy: layout.Strategy = "custom"
    ratio: str | None = None
    placement: layout.Placement | None = None
    indices: tuple[Dim, ...] | None = Field(default=None, strict=False)
    pattern: str | None = None
    ffns: str | None = quiet(None)

    @model_validator(mode="before")
    @classmethod
    def _hints(cls, data: Any) -> Any:
        ratio = data.get("ratio") if isinstance(data, dict) else None
        if ratio is not None and not isinstance(ratio, str):
            raise ValueError(f'ratio: {short(ratio)} - must be text in quotes, e.g. "1:5" (YAML reads 1:5 without quotes as the number 65)')
        return data

    @model_validator(mode="after")
    def _rules(self) -> "LayersSection":
        if self.ratio is not None:
            try:
                layout.parse_ratio(self.ratio)
            except ValueError as error:
                raise ValueError(f"ratio: {short(self.ratio)} - {error}") from None
        given = [key for key in ("ratio", "placement", "indices", "pattern") if getattr(self, key) is not None]
        if self.strategy == "custom":
            allowed: tuple[str, ...] = ("pattern",)
        elif self.strategy in layout.UNIFORM:
            allowed = ()
        elif self.indices is not None:
            allowed = ("indices", "placement") if self.placement == "custom" else ("indices",)
        else:
            allowed = ("ratio", "placement")
        for key in given:
            if key not in allowed:
                hint = f"takes {' and '.join(allowed)}" if allowed else "takes neither ratio, placement, indices nor pattern"
                raise ValueError(f"{key}: {short(getattr(self, key))} - strategy {self.strategy!r} {hint}")
        if self.strategy == "custom" and self.pattern is None:
            raise ValueError(
                f"pattern: missing - strategy 'custom' needs a pattern of letters ({', '.join(layout.LETTERS)}), one per layer"
            )
        if "ratio" in allowed and self.ratio is None:
            raise ValueError(f"ratio: missing - strategy {self.strategy!r} needs a ratio (and placement), or indices")
        if self.placement == "custom" and self.indices is None:
            raise ValueError("placement: 'custom' - needs indices")
        return self

    def resolve(self, n_layers: int) -> str:
        """The pattern of letters for `n_layers`. Raises ValueError when indices or pattern do not fit that depth."""
        if self.pattern is not None:
            if len(self.pattern) != n_layers:
                given = short(self.pattern)
                raise ValueError(f"layers.pattern: {given} - has {len(self.pattern)} letters, must have n_layers ({n_layers})")
            return self.pattern
        if self.strategy in layout.UNIFORM:
            return layout.pattern(self.strategy, n_layers, ())
        if self.indices is not None:
            if len(set(self.indices)) < len(self.indices):
                twice = next(i for i in self.indices if self.indices.count(i) > 1)
                raise ValueError(f"layers.indices: {short(list(self.indices))} - layer {twice} is named twice")
            outside = [i for i in self.indices if i > n_layers]
            if outside:
                raise ValueError(f"layers.indices: {outside[0]} - must be from 1 to n_layers ({n_layers})")
            return layout.pattern(self.strategy, n_layers, self.indices)
        k = layout.n_expensive(n_layers, layout.parse_ratio(self.ratio or ""))
        return layout.pattern(self.strategy, n_layers, layout.place(k, n_layers, self.placement or "middle"))


class AttentionSection(AttentionFields):
    """Grouped-query attention; its position encoding also serves the intra-hybrid block's attention branch."""


class SwaSection(Frozen):
    """Sliding window with sinks; heads come from `attention`. Defaults are the paper's (Appendix E)."""

    window: Dim = 512
    sink: Count = 64
    rope_theta: Theta = 10_000.0


class _KindMamba2(Frozen):
    kind: Literal["mamba2"] = "mamba2"


class _KindMamba1(Frozen):
    kind: Literal["mamba1"] = "mamba1"


class Mamba2Section(Mamba2Fields, _KindMamba2):
    """Mamba-2; state, convolution and (unless it says otherwise) head width also serve the intra-hybrid block's Mamba branch."""

    def mixer(self) -> Mamba2Mixer:
        """A layer of kind M."""
        return Mamba2Mixer(**self.model_dump(exclude={"kind"}))


class Mamba1Section(Mamba1Fields, _KindMamba1):
    """Mamba-1 in place of Mamba-2."""

    def mixer(self) -> Mamba1Mixer:
        """A layer of kind M."""
        return Mamba1Mixer(**self.model_dump(exclude={"kind"}))


def _mamba2_unless_said(section: Any) -> Any:
    return {"kind": "mamba2"} | section if isinstance(section, dict) else section


SsmSection = Annotated[Mamba2Section | Mamba1Section, Field(discriminator="kind"), BeforeValidator(_mamba2_unless_said)]


class IntraSection(Frozen):
    """Position encoding comes from `attention`, state and convolution from `ssm`, and so does the SSM head unless given here."""

    n_heads: Dim
    n_kv_heads: Dim
    qk_head_dim: Dim
    v_head_dim: Dim
    d_ssm: Dim
    ssm_head_dim: Dim | None = None
    ssm_norm: bool = quiet(False)
    norm: Norm = "group"
    scalar: Scalar = "none"
    fusion: Fusion = "diff"
    value: Value = "separate"
    out: Out = "separate"

    @model_validator(mode="after")
    def _rules(self) -> "IntraSection":
        divides("n_heads", self.n_heads, "n_kv_heads", self.n_kv_heads)
        fusible(self.fusion, self.value, self.out, self.d_ssm, self.n_heads * self.v_head_dim)
        return self


class DiffSection(Frozen):
    """The differential mixers; heads come from `attention`, branches from `ssm`. Defaults are Table 18's Diff-T and Diff-M.

    `norm` group: RMS over each head - of the fused pair in attention, times 1 - lambda's start, as in arXiv 2410.05258; of either branch
    in Mamba. `scalar` diff_t: the second of two is scaled by lambda. `fusion`: first minus second, or their sum.
    """

    norm: Norm = "none"
    scalar: DiffScalar = "diff_t"
    fusion: DiffFusion = "diff"


class _Table(dict[str, Any]):
    """A mapping that can be hashed, as a design must."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


def _table(reserved: str) -> AfterValidator:
    """Keys are single letters or digits, none of `reserved`."""

    def check(value: dict[str, Any]) -> _Table:
        for key in value:
            if not (len(key) == 1 and key.isascii() and key.isalnum()) or key in reserved:
                raise ValueError(f"{short(key)} - must be one letter or digit, and none of {', '.join(reserved)}")
        return _Table(value)

    return AfterValidator(check)


def _not_blank(name: str) -> str:
    if not name.strip(" "):
        raise ValueError("must have more than blanks")
    return name


# The sections that a layer of each kind is made from.
SECTIONS: dict[str, tuple[str, ...]] = {
    "A": ("attention",),
    "S": ("attention", "swa"),
    "M": ("ssm",),
    "H": ("intra", "attention", "ssm"),
    "D": ("diff", "attention"),
    "N": ("diff", "ssm"),
    "-": (),
}


class ArchSpec(Frozen):
    """A whole model. `stack` is the tuple of layers that costs, modules, figures and exports read.

    `post_norm`: mixer and feed-forward have a norm behind them too (Gemma). `meta_tokens`: learnt tokens before every prompt, which
    the caches hold too (Hymba). `outside_params`: parameters of what stands outside the language model, e.g. a vision tower.
    `constants`: fields of a published config that change what is computed but no cost, under their name there. `quantization`: matrices
    that are stored in fewer bits; `state_dtype`: what an engine keeps the scans' states in. Neither changes what the model is.
    """

    schema_: Annotated[Literal[1], BeforeValidator(exact_int), Field(alias="schema")] = 1
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$"), AfterValidator(_not_blank)]
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
    mixers: Annotated[dict[str, Annotated[Mixer, *MIXER]], _table("".join(layout.LETTERS))] = quiet(_Table())
    ffns: Annotated[dict[str, Ffn], _table("F")] = quiet(_Table())
    post_norm: bool = quiet(False)
    norm: Literal["rms", "layer"] = quiet("rms")
    meta_tokens: Count = quiet(0)
    outside_params: Size = quiet(0)
    constants: Annotated[dict[str, Any], AfterValidator(checked_constants), AfterValidator(_Table)] = quiet(_Table())
    quantization: Annotated[tuple[StoredWeights, ...], Field(strict=False)] = quiet(())
    state_dtype: ComputeDtype | None = quiet(None)

    @model_validator(mode="after")
    def _rules(self) -> "ArchSpec":
        self._check_letters()
        for letter in sorted(set(self.letters) - set(self.mixers)):
            for section in SECTIONS[letter]:
                if getattr(self, section) is None:
                    raise ValueError(f"{section}: missing - the layers hold kind {letter}, which needs the section {section!r}")
            if letter in "HN" and not isinstance(self.ssm, Mamba2Section):
                raise ValueError(
                    f"ssm.kind: {self.ssm and self.ssm.kind!r} - kind {letter} has Mamba-2 branches: it needs ssm.kind 'mamba2'"
                )
        if self.intra is not None and isinstance(self.ssm, Mamba2Section):
            head_dim = self.intra.ssm_head_dim or self.ssm.head_dim
            divides("intra.d_ssm", self.intra.d_ssm, "the SSM's head_dim", head_dim)
            divides("intra.d_ssm / head_dim", self.intra.d_ssm // head_dim, "ssm.n_groups", self.ssm.n_groups)
        if self.intra is not None and self.attention is not None and self.attention.position == "rope":
            rotates_pairs("intra.qk_head_dim", self.intra.qk_head_dim, self.attention.rope_fraction)
        if "D" in self.letters and self.attention is not None:
            for key in ("n_heads", "n_kv_heads"):
                divides(f"attention.{key}", getattr(self.attention, key), "2, for the pairs of kind D", 2)
        if "N" in self.letters and isinstance(self.ssm, Mamba2Section):
            heads = self.ssm.d_ssm // self.ssm.head_dim
            divides("ssm.d_ssm / head_dim", heads, "2 * n_groups, for the two branches of kind N", 2 * self.ssm.n_groups)
        if any(layer.mixer == NoMixer() and layer.ffn is None for layer in self.stack):
            raise ValueError(f"layers.pattern: {short(self.letters)} - a layer without mixer (-) needs a feed-forward")
        check_reuse(self.stack)
        self._check_stored_layers()
        return self

    def _check_stored_layers(self) -> None:
        """Raise unless the layers that `quantization` names are there."""
        for rule in self.quantization:
            outside = [layer for layer in rule.layers or () if layer > self.n_layers]
            if outside:
                raise ValueError(f"quantization.layers: {outside[0]} - must be from 1 to n_layers ({self.n_layers})")

    def _check_letters(self) -> None:
        """Raise unless every letter of the two patterns stands for something."""
        known = {**layout.LETTERS, "-": "none"} | {letter: mixer.kind for letter, mixer in self.mixers.items()}
        if not set(self.letters) <= set(known):
            legend = ", ".join(f"{letter} ({name})" for letter, name in known.items())
            raise ValueError(f"layers.pattern: {short(self.letters)} - may hold only {legend}")
        feeds = self._feeds
        if len(feeds) != self.n_layers:
            raise ValueError(f"layers.ffns: {short(feeds)} - has {len(feeds)} letters, must have n_layers ({self.n_layers})")
        if not set(feeds) <= {"F", "-", *self.ffns}:
            raise ValueError(f"layers.ffns: {short(feeds)} - may hold only F (the section ffn), - (none), {', '.join(self.ffns) or 'ffns'}")

    def __hash__(self) -> int:
        return self.hashed

    @cached_property
    def hashed(self) -> int:
        """Worked out once: every cache of costs asks for it."""
        return hash(tuple(getattr(self, key) for key in type(self).model_fields))

    @cached_property
    def letters(self) -> str:
        """The letters of the mixers as written, `mixers`' own among them."""
        return self.layers.resolve(self.n_layers)

    @cached_property
    def _feeds(self) -> str:
        """The letters of the feed-forwards."""
        return self.layers.ffns if self.layers.ffns is not None else "F" * self.n_layers

    @cached_property
    def pattern(self) -> str:
        """One letter per layer by the kind of its mixer, e.g. `MMMAMMMAMMMMM`."""
        return "".join(layer.letter for layer in self.stack)

    @cached_property
    def stack(self) -> tuple[Layer, ...]:
        """The layers as built, first to last."""
        known = {"-": NoMixer()} | dict(self.mixers)
        mixers: dict[str, Mixer] = {letter: known.get(letter) or self._mixer(letter) for letter in set(self.letters)}
        feeds: dict[str, AnyFfn | None] = {"-": None, "F": self.ffn} | dict(self.ffns)
        pairs = zip(self.letters, self._feeds, strict=True)
        return tuple(Layer(mixers[letter].letter, mixers[letter], feeds[feed]) for letter, feed in pairs)

    def same_model(self, other: "ArchSpec") -> bool:
        """Whether both are one model, whatever they are called and however their layers are written."""
        return self._resolved() == other._resolved()

    def _resolved(self) -> tuple[Any, ...]:
        plain = ("vocab_size", "tie_embeddings", "norm_eps", "d_model", "post_norm", "norm", "meta_tokens", "outside_params", "constants")
        return (self.stack, *(getattr(self, key) for key in plain))

    def _mixer(self, letter: str) -> Mixer:
        """The mixer of a layer of kind `letter`; validation has made sure that its sections are there."""
        if letter == "M":
            assert self.ssm
            return self.ssm.mixer()
        if letter == "N":
            assert isinstance(self.ssm, Mamba2Section)
            assert self.diff
            ssm = self.ssm.mixer().model_dump() | {"n_groups": 2 * self.ssm.n_groups}
            return DiffMamba2Mixer(**ssm, **self.diff.model_dump())
        assert self.attention
        heads = self.attention.model_dump(exclude={"rope_scaling"}) | {"v_head_dim": self.attention.head_dim}
        scaling = self.attention.rope_scaling
        if letter == "A":
            return AttentionMixer(**heads, rope_scaling=scaling)
        if letter == "D":
            assert self.diff
            return DiffAttentionMixer(**heads, rope_scaling=scaling, **self.diff.model_dump())
        if letter == "S":
            assert self.swa
            return SwaMixer(**(heads | self.swa.model_dump()))  # the window's own theta, unscaled (Appendix E)
        assert isinstance(self.ssm, Mamba2Section)
        assert self.intra
        axes = self.intra.model_dump(include={"norm", "scalar", "fusion", "value", "out", "ssm_norm"})
        own = {"n_heads": self.intra.n_heads, "n_kv_heads": self.intra.n_kv_heads}
        own |= {"head_dim": self.intra.qk_head_dim, "v_head_dim": self.intra.v_head_dim}
        branch = {"d_ssm": self.intra.d_ssm, "head_dim": self.intra.ssm_head_dim or self.ssm.head_dim}
        ssm = self.ssm.mixer().model_dump() | branch
        return IntraMixer(attention=AttentionMixer(**(heads | own), rope_scaling=scaling), ssm=Mamba2Mixer(**ssm), **axes)

    # ------------------------------------------------------------ YAML

    @classmethod
    def from_mapping(cls, data: dict[str, Any]) -> "ArchSpec":
        """Validate a mapping as it comes out of YAML. Raises SpecError with one line."""
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
        """The design as YAML, byte-stable: `from_yaml(to_yaml(s)) == s` and its own `to_yaml` is the same text."""
        return dump(self.model_dump(mode="json", exclude_none=True))

    def replace(self, **changes: Any) -> "ArchSpec":
        """A copy with other top-level values, validated again. Raises SpecError with one line. A shallower stack keeps what its layers
        are stored in."""
        if isinstance(changes.get("n_layers"), int) and self.quantization:
            changes.setdefault("quantization", up_to(self.quantization, changes["n_layers"]))
        sections = {key: value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value for key, value in changes.items()}
        kept = {key: value for key, value in self.model_dump(exclude_none=True).items() if key not in sections}
        return ArchSpec.from_mapping(kept | {key: value for key, value in sections.items() if value is not None})
