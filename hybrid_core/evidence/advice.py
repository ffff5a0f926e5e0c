"""Advice on a design: rules that are data (profiles/advice/rules.yaml), each quoting the rows of
the paper that it rests on.

A rule holds when every fact that it names has the value wanted; facts are the fields of `Facts`,
and nothing in a rule is executed.

A rule speaks only where its rows stand for the design, for its size and for the context in use
(`Domain`):
- Design: one of the two rows is the design's (`Rule.subject`). A stack must be like one such row:
  of its family, with its share of
  attention or intra-hybrid layers, give or take the factor `SHARE_SLACK`, and with a single one or
  several as it has. Rows of a
  block (Tables 6, 18 to 20) also fix the block's axes. The mixers must be of the paper's kinds:
  grouped-query attention, windows,
  Mamba-2, and the intra-hybrid block of attention and Mamba-2.
- Size: the paper's scale whose parameters are nearest, within a factor of `SAME_SIZE`. At a size
  without rows of the rule's comparison
  (7B, say) a rule speaks only if the comparison was printed at two scales or more, came out the
  same at all of them, and no other row
  speaks against it. What it shows then names those scales.
- Context: rows trained at 8K stand for uses up to 16K (short and medium), Table 12's rows at 16K
  for medium, its rows at 32K for long.
  A speed of Table 13 stands for the scenario of its total length.
The scenario that a user picks changes weights, not where a rule speaks.
"""

import json
import math
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd
from pydantic import model_validator

from hybrid_core.data import PROFILES
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines, errata
from hybrid_core.evidence.quality import mixture
from hybrid_core.evidence.quality.coverage import PAPER_CONTEXT
from hybrid_core.evidence.quality.scaling import SAME_SIZE, active_params
from hybrid_core.ffns.moe import MoE
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.swa import SwaMixer
from hybrid_core.validation import Frozen
from hybrid_core.yaml_io import safe_mapping

Scenario = Literal["long", "medium", "short"]
Scale = Literal["100M", "350M", "1B", "3B"]
SCALES: tuple[Scale, ...] = get_args(Scale)
SCENARIOS: dict[Scenario, str] = {"long": "over 16K", "medium": "8K to 16K", "short": "under 8K"}
Direction = Literal["lower", "higher", "equal"]
SHARE_SLACK = (
    1.1  # rounding of a ratio to whole layers: 1:5 is 2 of 13 and 2 of 11 layers in the rows
)


def scenario(context_len: int) -> Scenario:
    """long: over 16K tokens of context, medium: 8K to 16K, short: under 8K."""
    if context_len > 16_384:
        return "long"
    return "medium" if context_len >= 8_192 else "short"


@cache
def _sizes() -> dict[Scale, int]:
    """Non-embedding parameters of the paper's Llama at each scale."""
    return {scale: active_params(presets.get(f"llama-{scale.lower()}").spec) for scale in SCALES}


def nearest_scale(spec: ArchSpec) -> Scale | None:
    """The paper's scale nearest in active non-embedding parameters, or None where it is more than
    SAME_SIZE times away."""
    params = active_params(spec)
    distance = {scale: abs(math.log(params / size)) for scale, size in _sizes().items()}
    nearest = min(SCALES, key=distance.__getitem__)
    return nearest if distance[nearest] <= math.log(SAME_SIZE) else None


Axes = tuple[str, str, str, str, str]  # norm, scalar, fusion, value, out of an intra-hybrid block


def _of_the_papers_kind(mixer: Mixer) -> bool:
    """Whether a mixer is of a kind that the paper trained; a subclass, such as differential
    attention, is another kind."""
    if isinstance(mixer, IntraMixer):
        plain = not (mixer.whole_norm or mixer.ssm_norm)
        return plain and type(mixer.attention) is AttentionMixer and type(mixer.ssm) is Mamba2Mixer
    if isinstance(mixer, AttentionMixer) and mixer.reuse_kv:
        return False
    return type(mixer) in (AttentionMixer, SwaMixer, Mamba2Mixer)


class Facts(NamedTuple):
    """What rules may ask of a design and its use. None where the design has no such part; such a
    fact meets no condition."""

    scale: Scale | None  # the paper's scale of this size
    family: str | None  # llama, mamba, inter, intra, swa, or window (no global attention)
    share_of_expensive: float | None
    several_expensive: bool
    first_layer_expensive: bool
    last_layer_expensive: bool
    sandwich: bool  # expensive at both ends
    cluster: bool  # several expensive blocks, all next to one another
    centre: float | None  # mean depth of the expensive blocks, 0 to 1
    experts: bool
    intra_norm: str | None
    intra_scalar: str | None
    intra_fusion: str | None
    intra_value: str | None
    intra_out: str | None
    intra_axes: Axes | None  # all five of them
    intra_query_share: float | None  # query width over d_model
    context_len: int
    needle_distance: int | None  # tokens between what is to be recalled and the end
    needle_beyond_window: bool


def facts(spec: ArchSpec, context_len: int, needle_distance: int | None = None) -> Facts:
    """The facts of a design in use at `context_len` tokens, recalling something `needle_distance`
    tokens back."""
    mixers = [layer.mixer for layer in spec.stack]
    known_kinds = all(map(_of_the_papers_kind, mixers))
    mixed = mixture(spec.pattern) if known_kinds else None
    blocks = [mixer for mixer in mixers if isinstance(mixer, IntraMixer)] if known_kinds else []
    intra = blocks[0] if blocks else None
    windows = [mixer for mixer in mixers if isinstance(mixer, SwaMixer)]
    sunk = context_len - max((mixer.sink for mixer in windows), default=0)
    width = intra.attention.n_heads * intra.attention.head_dim if intra else 0
    return Facts(
        scale=nearest_scale(spec),
        family=mixed and mixed.family,
        share_of_expensive=mixed and mixed.share,
        several_expensive=bool(mixed and len(mixed.expensive) > 1),
        first_layer_expensive=bool(mixed and mixed.first),
        last_layer_expensive=bool(mixed and mixed.last),
        sandwich=bool(mixed and mixed.first and mixed.last),
        cluster=bool(mixed and mixed.cluster),
        centre=mixed and mixed.centre,
        experts=any(isinstance(layer.ffn, MoE) for layer in spec.stack),
        intra_norm=intra.norm if intra else None,
        intra_scalar=intra.scalar if intra else None,
        intra_fusion=intra.fusion if intra else None,
        intra_value=intra.value if intra else None,
        intra_out=intra.out if intra else None,
        intra_axes=(intra.norm, intra.scalar, intra.fusion, intra.value, intra.out)
        if intra
        else None,
        intra_query_share=width / spec.d_model if intra else None,
        context_len=context_len,
        needle_distance=needle_distance,
        needle_beyond_window=bool(
            windows
            and needle_distance
            and max(mixer.window for mixer in windows) < needle_distance <= sunk
        ),
    )


class Span(Frozen):
    """A number from `min` to `max`, both included."""

    min: float = float("-inf")
    max: float = float("inf")


Wanted = bool | float | str | tuple[str, ...] | Span


def meets(value: Any, wanted: Wanted) -> bool:
    """Whether a fact is what a rule wants: within a span, one of several, or the value itself. None
    meets nothing."""
    if value is None:
        return False
    if isinstance(wanted, Span):
        return bool(wanted.min <= value <= wanted.max)
    return value in wanted if isinstance(wanted, tuple) else bool(value == wanted)


class Shape(NamedTuple):
    """What must be alike for a row to stand for a stack. `axes`: of the block, where the row is of
    a table of blocks."""

    family: str
    share: float  # of attention or intra-hybrid layers
    several: bool  # of them
    axes: Axes | None = None

    def is_like(self, known: Facts) -> bool:
        """Whether a design with these facts is like the row's."""
        if (self.family, self.several) != (
            known.family,
            known.several_expensive,
        ) or known.share_of_expensive is None:
            return False
        if self.axes is not None and self.axes != known.intra_axes:
            return False
        if self.share == 1:  # a stack of nothing else; with a single Mamba layer it is another
            return known.share_of_expensive == 1
        return self.share / SHARE_SLACK <= known.share_of_expensive <= self.share * SHARE_SLACK


_BLOCKS = {
    "table06_intra_summary",
    "table18_19_intra_variants",
    "table20_dim_ratio",
}  # stacks of nothing but the block
_FAMILY = {
    "table11_swa_position": "swa",
    "table17_inter_position": "inter",
    "table21_intra_position": "intra",
}
_WORDS = {"conc": "concat", "sep": "separate", "1": "joint", "2": "separate", "nan": "none"}


def _axes(table: str, row: pd.Series) -> Axes:
    """The axes of a row of a table of blocks, in a design's words."""
    printed = errata.not_printed(table) | row.to_dict()
    norm, scalar, fusion, out = (
        _WORDS.get(str(printed[axis]), str(printed[axis]))
        for axis in ("norm", "scalar", "fusion", "out")
    )
    value = "shared" if printed["value"] == "joint" else "separate"
    return norm, scalar, fusion, value, out


def _shape(table: str, row: pd.Series) -> Shape | None:
    """The shape of a row's design; None where the table prints no layers."""
    if table in _BLOCKS:
        return Shape("intra", 1.0, True, _axes(table, row))
    if not set(baselines.COUNTS) & set(row.index):
        return None
    printed = tuple(int(row.get(column, 0)) for column in baselines.COUNTS)
    attn, swa, ssm, hyb = errata.meant_layers(table, printed)
    family = _FAMILY.get(table) or str(row["model"])
    if family == "swa" and not attn:
        family = "window"
    return Shape(family, (attn + hyb) / (attn + swa + ssm + hyb), attn + hyb > 1)


class Evidence(Frozen):
    """Two rows of a table, each picked by what its columns hold (null: nothing printed), and
    printed cells of both with their order."""

    table: str
    rows: tuple[dict[str, str | float | None], dict[str, str | float | None]]
    cells: dict[str, tuple[float, Direction, float]]

    def found(self) -> list[pd.DataFrame]:
        """The rows that either selector picks; one each, as the tests make sure."""
        frame = baselines.table(self.table)
        return [
            frame[
                [
                    all(_same(row[key], value) for key, value in picked.items())
                    for _, row in frame.iterrows()
                ]
            ]
            for picked in self.rows
        ]

    def shape(self, side: int) -> Shape | None:
        """The shape of the first (0) or second (1) row."""
        return _shape(self.table, self.found()[side].iloc[0])

    @property
    def source(self) -> str:
        """`Table 17`."""
        return (
            f"Table{'s' if ' and ' in (number := baselines.TABLES[self.table][0]) else ''} {number}"
        )

    @property
    def sort(self) -> str:
        """`speed` where the cells are of Table 13, else `quality`."""
        return "speed" if self.table == "table13_throughput" else "quality"

    @property
    def scale(self) -> Scale:
        """The scale of both rows. Tables that print none are of 1B models."""
        scale: Scale = self.found()[0].iloc[0].get("scale", "1B")
        return scale

    @property
    def scenarios(self) -> set[Scenario]:
        """The uses that the rows stand for."""
        if self.sort == "speed":
            lengths = [
                baselines.TOTALS[column.removeprefix("tput_")]
                for column in self.cells
                if column.startswith("tput_")
            ]
            return {scenario(length) for length in lengths}
        trained = int(self.found()[0].iloc[0].get("context_len", PAPER_CONTEXT))
        return {"short", "medium"} if trained == PAPER_CONTEXT else {scenario(trained)}


def _same(printed: Any, wanted: Any) -> bool:
    return bool(pd.isna(printed)) if wanted is None else bool(printed == wanted)


class Weight(Frozen):
    """How much a rule matters per scenario; 0: it is not given there."""

    long: int
    medium: int
    short: int


class Domain(NamedTuple):
    """Where a rule speaks: of designs like its rows' (any, where it has no rows), at pairs of a
    scale and a scenario, and in some scenarios also at sizes that have no rows of its own."""

    pairs: frozenset[tuple[Scale, Scenario]]
    beyond: frozenset[Scenario]
    shapes: frozenset[Shape] = frozenset()

    @property
    def scales(self) -> list[Scale]:
        """The scales that its rows are of, small to large."""
        return [scale for scale in SCALES if any(own == scale for own, _ in self.pairs)]

    def covers(self, known: Facts, use: Scenario) -> bool:
        """Whether the rows stand for such a design (its scale None: of another size) in such a
        use."""
        if self.shapes and not self._like_a_row(known):
            return False
        if known.scale is None or known.scale not in self.scales:
            return use in self.beyond
        return (known.scale, use) in self.pairs

    def _like_a_row(self, known: Facts) -> bool:
        return any(shape.is_like(known) for shape in self.shapes)


class Rule(Frozen):
    """One rule. `control` is the setting it speaks of; it rests on tables (`evidence`) or on a
    finding in a section of the paper.

    Of two rows, a warning's first and an option's second are of designs such as the one that it is
    given to. What a rule claims is the first evidence's sort, quality or speed; evidence of the
    other sort says what that costs or gains besides. `against`: rows whose order is the opposite;
    the text quotes those of scales at which the rule speaks. A section's models are `scales`."""

    id: str
    control: str
    kind: Literal["warning", "option"]
    when: dict[str, Wanted]
    weight: Weight
    text: str
    evidence: tuple[Evidence, ...] = ()
    against: tuple[Evidence, ...] = ()
    section: str | None = None
    scales: tuple[Scale, ...] = ()

    @model_validator(mode="after")
    def _rules(self) -> "Rule":
        if unknown := set(self.when) - set(Facts._fields):
            raise ValueError(
                f"when: {', '.join(sorted(unknown))} - must be among {', '.join(Facts._fields)}"
            )
        if bool(self.evidence) == bool(self.section):
            raise ValueError("evidence: needs rows of a table, or else a section")
        if bool(self.section) != bool(self.scales):
            raise ValueError(
                "scales: needed with a section, and only there: rows of a table have their own"
            )
        return self

    @property
    def subject(self) -> int:
        """Which of two rows is of the design that the rule is given to: a warning's first (0), an
        option's second (1)."""
        return 0 if self.kind == "warning" else 1

    def domain(self) -> Domain:
        """Where the rule speaks, from the rows that it cites; a finding of a section in every use,
        at its own scales."""
        if self.section:
            return Domain(
                frozenset((scale, use) for scale in self.scales for use in SCENARIOS), frozenset()
            )
        claims = [item for item in self.evidence if item.sort == self.evidence[0].sort]
        pairs = frozenset((item.scale, use) for item in claims for use in item.scenarios)
        orders = {
            column: {item.cells[column][1] for item in claims if column in item.cells}
            for column in claims[0].cells
        }
        settled = not self.against and all(len(order) == 1 for order in orders.values())
        beyond = [
            use
            for use in SCENARIOS
            if settled and len({scale for scale, own in pairs if own == use}) > 1
        ]
        shapes = [item.shape(self.subject) for item in self.evidence]
        return Domain(pairs, frozenset(beyond), frozenset(shape for shape in shapes if shape))

    def holds(self, known: Facts) -> bool:
        """Whether every condition is met."""
        return all(meets(getattr(known, key), wanted) for key, wanted in self.when.items())

    @property
    def sources(self) -> str:
        """`Table 17`, `Table 9, Table 13` or `Section 4.3`."""
        return self.section or ", ".join(dict.fromkeys(item.source for item in self.evidence))


class _Rules(Frozen):
    rules: tuple[Rule, ...]


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule, in the order of the file. Read as JSON, in which a list passes for a tuple and
    nothing else is converted."""
    return _Rules.model_validate_json(
        json.dumps(safe_mapping((PROFILES / "advice" / "rules.yaml").read_text("utf-8")))
    ).rules


@cache
def domains() -> dict[str, Domain]:
    """Where each rule speaks, by its id."""
    return {rule.id: rule.domain() for rule in rules()}


class Advice(NamedTuple):
    """A rule that holds for a design, with its weight in the scenario. `scale`: the design's; None:
    none of the paper's."""

    rule: Rule
    scenario: Scenario
    weight: int
    scale: Scale | None

    @property
    def sources(self) -> str:
        """`Table 17`; at a size that the rows are not of, `Table 17, models of 350M and 1B`."""
        scales = domains()[self.rule.id].scales
        if self.scale in scales:
            return self.rule.sources
        return f"{self.rule.sources}, models of {', '.join(scales[:-1])} and {scales[-1]}"

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        kept = self.rule.model_dump(mode="json", exclude={"when", "weight", "scales"})
        kept |= {
            "scenario": self.scenario,
            "weight": self.weight,
            "sources": self.sources,
            "citation": baselines.CITATION,
        }
        return kept | {"scale": self.scale, "scales": domains()[self.rule.id].scales}


def advise(
    spec: ArchSpec,
    context_len: int,
    needle_distance: int | None = None,
    use: Scenario | None = None,
) -> list[Advice]:
    """What the paper's rows say about a design used at `context_len` tokens, weightiest first,
    warnings before options of equal weight.

    `use` is what the weights are for; unless given it follows from the context. It makes no rule
    speak where its rows do not."""
    known, weighed = facts(spec, context_len, needle_distance), use or scenario(context_len)
    given = []
    for rule in rules():
        weight: int = getattr(rule.weight, weighed)
        if weight and rule.holds(known) and domains()[rule.id].covers(known, scenario(context_len)):
            given.append(Advice(rule, weighed, weight, known.scale))
    return sorted(given, key=lambda advice: (-advice.weight, advice.rule.kind != "warning"))
