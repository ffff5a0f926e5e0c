"""Where each number comes from (profiles/numbers.yaml): its conventions, formula, function and
source."""

from functools import cache

import yaml

from hybrid_core.data import PROFILES
from hybrid_core.validation import Frozen


class Origin(Frozen):
    """One entry. `conventions`: what each of them counts; `formula`: in LaTeX; `where`: the
    function that computes it, as `file:name`."""

    label: str
    unit: str
    conventions: dict[str, str]
    formula: str
    where: str
    source: str

    @property
    def counts(self) -> list[str]:
        """A line for each convention."""
        return [f"{name}: {what}" for name, what in self.conventions.items()]


@cache
def origins() -> dict[str, Origin]:
    """Every entry by its key."""
    found = yaml.safe_load((PROFILES / "numbers.yaml").read_text("utf-8"))
    return {key: Origin.make(**fields) for key, fields in found.items()}


def explained(key: str, how: str = "") -> str:
    """Markdown for the "?" next to a number: how this one was made, what its conventions count, its
    formula, its function and its source."""
    origin = origins()[key]
    paragraphs = [
        *origin.counts,
        f"$\\displaystyle {origin.formula}$",
        f"`{origin.where}`",
        f"Source: {origin.source}",
    ]
    if how:
        paragraphs.insert(0, f"{how[:1].upper()}{how[1:]}")
    return "\n\n".join(paragraphs)
