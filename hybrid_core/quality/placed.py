"""Whether the paper trained a placement like a design's: the additive model knows nothing of what no row shows.

Its terms say what attention in the first layer or early in the stack costs. They say nothing of blocks crowded at the end, and would call
them as good as the best. So a placement is inside only if, among the rows of its family, it resembles some in each of these:
- the mean depth of its expensive blocks lies within that of the rows of the nearest ratio, give or take a layer;
- no more of them follow each other than in those rows, or than in an even spread;
- a first or last layer that is expensive is so in a row of the family.
"""

import math
from functools import cache
from itertools import groupby

from hybrid_core.placement import place
from hybrid_core.quality.ablations import RATIOS
from hybrid_core.quality.additive import design_rows
from hybrid_core.quality.mixture import Mixture, mixture

_MIXED = {ratio: share for ratio, share in RATIOS.items() if 0 < share < 1}


def nearest_ratio(share: float) -> str:
    """The paper's ratio whose share of expensive blocks is nearest, by its logarithm."""
    return min(_MIXED, key=lambda ratio: abs(math.log(share / _MIXED[ratio])))


def longest_run(expensive: tuple[int, ...]) -> int:
    """How many expensive blocks follow each other at most."""
    steps = (index - position for position, index in enumerate(expensive))
    return max((len(list(run)) for _, run in groupby(steps)), default=0)


@cache
def _trained(family: str) -> tuple[Mixture, ...]:
    """The mixtures of a family's rows that have both kinds of layer."""
    found = (mixture(pattern) for pattern in design_rows()["pattern"].unique())
    return tuple(mixed for mixed in found if mixed and mixed.family == family and 0 < mixed.share < 1)


def untrained_placement(mixed: Mixture) -> str | None:
    """The first respect in which no row resembles a placement, in one line, or None."""
    if not 0 < mixed.share < 1:
        return None
    family, ratio = _trained(mixed.family), nearest_ratio(mixed.share)
    alike = [row for row in family if nearest_ratio(row.share) == ratio]
    return _depth(mixed, alike, ratio) or _run(mixed, alike, ratio) or _ends(mixed, family)


def _depth(mixed: Mixture, alike: list[Mixture], ratio: str) -> str | None:
    depths = [row.centre for row in alike]
    a_layer = 1 / (mixed.n_layers + 1)
    if min(depths) - a_layer <= mixed.centre + 1e-9 and mixed.centre - 1e-9 <= max(depths) + a_layer:
        return None
    seen = f"{min(depths):.2f} to {max(depths):.2f}" if min(depths) < max(depths) else f"{depths[0]:.2f}"
    return f"placement: mean depth {mixed.centre:.2f} - the paper's {mixed.family} designs near {ratio} have {seen}"


def _run(mixed: Mixture, alike: list[Mixture], ratio: str) -> str | None:
    own = longest_run(mixed.expensive)
    seen = max(longest_run(row.expensive) for row in alike)
    even = longest_run(place(len(mixed.expensive), mixed.n_layers, "middle"))
    if own <= max(seen, even):
        return None
    return f"placement: {own} in a row - the paper's {mixed.family} designs near {ratio} have at most {seen}"


def _ends(mixed: Mixture, family: tuple[Mixture, ...]) -> str | None:
    for where, own, seen in (
        ("first", mixed.first, any(row.first for row in family)),
        ("last", mixed.last, any(row.last for row in family)),
    ):
        if own and not seen:
            return f"placement: {where} layer - no {mixed.family} design of the paper has such a block there"
    return None
