"""Whether the paper trained a placement like a design's: the additive model knows no more than its
rows.

Its terms say what attention in the first layer or early in the stack costs. They say nothing of
attention crowded at the end or spread to both ends, and would call that as good as the best. So a
placement is inside only if one row of its family and nearest ratio is like it, block by block. Each
block lies within a layer of the row's, and a block in the first or last layer is there in both.
Depths are compared as shares of the stack. Deeper stacks may have more blocks than any row. Then a
placement may instead follow a row's rule: evenly spread, with the first layer, the last or both
where a row has them.

Nor is a placement that is inside estimated below the best printed one of its ratio: see
`additive.moved`."""

import math
from functools import cache

from hybrid_core.design.placement import Placement, place
from hybrid_core.evidence.quality.ablations import RATIOS
from hybrid_core.evidence.quality.mixture import Mixture

_MIXED = {ratio: share for ratio, share in RATIOS.items() if 0 < share < 1}
_EXACT = 1e-9  # rounding of depths


def nearest_ratio(share: float) -> str:
    """The paper's ratio whose share of expensive layers is nearest, by its logarithm."""
    return min(_MIXED, key=lambda ratio: abs(math.log(share / _MIXED[ratio])))


def untrained_placement(mixed: Mixture, rows: tuple[Mixture, ...]) -> str | None:
    """Why no row (mixtures of trained designs) resembles a placement, in one line, or None."""
    if not 0 < mixed.share < 1:
        return None
    ratio = nearest_ratio(mixed.share)
    alike = []
    for row in rows:
        if row.family == mixed.family and 0 < row.share < 1 and nearest_ratio(row.share) == ratio:
            alike.append(row)
    if any(_resembles(mixed, known) for known in _known(mixed, alike)):
        return None
    seen = " or ".join(dict.fromkeys(map(_told, alike))) or "none"
    rule = f"not like the paper's {mixed.family} designs near {ratio}: {seen}"
    return f"placement: {_told(mixed)} - {rule}"


def _told(mixed: Mixture) -> str:
    return f"{', '.join(map(str, mixed.expensive))} of {mixed.n_layers}"


def _known(mixed: Mixture, alike: list[Mixture]) -> list[Mixture]:
    """The rows with as many blocks; without any, what the rows' rules make of this depth."""
    n_blocks = len(mixed.expensive)
    same = [row for row in alike if len(row.expensive) == n_blocks]
    if same:
        return same
    rules = {_rule(row) for row in alike if not row.cluster}
    placed = {place(n_blocks, mixed.n_layers, rule) for rule in rules}
    return [Mixture(mixed.family, mixed.n_layers, chosen) for chosen in placed]


def _rule(row: Mixture) -> Placement:
    if row.first and row.last:
        return "sandwich"
    if row.first:
        return "front"
    if row.last:
        return "end"
    return "middle"


def _resembles(mixed: Mixture, known: Mixture) -> bool:
    """Whether every block lies within one layer of the known stack's, and both use the same
    ends."""
    if (mixed.first, mixed.last) != (known.first, known.last):
        return False
    a_layer = 1 / (known.n_layers + 1)
    pairs = zip(_depths(mixed), _depths(known), strict=True)
    return all(abs(own - other) <= a_layer + _EXACT for own, other in pairs)


@cache
def _depths(mixed: Mixture) -> tuple[float, ...]:
    """Where each block lies: 0 is before the first layer, 1 behind the last."""
    return tuple(index / (mixed.n_layers + 1) for index in mixed.expensive)
