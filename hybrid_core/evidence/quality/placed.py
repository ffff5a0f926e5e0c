"""Whether the paper trained a placement like a design's.

The additive model has terms for attention in the first layer and early in the stack. It has none
for attention clustered at the end or split between both ends, so it would rate such placements as
good as the best. Therefore a placement counts as covered only if a row of its family and nearest
ratio is like it:
- Each block (attention layer or intra-hybrid block) lies within one layer of the row's block.
  Depths are compared as shares of the stack.
- If one stack has a block in the first or last layer, so does the other.
- A deep stack may have more blocks than any row. Then it may follow a row's rule instead: evenly
  spread, and in the first layer, the last, or both if the row has blocks there.

A covered placement is never estimated below the best printed one of its ratio, see
`additive.moved`."""

import math
from functools import cache

from hybrid_core.design.placement import Placement, place
from hybrid_core.evidence.quality.ablations import RATIOS
from hybrid_core.evidence.quality.mixture import Mixture

_MIXED = {ratio: share for ratio, share in RATIOS.items() if 0 < share < 1}
_EXACT = 1e-9  # rounding of depths


def nearest_ratio(share: float) -> str:
    """The paper's ratio whose share of attention layers or intra-hybrid blocks is nearest, by its
    logarithm."""

    def distance(ratio: str) -> float:
        return abs(math.log(share / _MIXED[ratio]))

    return min(_MIXED, key=distance)


def untrained_placement(mixed: Mixture, rows: tuple[Mixture, ...]) -> str | None:
    """One line that says why a placement resembles none of the rows (mixtures of trained designs);
    None if it resembles one, or if its stack is not mixed."""
    if not mixed.is_mixed:
        return None
    ratio = nearest_ratio(mixed.share)
    alike = []
    for row in rows:
        same_family = row.family == mixed.family and row.is_mixed
        if same_family and nearest_ratio(row.share) == ratio:
            alike.append(row)
    if any(_resembles(mixed, known) for known in _known(mixed, alike)):
        return None
    placements = dict.fromkeys(map(_told, alike))
    seen = " or ".join(placements) or "none"
    rule = f"not like the paper's {mixed.family} designs near {ratio}: {seen}"
    return f"placement: {_told(mixed)} - {rule}"


def _told(mixed: Mixture) -> str:
    return f"{', '.join(map(str, mixed.with_attention))} of {mixed.n_layers}"


def _known(mixed: Mixture, alike: list[Mixture]) -> list[Mixture]:
    """The rows with as many blocks as the design. If there are none: the rows' rules, applied to
    the design's depth and number of blocks."""
    n_blocks = len(mixed.with_attention)
    same = [row for row in alike if len(row.with_attention) == n_blocks]
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
    """Whether every block lies within one layer of the known stack's block, and both stacks have
    blocks at the same ends."""
    if (mixed.first, mixed.last) != (known.first, known.last):
        return False
    a_layer = 1 / (known.n_layers + 1)
    pairs = zip(_depths(mixed), _depths(known), strict=True)
    distances = [abs(own - other) for own, other in pairs]
    return max(distances) <= a_layer + _EXACT


@cache
def _depths(mixed: Mixture) -> tuple[float, ...]:
    """Where each block lies: 0 is before the first layer, 1 after the last."""
    return tuple(index / (mixed.n_layers + 1) for index in mixed.with_attention)
