"""The rules that apply to a design and its use, the heaviest weight first."""

from typing import Any, NamedTuple

from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines
from hybrid_core.evidence.advice.facts import Scale, Scenario, facts, scenario
from hybrid_core.evidence.advice.rules import Rule, domains, rules


class Advice(NamedTuple):
    """A rule that applies to a design, with its weight in the scenario. `scale`: the paper's scale
    nearest the design's size, or None."""

    rule: Rule
    scenario: Scenario
    weight: int
    scale: Scale | None

    @property
    def sources(self) -> str:
        """`Table 17`; for a size without rows, `Table 17, models of 350M and 1B`."""
        scales = domains()[self.rule.id].scales
        if self.scale in scales:
            return self.rule.sources
        return f"{self.rule.sources}, models of {', '.join(scales[:-1])} and {scales[-1]}"

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        excluded = {"when", "weight", "scales"}
        kept = self.rule.model_dump(mode="json", exclude=excluded)
        return kept | {
            "scenario": self.scenario,
            "weight": self.weight,
            "sources": self.sources,
            "citation": baselines.CITATION,
            "scale": self.scale,
            "scales": domains()[self.rule.id].scales,
        }


def advise(
    spec: ArchSpec,
    context_len: int,
    needle_distance: int | None = None,
    use: Scenario | None = None,
) -> list[Advice]:
    """What the paper's rows say about a design used at `context_len` tokens. The advice with the
    most weight comes first. At equal weight, warnings come before options.

    `use`: the scenario whose weights count, by default the one that the context falls in. It does
    not change the contexts at which a rule applies."""
    known = facts(spec, context_len, needle_distance)
    own_use = scenario(context_len)
    weighed = use or own_use
    given = []
    for rule in rules():
        weight: int = getattr(rule.weight, weighed)
        domain = domains()[rule.id]
        if weight and rule.holds(known) and domain.covers(known, own_use):
            advice = Advice(rule, weighed, weight, known.scale)
            given.append(advice)
    return sorted(given, key=_rank)


def _rank(advice: Advice) -> tuple[int, bool]:
    return -advice.weight, advice.rule.kind != "warning"
