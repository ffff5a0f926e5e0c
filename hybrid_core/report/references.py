"""Reference numbers next to the figures of a report. They link to the list of sources at its
end."""

from typing import NamedTuple

from markupsafe import Markup

from hybrid_core.report.mathml import mathml
from hybrid_core.report.sources import Origin, origins


class Cited(NamedTuple):
    """A row of the list of sources. `anchor`: its id in the page."""

    anchor: str
    origin: Origin
    formula: Markup


class References:
    """The entries of profiles/numbers.yaml that a report refers to, numbered from 1 in the order in
    which they are first mentioned."""

    def __init__(self) -> None:
        self._keys: list[str] = []

    def mark(self, *keys: str) -> Markup:
        """The numbers of some entries, raised, each a link. Raises KeyError if there is no such
        entry."""
        marks = [self._mark(key) for key in keys]
        return Markup("").join(marks)

    def _mark(self, key: str) -> Markup:
        label = origins()[key].label
        if key not in self._keys:
            self._keys.append(key)
        number = self._keys.index(key) + 1
        link = '<sup class="ref"><a href="#{anchor}" title="{label}">{number}</a></sup>'
        return Markup(link).format(
            anchor=_anchor(key),
            label=label,
            number=number,
        )

    def cited(self) -> list[Cited]:
        """The list of sources, in the order of their numbers."""
        rows = []
        for key in self._keys:
            origin = origins()[key]
            formula = Markup(mathml(origin.formula))
            rows.append(Cited(_anchor(key), origin, formula))
        return rows


def _anchor(key: str) -> str:
    return f"source-{key}"
