"""The rules as they stand in profiles/advice/rules.yaml, and where each of them speaks."""

import json
from functools import cache
from typing import Literal, NamedTuple

from pydantic import model_validator

from hybrid_core.data import PROFILES
from hybrid_core.evidence.advice.cited import Evidence, Shape
from hybrid_core.evidence.advice.facts import (
    SCALES,
    SCENARIOS,
    Facts,
    Scale,
    Scenario,
    Wanted,
    meets,
)
from hybrid_core.validation import Frozen
from hybrid_core.yaml_io import safe_mapping


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
        own = {scale for scale, _ in self.pairs}
        return [scale for scale in SCALES if scale in own]

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
    """One rule. `control` is the setting it speaks of. It rests on tables (`evidence`) or on a
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
        unknown = set(self.when) - set(Facts._fields)
        if unknown:
            facts = ", ".join(Facts._fields)
            raise ValueError(f"when: {', '.join(sorted(unknown))} - must be among {facts}")
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
        """Where the rule speaks, from the rows that it cites. A finding of a section speaks in
        every use, at its own scales."""
        if self.section:
            everywhere = frozenset((scale, use) for scale in self.scales for use in SCENARIOS)
            return Domain(everywhere, frozenset())
        pairs = set()
        for item in self._claims():
            pairs |= {(item.scale, use) for use in item.scenarios}
        shapes = set()
        for item in self.evidence:
            shape = item.shape(self.subject)
            if shape:
                shapes.add(shape)
        beyond = self._uses_at_several_scales(pairs) if self._is_settled() else frozenset()
        return Domain(frozenset(pairs), beyond, frozenset(shapes))

    def _claims(self) -> list[Evidence]:
        """The evidence of the sort that the rule claims."""
        return [item for item in self.evidence if item.sort == self.evidence[0].sort]

    def _is_settled(self) -> bool:
        """Whether every claim has each column in the same order, and no row speaks against it."""
        claims = self._claims()
        for column in claims[0].cells:
            orders = {item.cells[column][1] for item in claims if column in item.cells}
            if len(orders) > 1:
                return False
        return not self.against

    @staticmethod
    def _uses_at_several_scales(pairs: set[tuple[Scale, Scenario]]) -> frozenset[Scenario]:
        uses = [use for _, use in pairs]
        return frozenset(use for use in uses if uses.count(use) > 1)

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
    text = (PROFILES / "advice" / "rules.yaml").read_text("utf-8")
    return _Rules.model_validate_json(json.dumps(safe_mapping(text))).rules


@cache
def domains() -> dict[str, Domain]:
    """Where each rule speaks, by its id."""
    return {rule.id: rule.domain() for rule in rules()}
