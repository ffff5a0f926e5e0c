"""Advice on a design: rules that are data (profiles/advice/rules.yaml), each quoting the rows of the paper that it rests on.

A rule holds when every fact that it names has the value wanted; facts are the fields of `Facts`, and nothing in a rule is executed.
"""

import json
from functools import cache
from typing import Any, Literal, NamedTuple

import pandas as pd
from pydantic import model_validator

from hybrid_core import baselines
from hybrid_core.data import PROFILES
from hybrid_core.quality import mixture
from hybrid_core.spec import ArchSpec, Frozen, IntraMixer, MoE, SwaMixer
from hybrid_core.yaml_io import safe_mapping

Scenario = Literal["long", "medium", "short"]
SCENARIOS: dict[Scenario, str] = {"long": "over 16K", "medium": "8K to 16K", "short": "under 8K"}
Direction = Literal["lower", "higher", "equal"]


def scenario(context_len: int) -> Scenario:
    """long: over 16K tokens of context, medium: 8K to 16K, short: under 8K."""
    if context_len > 16_384:
        return "long"
    return "medium" if context_len >= 8_192 else "short"


class Facts(NamedTuple):
    """What rules may ask of a design and its use. None where the design has no such part; such a fact meets no condition."""

    family: str | None  # llama, mamba, inter, intra, swa, or window (no global attention)
    share_of_expensive: float | None
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
    intra_query_share: float | None  # query width over d_model
    context_len: int
    needle_distance: int | None  # tokens between what is to be recalled and the end
    needle_beyond_window: bool


def facts(spec: ArchSpec, context_len: int, needle_distance: int | None = None) -> Facts:
    """The facts of a design in use at `context_len` tokens, recalling something `needle_distance` tokens back."""
    mixed, mixers = mixture(spec.pattern), [layer.mixer for layer in spec.stack]
    intra: IntraMixer | None = next((mixer for mixer in mixers if isinstance(mixer, IntraMixer)), None)
    windows = [mixer for mixer in mixers if isinstance(mixer, SwaMixer)]
    sunk = context_len - max((mixer.sink for mixer in windows), default=0)
    width = intra.attention.n_heads * intra.attention.head_dim if intra else 0
    return Facts(
        family=mixed and mixed.family,
        share_of_expensive=mixed and mixed.share,
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
        intra_query_share=width / spec.d_model if intra else None,
        context_len=context_len,
        needle_distance=needle_distance,
        needle_beyond_window=bool(windows and needle_distance and max(mixer.window for mixer in windows) < needle_distance <= sunk),
    )


class Span(Frozen):
    """A number from `min` to `max`, both included."""

    min: float = float("-inf")
    max: float = float("inf")


Wanted = bool | float | str | tuple[str, ...] | Span


def meets(value: Any, wanted: Wanted) -> bool:
    """Whether a fact is what a rule wants: within a span, one of several, or the value itself. None meets nothing."""
    if value is None:
        return False
    if isinstance(wanted, Span):
        return bool(wanted.min <= value <= wanted.max)
    return value in wanted if isinstance(wanted, tuple) else bool(value == wanted)


class Evidence(Frozen):
    """Two rows of a table, each picked by what its columns hold (null: nothing printed), and printed cells of both with their order."""

    table: str
    rows: tuple[dict[str, str | float | None], dict[str, str | float | None]]
    cells: dict[str, tuple[float, Direction, float]]

    def found(self) -> list[pd.DataFrame]:
        """The rows that either selector picks; one each, as the tests make sure."""
        frame = baselines.table(self.table)
        return [
            frame[[all(_same(row[key], value) for key, value in picked.items()) for _, row in frame.iterrows()]] for picked in self.rows
        ]

    @property
    def source(self) -> str:
        """`Table 17`."""
        return f"Table{'s' if ' and ' in (number := baselines.TABLES[self.table][0]) else ''} {number}"


def _same(printed: Any, wanted: Any) -> bool:
    return bool(pd.isna(printed)) if wanted is None else bool(printed == wanted)


class Weight(Frozen):
    """How much a rule matters per scenario; 0: it is not given there."""

    long: int
    medium: int
    short: int


class Rule(Frozen):
    """One rule. `control` is the setting it speaks of; it rests on tables (`evidence`) or on a finding in a section of the paper."""

    id: str
    control: str
    kind: Literal["warning", "option"]
    when: dict[str, Wanted]
    weight: Weight
    text: str
    evidence: tuple[Evidence, ...] = ()
    section: str | None = None

    @model_validator(mode="after")
    def _rules(self) -> "Rule":
        if unknown := set(self.when) - set(Facts._fields):
            raise ValueError(f"when: {', '.join(sorted(unknown))} - must be among {', '.join(Facts._fields)}")
        if bool(self.evidence) == bool(self.section):
            raise ValueError("evidence: needs rows of a table, or else a section")
        return self

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
    """Every rule, in the order of the file. Read as JSON, in which a list passes for a tuple and nothing else is converted."""
    return _Rules.model_validate_json(json.dumps(safe_mapping((PROFILES / "advice" / "rules.yaml").read_text("utf-8")))).rules


class Advice(NamedTuple):
    """A rule that holds for a design, with its weight in the scenario."""

    rule: Rule
    scenario: Scenario
    weight: int

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        kept = self.rule.model_dump(mode="json", exclude={"when", "weight"})
        return kept | {"scenario": self.scenario, "weight": self.weight, "sources": self.rule.sources, "citation": baselines.CITATION}


def advise(spec: ArchSpec, context_len: int, needle_distance: int | None = None, use: Scenario | None = None) -> list[Advice]:
    """What the paper's rows say about a design used at `context_len` tokens, weightiest first, warnings before options of equal weight.

    `use` is what the weights are for; unless given it follows from the context.
    """
    known, use = facts(spec, context_len, needle_distance), use or scenario(context_len)
    given = [Advice(rule, use, weight) for rule in rules() if (weight := getattr(rule.weight, use)) and rule.holds(known)]
    return sorted(given, key=lambda advice: (-advice.weight, advice.rule.kind != "warning"))
