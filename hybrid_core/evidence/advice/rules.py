"""The rules read from profiles/advice/rules.yaml, and where each of them applies."""

import json
from functools import cache
from itertools import product
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
    """How much a rule matters in each scenario. At 0 it is not given."""

    long: int
    medium: int
    short: int


class Domain(NamedTuple):
    """Where a rule applies. `shapes`: to designs like these rows, or to any if empty; `pairs`: at
    these scales and scenarios; `beyond`: in these scenarios also at sizes without rows."""

    pairs: frozenset[tuple[Scale, Scenario]]
    beyond: frozenset[Scenario]
    shapes: frozenset[Shape] = frozenset()

    @property
    def scales(self) -> list[Scale]:
        """The scales of its rows, small to large."""
        own = {scale for scale, _ in self.pairs}
        return [scale for scale in SCALES if scale in own]

    def covers(self, known: Facts, use: Scenario) -> bool:
        """Whether the rows stand for a design with these facts in this use. Its scale is None if it
        is near none of the paper's scales."""
        if self.shapes and not self._like_a_row(known):
            return False
        if known.scale is None or known.scale not in self.scales:
            return use in self.beyond
        return (known.scale, use) in self.pairs

    def _like_a_row(self, known: Facts) -> bool:
        return any(shape.is_like(known) for shape in self.shapes)


class Rule(Frozen):
    """One rule. `control` is the setting it is about. It rests on tables (`evidence`) or on a
    finding in a section of the paper.

    A warning is given to designs like the first of its two rows, an option to designs like the
    second. The first evidence sets what the rule claims, quality or speed. Evidence of the other
    sort adds what that costs or gains. `against`: rows with the opposite order; the text quotes
    those at scales where the rule applies. `scales`: of the models in `section`."""

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
            known = ", ".join(Facts._fields)
            given = ", ".join(sorted(unknown))
            raise ValueError(f"when: {given} - must be among {known}")
        if bool(self.evidence) == bool(self.section):
            raise ValueError("evidence: needs rows of a table, or else a section")
        if bool(self.section) != bool(self.scales):
            raise ValueError(
                "scales: needed with a section, and only there: rows of a table have their own"
            )
        return self

    @property
    def subject(self) -> int:
        """Which of two rows describes the design that the rule is given to: the first (0) for a
        warning, the second (1) for an option."""
        if self.kind == "warning":
            return 0
        return 1

    def domain(self) -> Domain:
        """Where the rule applies, from the rows that it cites. A finding from a section applies in
        every use, at its own scales."""
        if self.section:
            everywhere = product(self.scales, SCENARIOS)
            return Domain(frozenset(everywhere), frozenset())
        pairs = set()
        for item in self._claims():
            pairs |= {(item.scale, use) for use in item.scenarios}
        shapes = set()
        for item in self.evidence:
            shape = item.shape(self.subject)
            if shape:
                shapes.add(shape)
        beyond = frozenset[Scenario]()
        if self._is_settled():
            beyond = self._uses_at_several_scales(pairs)
        return Domain(frozenset(pairs), beyond, frozenset(shapes))

    def _claims(self) -> list[Evidence]:
        """The evidence for the rule's claim: the sort of its first evidence."""
        claimed = self.evidence[0].sort
        return [item for item in self.evidence if item.sort == claimed]

    def _is_settled(self) -> bool:
        """Whether all claims order each column the same way, and no row contradicts them."""
        claims = self._claims()
        for column in claims[0].cells:
            with_column = [item for item in claims if column in item.cells]
            orders = {item.cells[column][1] for item in with_column}
            if len(orders) > 1:
                return False
        return not self.against

    @staticmethod
    def _uses_at_several_scales(
        pairs: set[tuple[Scale, Scenario]],
    ) -> frozenset[Scenario]:
        uses = [use for _, use in pairs]
        return frozenset(use for use in uses if uses.count(use) > 1)

    def holds(self, known: Facts) -> bool:
        """Whether every condition is met."""
        for key, wanted in self.when.items():
            fact = getattr(known, key)
            if not meets(fact, wanted):
                return False
        return True

    @property
    def sources(self) -> str:
        """`Table 17`, `Table 9, Table 13` or `Section 4.3`."""
        if self.section:
            return self.section
        sources = dict.fromkeys(item.source for item in self.evidence)
        return ", ".join(sources)


class _Rules(Frozen):
    rules: tuple[Rule, ...]


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule, in the order of the file. Validated in JSON mode, which accepts a list as a tuple
    and converts nothing else."""
    text = (PROFILES / "advice" / "rules.yaml").read_text("utf-8")
    as_json = json.dumps(safe_mapping(text))
    return _Rules.model_validate_json(as_json).rules


@cache
def domains() -> dict[str, Domain]:
    """Where each rule applies, by its id."""
    return {rule.id: rule.domain() for rule in rules()}
