"""How wide the interval of an estimate is.

`DISTANCES` lists how far an estimate can be from the rows that it rests on. Each distance has its
own width. It comes from the errors on rows that were left out and predicted from that far away
(`designs_left_out`, `runs_left_out`). `held_out` checks whether such intervals hold."""

from functools import cache
from typing import NamedTuple

import pandas as pd

from hybrid_core.evidence.quality.designs_left_out import (
    NO_EXPERTS,
    OTHER_DESIGNS,
    OTHER_SCALE,
    all_designs,
    cached_design_margins,
    design_distance,
)
from hybrid_core.evidence.quality.runs_left_out import (
    LLAMAS_LAW,
    MOVES,
    OTHER_BUDGETS,
    OTHER_SIZES,
    run_margin,
)
from hybrid_core.evidence.quality.scaling import SCALED, has_run_of_size

# distance -> which rows an estimate rests on
DISTANCES = {
    OTHER_DESIGNS: "other designs of its family at its scale",
    NO_EXPERTS: "its family without experts, and other families with them",
    OTHER_SCALE: "its family at another scale only",
    OTHER_BUDGETS: "moved by its family's law, fitted to runs of its size too",
    OTHER_SIZES: "moved by its family's law, fitted to runs of other sizes",
    LLAMAS_LAW: "moved by Llama's law",
}


class Interval(NamedTuple):
    """Half the width of an estimate's interval in nats, and a phrase for what the estimate rests
    on."""

    half: float
    rests_on: str


def interval(
    family: str,
    experts: bool,
    scales: tuple[str, ...],
    params: float,
    by_law: bool,
) -> Interval:
    """The interval of an estimate from the rows of `scales`: the widest of theirs, and wider if a
    law moved it."""
    everything = all_designs()
    margins = cached_design_margins(everything.tobytes())
    distances = []
    for scale in scales:
        distance = design_distance(family, scale, experts, everything)
        distances.append(distance or OTHER_SCALE)
    widest = max(distances, key=margins.__getitem__)
    half = margins[widest]
    rests_on = DISTANCES[widest]
    if by_law:
        move = _move_distance(family, params)
        half += _full_run_margin(move)
        rests_on += f", {DISTANCES[move]}"
    return Interval(half, rests_on)


def _move_distance(family: str, params: float) -> str:
    if family not in SCALED:
        return LLAMAS_LAW
    if has_run_of_size(family, params):
        return OTHER_BUDGETS
    return OTHER_SIZES


@cache
def _full_run_margin(distance: str) -> float:
    return run_margin(distance)


def widths() -> pd.DataFrame:
    """The half width at each distance. What a law adds has its own rows, and comes on top of the
    design's width."""
    margins = dict(cached_design_margins(all_designs().tobytes()))
    for distance in MOVES:
        margins[distance] = _full_run_margin(distance)
    rows = []
    for distance, rests_on in DISTANCES.items():
        row = {
            "distance": distance,
            "rests_on": rests_on,
            "half": margins[distance],
        }
        rows.append(row)
    return pd.DataFrame(rows)
