"""ArchSpec: the one description of a model. Everything else reads the tuple of layers it resolves to (`ArchSpec.stack`).

The YAML sections (`attention`, `swa`, `ssm`, `intra`, `diff`, `ffn`) are what a person writes; a mixer spec (`AttentionMixer`, ...) is what
one layer is, complete in itself. Terms: design in the README, symbols as in Mamba-2 (arXiv 2405.21060) and Llama.
"""

import difflib
import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hybrid_core import placement as layout
from hybrid_core.yaml_io import YamlError, dump, read_text, safe_mapping

MAX_DIM = 131_072
MAX_LAYERS = 1_024


class SpecError(ValueError):
    """A design that breaks a rule: one line that names the key, the value and the rule."""


def _exact_int(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


Dim = Annotated[int, BeforeValidator(_exact_int), Field(ge=1, le=MAX_DIM)]
Count = Annotated[int, BeforeValidator(_exact_int), Field(ge=0, le=MAX_DIM)]
Length = Annotated[int, BeforeValidator(_exact_int), Field(ge=0, le=2**30)]
Positive = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Frozen(BaseModel):
    """Immutable, typed strictly, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, serialize_by_alias=True, populate_by_name=True)

    @classmethod
    def make(cls, **fields: Any) -> Self:
        """Validate; raises SpecError with one line that names the key, the value and the rule."""
        return cls._valid(fields)

    @classmethod
    def _valid(cls, data: dict[str, Any]) -> Self:
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise SpecError(first_line(error)) from None


def divides(key: str, value: int, divisor_key: str, divisor: int) -> None:
    """Raise unless `divisor` divides `value`; the message names both."""
    if value % divisor:
        raise ValueError(f"{key}: {value} - must be divisible by {divisor_key} ({divisor})")


def rotates_pairs(key: str, head_dim: int, rope_fraction: float) -> None:
    """Raise unless RoPE turns whole pairs of channels: the whole head, or the part of it that `rope_fraction` says."""
    divides(key, head_dim, "2, for RoPE", 2)
    rotated = head_dim * rope_fraction
    if round(rotated) % 2 or not math.isclose(rotated, round(rotated)):
        raise ValueError(f"{key}: {head_dim} - times rope_fraction ({rope_fraction}) must be even, for RoPE")


# ---------------------------------------------------------------- what one layer is


class RopeScaling(Frozen):
    """Llama-3 frequency scaling: long wavelengths are slowed by `factor`, short ones kept, with a ramp between."""

    factor: Positive = 32.0
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_context_len: Length = 8192

    @model_validator(mode="after")
    def _rules(self) -> "RopeScaling":
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(f"high_freq_factor: {self.high_freq_factor} - must be above low_freq_factor ({self.low_freq_factor})")
        return self


class AttentionMixer(Frozen):
    """Grouped-query attention. Queries and keys are `head_dim` wide, values `v_head_dim`; RoPE turns the first `rope_dim` channels."""

    n_heads: Dim
    n_kv_heads: Dim
    head_dim: Dim
    v_head_dim: Dim
    position: Literal["rope", "nope"]
    rope_theta: Positive
    rope_fraction: Share = 1.0
    rope_scaling: RopeScaling | None = None

    @property
    def rope_dim(self) -> int:
        """Channels of a head that RoPE turns."""
        return round(self.head_dim * self.rope_fraction) if self.position == "rope" else 0

    @property
    def rope(self) -> tuple[int, float, RopeScaling | None] | None:
        """What a table of rotations depends on."""
        return (self.rope_dim, self.rope_theta, self.rope_scaling) if self.position == "rope" else None


class SwaMixer(AttentionMixer):
    """Attention in which a query sees the last `window` positions (itself included) and the first `sink`."""

    window: Dim
    sink: Length


class Mamba2Mixer(Frozen):
    """Mamba-2: scalar decay per head, inner width `d_ssm`, state `d_state` per channel. `chunk_size` is how the scan is computed."""

    d_ssm: Dim
    head_dim: Dim
    d_state: Dim
    d_conv: Dim
    n_groups: Dim
    chunk_size: Dim

    @property
    def n_heads(self) -> int:
        return self.d_ssm // self.head_dim

    @property
    def d_xbc(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.d_ssm + 2 * self.n_groups * self.d_state


class Mamba1Mixer(Frozen):
    """Mamba-1 (arXiv 2312.00752): a decay for every channel and state, dt through a bottleneck of `dt_rank`.

    `dt_bc_norm`: RMSNorm of dt (at its rank), B and C, as in Jamba and Falcon-Mamba.
    """

    d_ssm: Dim
    d_state: Dim
    d_conv: Dim
    dt_rank: Dim
    dt_bc_norm: bool


Norm = Literal["group", "none"]
Scalar = Literal["none", "scale", "gate", "diff_t"]
Fusion = Literal["add", "diff", "concat"]
Value = Literal["separate", "shared"]
Out = Literal["separate", "joint"]


class IntraMixer(Frozen):
    """Attention heads and Mamba-2 heads side by side in one block, fused along five axes (paper, Appendix D)."""

    attention: AttentionMixer
    ssm: Mamba2Mixer
    norm: Norm
    scalar: Scalar
    fusion: Fusion
    value: Value
    out: Out

    @property
    def rope(self) -> tuple[int, float, RopeScaling | None] | None:
        """The attention branch's."""
        return self.attention.rope

    @property
    def d_attention(self) -> int:
        """Width of the attention branch before its projection."""
        return self.attention.n_heads * self.attention.v_head_dim


DiffScalar = Literal["diff_t", "none"]
DiffFusion = Literal["diff", "add"]


class DiffAttentionMixer(AttentionMixer):
    """Differential attention (arXiv 2410.05258): head i and head i + n_heads/2 are a pair, each with a softmax map of its own, and read
    the same value of two heads' width (2 `v_head_dim`). Projections and cache are those of plain attention."""

    norm: Norm
    scalar: DiffScalar
    fusion: DiffFusion

    @property
    def pair_width(self) -> int:
        """Width of a pair's value."""
        return 2 * self.v_head_dim


class DiffMamba2Mixer(Mamba2Mixer):
    """Differential Mamba-2: two branches of half the inner width, each with its own z, x, B, C and dt. Heads share B and C by group,
    so two branches are the two halves of the groups of one Mamba-2; `n_groups` counts those of both."""

    norm: Norm
    scalar: DiffScalar
    fusion: DiffFusion


Mixer = AttentionMixer | SwaMixer | Mamba2Mixer | Mamba1Mixer | IntraMixer | DiffAttentionMixer | DiffMamba2Mixer


class SwiGLU(Frozen):
    """Gated feed-forward: down(silu(gate(x)) * up(x))."""

    kind: Literal["swiglu"] = "swiglu"
    d_ff: Dim


class MoE(Frozen):
    """Mixture of gated experts: `n_shared` always on, `top_k` of `n_routed` chosen by a sigmoid router (paper, Appendix L)."""

    kind: Literal["moe"] = "moe"
    n_routed: Dim = 8
    top_k: Dim = 1
    n_shared: Count = 1
    d_expert: Dim

    @model_validator(mode="after")
    def _rules(self) -> "MoE":
        if self.top_k > self.n_routed:
            raise ValueError(f"top_k: {self.top_k} - must not exceed n_routed ({self.n_routed})")
        return self


Ffn = Annotated[SwiGLU | MoE, Field(discriminator="kind")]


class Layer(NamedTuple):
    """One layer as built: its letter (see placement.py), its mixer, its feed-forward or none."""

    letter: str
    mixer: Mixer
    ffn: SwiGLU | MoE | None


# ---------------------------------------------------------------- the sections a person writes


class LayersSection(Frozen):
    """Which layer is of which kind: a strategy with ratio and placement, or with indices, or a pattern of letters."""

    strategy: layout.Strategy = "custom"
    ratio: str | None = None
    placement: layout.Placement | None = None
    indices: tuple[Dim, ...] | None = Field(default=None, strict=False)
    pattern: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _hints(cls, data: Any) -> Any:
        ratio = data.get("ratio") if isinstance(data, dict) else None
        if ratio is not None and not isinstance(ratio, str):
            raise ValueError(f'ratio: {ratio!r} - must be text in quotes, e.g. "1:5" (YAML reads 1:5 without quotes as the number 65)')
        return data

    @model_validator(mode="after")
    def _rules(self) -> "LayersSection":
        if self.ratio is not None:
            try:
                layout.parse_ratio(self.ratio)
            except ValueError as error:
                raise ValueError(f"ratio: {self.ratio!r} - {error}") from None
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
                raise ValueError(f"{key}: {getattr(self, key)!r} - strategy {self.strategy!r} {hint}")
        if self.strategy == "custom" and self.pattern is None:
            raise ValueError(
                f"pattern: missing - strategy 'custom' needs a pattern of letters ({', '.join(layout.LETTERS)}), one per layer"
            )
        if "ratio" in allowed and self.ratio is None:
            raise ValueError(f"ratio: missing - strategy {self.strategy!r} needs a ratio (and placement), or indices")
        if self.placement == "custom" and self.indices is None:
            raise ValueError("placement: 'custom' - needs indices")
        if self.pattern is not None and not set(self.pattern) <= set(layout.LETTERS):
            raise ValueError(f"pattern: {self.pattern!r} - may hold only {layout.LEGEND}")
        return self

    def resolve(self, n_layers: int) -> str:
        """The pattern of letters for `n_layers`. Raises ValueError when indices or pattern do not fit that depth."""
        if self.pattern is not None:
            if len(self.pattern) != n_layers:
                raise ValueError(f"layers.pattern: {self.pattern!r} - has {len(self.pattern)} letters, must have n_layers ({n_layers})")
            return self.pattern
        if self.strategy in layout.UNIFORM:
            return layout.pattern(self.strategy, n_layers, ())
        if self.indices is not None:
            if len(set(self.indices)) < len(self.indices):
                twice = next(i for i in self.indices if self.indices.count(i) > 1)
                raise ValueError(f"layers.indices: {list(self.indices)} - layer {twice} is named twice")
            outside = [i for i in self.indices if i > n_layers]
            if outside:
                raise ValueError(f"layers.indices: {outside[0]} - must be from 1 to n_layers ({n_layers})")
            return layout.pattern(self.strategy, n_layers, self.indices)
        k = layout.n_expensive(n_layers, layout.parse_ratio(self.ratio or ""))
        return layout.pattern(self.strategy, n_layers, layout.place(k, n_layers, self.placement or "middle"))


class AttentionSection(Frozen):
    """Grouped-query attention; its position encoding also serves the intra-hybrid block's attention branch."""

    n_heads: Dim
    n_kv_heads: Dim
    head_dim: Dim
    position: Literal["rope", "nope"] = "rope"
    rope_theta: Positive = 500_000.0
    rope_fraction: Share = 1.0
    rope_scaling: RopeScaling | None = None

    @model_validator(mode="after")
    def _rules(self) -> "AttentionSection":
        divides("n_heads", self.n_heads, "n_kv_heads", self.n_kv_heads)
        if self.position == "rope":
            rotates_pairs("head_dim", self.head_dim, self.rope_fraction)
        return self


class SwaSection(Frozen):
    """Sliding window with sinks; heads come from `attention`. Defaults are the paper's (Appendix E)."""

    window: Dim = 512
    sink: Length = 64
    rope_theta: Positive = 10_000.0


class Mamba2Section(Frozen):
    """Mamba-2; state, convolution and (unless it says otherwise) head width also serve the intra-hybrid block's Mamba branch."""

    kind: Literal["mamba2"] = "mamba2"
    d_ssm: Dim
    head_dim: Dim = 128
    d_state: Dim = 128
    d_conv: Dim = 4
    n_groups: Dim = 1
    chunk_size: Dim = 128

    @model_validator(mode="after")
    def _rules(self) -> "Mamba2Section":
        divides("d_ssm", self.d_ssm, "head_dim", self.head_dim)
        divides("d_ssm / head_dim", self.d_ssm // self.head_dim, "n_groups", self.n_groups)
        return self

    def mixer(self) -> Mamba2Mixer:
        """A layer of kind M."""
        return Mamba2Mixer(**self.model_dump(exclude={"kind"}))


class Mamba1Section(Frozen):
    """Mamba-1; `dt_rank` is d_model / 16 in the published models."""

    kind: Literal["mamba1"] = "mamba1"
    d_ssm: Dim
    d_state: Dim = 16
    d_conv: Dim = 4
    dt_rank: Dim
    dt_bc_norm: bool = False

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
    norm: Norm = "group"
    scalar: Scalar = "none"
    fusion: Fusion = "diff"
    value: Value = "separate"
    out: Out = "separate"

    @model_validator(mode="after")
    def _rules(self) -> "IntraSection":
        divides("n_heads", self.n_heads, "n_kv_heads", self.n_kv_heads)
        width = self.n_heads * self.v_head_dim
        if self.fusion == "concat" and self.out == "separate":
            raise ValueError("fusion: 'concat' - needs out 'joint': two outputs of width d_model cannot be concatenated into one")
        joint_sum = self.out == "joint" and self.fusion != "concat"
        if (self.value == "shared" or joint_sum) and self.d_ssm != width:
            why = "value 'shared'" if self.value == "shared" else f"fusion {self.fusion!r} before a joint projection"
            raise ValueError(f"d_ssm: {self.d_ssm} - {why} needs d_ssm equal to n_heads * v_head_dim ({width})")
        return self


class DiffSection(Frozen):
    """The differential mixers; heads come from `attention`, branches from `ssm`. Defaults are Table 18's Diff-T and Diff-M.

    `norm` group: RMS over each head - of the fused pair in attention, times 1 - lambda's start, as in arXiv 2410.05258; of either branch
    in Mamba. `scalar` diff_t: the second of two is scaled by lambda. `fusion`: first minus second, or their sum.
    """

    norm: Norm = "none"
    scalar: DiffScalar = "diff_t"
    fusion: DiffFusion = "diff"


# The sections that a layer of each kind is made from.
SECTIONS: dict[str, tuple[str, ...]] = {
    "A": ("attention",),
    "S": ("attention", "swa"),
    "M": ("ssm",),
    "H": ("intra", "attention", "ssm"),
    "D": ("diff", "attention"),
    "N": ("diff", "ssm"),
}


class ArchSpec(Frozen):
    """A whole model. `stack` is the tuple of layers that costs, modules, figures and exports read."""

    schema_: Annotated[Literal[1], BeforeValidator(_exact_int), Field(alias="schema")] = 1
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
    vocab_size: Annotated[int, BeforeValidator(_exact_int), Field(ge=1, le=10_000_000)]
    tie_embeddings: bool = True
    norm_eps: Positive = 1e-5
    d_model: Dim
    n_layers: Annotated[int, BeforeValidator(_exact_int), Field(ge=1, le=MAX_LAYERS)]
    layers: LayersSection
    attention: AttentionSection | None = None
    swa: SwaSection | None = None
    ssm: SsmSection | None = None
    intra: IntraSection | None = None
    diff: DiffSection | None = None
    ffn: Ffn | None = None

    @model_validator(mode="after")
    def _rules(self) -> "ArchSpec":
        for letter in sorted(set(self.pattern)):
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
        if "D" in self.pattern and self.attention is not None:
            for key in ("n_heads", "n_kv_heads"):
                divides(f"attention.{key}", getattr(self.attention, key), "2, for the pairs of kind D", 2)
        if "N" in self.pattern and isinstance(self.ssm, Mamba2Section):
            heads = self.ssm.d_ssm // self.ssm.head_dim
            divides("ssm.d_ssm / head_dim", heads, "2 * n_groups, for the two branches of kind N", 2 * self.ssm.n_groups)
        return self

    @cached_property
    def pattern(self) -> str:
        """One letter per layer, e.g. `MMMAMMMAMMMMM`."""
        return self.layers.resolve(self.n_layers)

    @cached_property
    def stack(self) -> tuple[Layer, ...]:
        """The layers as built, first to last."""
        mixers = {letter: self._mixer(letter) for letter in set(self.pattern)}
        return tuple(Layer(letter, mixers[letter], self.ffn) for letter in self.pattern)

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
        axes = self.intra.model_dump(include={"norm", "scalar", "fusion", "value", "out"})
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
        try:
            return cls.from_mapping(safe_mapping(text))
        except YamlError as error:
            raise SpecError(str(error)) from None

    @classmethod
    def load(cls, path: str | Path) -> "ArchSpec":
        """Read a design from a YAML file. Raises SpecError with one line."""
        try:
            return cls.from_yaml(read_text(Path(path)))
        except YamlError as error:
            raise SpecError(str(error)) from None

    def to_yaml(self) -> str:
        """The design as YAML, byte-stable: `from_yaml(to_yaml(s)) == s` and its own `to_yaml` is the same text."""
        return dump(self.model_dump(mode="json", exclude_none=True))

    def replace(self, **changes: Any) -> "ArchSpec":
        """A copy with other top-level values, validated again. Raises SpecError with one line."""
        sections = {key: value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value for key, value in changes.items()}
        kept = {key: value for key, value in self.model_dump(exclude_none=True).items() if key not in sections}
        return ArchSpec.from_mapping(kept | {key: value for key, value in sections.items() if value is not None})


_PYDANTIC_RULES = {
    "missing": "missing - this key is required",
    "extra_forbidden": "{value} - unknown key",
}


def first_line(error: ValidationError) -> str:
    """The first broken rule as `key: value - rule`, with the number of further ones."""
    problems = error.errors(include_url=False)
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])  # an unknown key explains a missing one
    key = ".".join(str(part) for part in map(_word, first["loc"]) if part not in ("swiglu", "moe", "mamba1", "mamba2"))
    rule = first["msg"].removeprefix("Value error, ")
    if first["type"] == "union_tag_invalid":  # ffn or ssm of an unknown kind
        line = f"{key}.kind: {first['ctx']['tag']!r} - must be {first['ctx']['expected_tags'].replace(', ', ' or ')}"
    elif first["type"] == "value_error" and (not isinstance(first["input"], (int, float, str)) or isinstance(first["input"], bool)):
        # Rules across keys name key and value themselves.
        line = f"{key}.{rule}" if key and " - " in rule else f"{key}: {short(first['input'])} - {rule}" if key else rule
    else:
        template = _PYDANTIC_RULES.get(first["type"], "{value} - {rule}")
        line = f"{key}: " + template.format(value=short(first["input"]), rule=rule[:1].lower() + rule[1:]).replace(
            "input should be", "must be"
        )
    if first["type"] == "extra_forbidden":
        line += _suggestion(str(first["loc"][-1]))
    return line + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _suggestion(key: str) -> str:
    sections = (ArchSpec, LayersSection, AttentionSection, RopeScaling, SwaSection, Mamba2Section, Mamba1Section, IntraSection, DiffSection)
    known = {name for section in (*sections, SwiGLU, MoE) for name in section.model_fields}
    close = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {close[0]}?)" if close and close[0] != key else ""


def short(value: Any) -> str:
    """A value as a message shows it: one line, 60 characters at most."""
    try:
        text = repr(value).replace("\n", " ")
    except ValueError:  # more digits than Python is willing to write
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _word(part: str | int) -> str:
    """A key as a message shows it: one line, 60 characters at most."""
    text = " ".join(str(part).split())
    return text if len(text) <= 60 else text[:57] + "..."
