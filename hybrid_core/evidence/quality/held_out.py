"""How often intervals contain rows that had no part in setting them. Each fold sets its widths by
leaving out rows again, within its own training rows."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pandas as pd

from hybrid_core.binomial import clopper_pearson
from hybrid_core.evidence.quality import additive
from hybrid_core.evidence.quality.designs_left_out import (
    Miss,
    all_designs,
    cached_design_margins,
    design_misses,
    labels,
)
from hybrid_core.evidence.quality.runs_left_out import (
    LLAMAS_LAW,
    MOVES,
    OTHER_BUDGETS,
    OTHER_SIZES,
    run_distance,
    run_error,
    run_margin,
    runs,
)
from hybrid_core.evidence.quality.scaling import Array


@cache
def held_out() -> pd.DataFrame:
    """Every row predicted without its fold, with an interval that was also set without it: `half`
    and `covered`.

    `left_out`: for designs, the design (with both budgets) or its family and scale; for the runs of
    Tables 14 and 15, budget, family and scale, or family."""
    rows = [
        *_designs("design", labels().design),
        *_designs("family and scale", labels().cell),
        *_runs("budget", OTHER_BUDGETS),
        *_runs("family and scale", OTHER_SIZES),
        *_runs("family", LLAMAS_LAW),
    ]
    return pd.DataFrame(rows)


def _designs(left_out: str, groups: Array) -> Iterator[dict[str, Any]]:
    rows = additive.design_rows()
    for miss in design_misses(all_designs(), groups):
        rest = groups != miss.group
        margins = cached_design_margins(rest.tobytes())
        row = rows.iloc[miss.row]
        where = {
            "kind": "designs",
            "left_out": left_out,
            "group": miss.group,
            "family": row["family"],
            "scale": row["scale"],
        }
        yield where | _outcome(miss, margins[miss.distance])


def _runs(left_out: str, distance: str) -> Iterator[dict[str, Any]]:
    folds, law_of = MOVES[distance]
    for fold in folds():
        found = additive.fit(fold.designs)
        margins = cached_design_margins(fold.designs.tobytes())
        more = run_margin(distance, fold)
        for i in sorted(fold.runs):
            error = run_error(i, fold.runs, found, law_of)
            miss = Miss(i, distance, fold.name, error)
            half = margins[run_distance(i, fold.designs)] + more
            where = {
                "kind": "runs",
                "left_out": left_out,
                "group": fold.name,
                "family": runs()[i].family,
                "scale": runs()[i].scale,
            }
            yield where | _outcome(miss, half)


def _outcome(miss: Miss, half: float) -> dict[str, Any]:
    return {
        "distance": miss.distance,
        "error": miss.error,
        "half": half,
        "covered": bool(abs(miss.error) <= half),
    }


@cache
def coverage() -> pd.DataFrame:
    """How many held-out rows lie within their intervals: of all rows, by what was left out, and
    within that by family, and by family and scale.

    Each share has its exact 95 % interval (Clopper and Pearson). That interval assumes independent
    rows, which rows of one family hardly are."""
    rows = held_out()
    found = [_counted(rows, "all", "pooled")]
    for (kind, left_out), own in rows.groupby(["kind", "left_out"], sort=False):
        found.append(_counted(own, kind, left_out))
        for family, of_family in own.groupby("family", sort=False):
            found.append(_counted(of_family, kind, left_out, family))
            for scale, cell in of_family.groupby("scale", sort=False):
                found.append(_counted(cell, kind, left_out, family, scale))
    return pd.DataFrame(found)


def _counted(
    rows: pd.DataFrame,
    kind: Any,
    left_out: Any,
    family: Any = "all",
    scale: Any = "all",
) -> dict[str, Any]:
    n = len(rows)
    covered = int(rows["covered"].sum())
    low, high = clopper_pearson(covered, n)
    return {
        "kind": kind,
        "left_out": left_out,
        "family": family,
        "scale": scale,
        "n": n,
        "covered": covered,
        "share": covered / n,
        "low": low,
        "high": high,
        "mean_half": rows["half"].mean(),
    }
