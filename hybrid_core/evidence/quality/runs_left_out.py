"""How much a move by a scaling law adds to the width of an interval, from errors on runs of Tables
14 and 15 that were left out.

A move may rest on runs of other budgets, on runs of other sizes, or on the law of another family.
Each of the three has its own folds."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from hybrid_core.evidence.quality import additive
from hybrid_core.evidence.quality.designs_left_out import (
    OTHER_SCALE,
    Mask,
    all_designs,
    cached_design_margins,
    design_distance,
    group_quantile,
    labels,
)
from hybrid_core.evidence.quality.scaling import (
    SCALED,
    Array,
    ScalingLaw,
    fit_law,
    runs_of,
    scaling_rows,
    trained_preset,
)

OTHER_BUDGETS = "other budgets"
OTHER_SIZES = "other sizes"
LLAMAS_LAW = "Llama's law"


class Run(NamedTuple):
    """A row of `scaling_rows` with its stack."""

    family: str
    scale: str
    params: float
    tokens: float
    nll: float
    pattern: str


@cache
def runs() -> tuple[Run, ...]:
    """Every run, at its position in `scaling_rows`."""
    columns = ["model", "scale", "params", "tokens", "nll_dclm"]
    rows = scaling_rows()[columns].itertuples(index=False, name=None)
    found = []
    for family, scale, params, tokens, nll in rows:
        pattern = trained_preset(family, scale).pattern
        found.append(Run(family, scale, params, tokens, nll, pattern))
    return tuple(found)


def law_without(family: str, out: frozenset[int]) -> ScalingLaw:
    """The law of a family fitted to its runs except those at some positions of `scaling_rows`."""
    kept = []
    for i, run in enumerate(runs()):
        if run.family == family:
            kept.append(i not in out)
    return _law_of_runs(family, tuple(kept))


@cache
def _law_of_runs(family: str, kept: tuple[bool, ...]) -> ScalingLaw:
    weights = np.array([kept], dtype=float)
    found, _ = fit_law(*runs_of(family), weights)
    return found


def run_error(
    i: int,
    out: frozenset[int],
    coefficients: Array,
    law_of: str | None = None,
) -> float:
    """NLL of run i of `scaling_rows`, printed minus predicted: the additive model, moved by a law
    fitted without the runs `out`."""
    run = runs()[i]
    law = law_without(law_of or run.family, out)
    found = additive.moved(
        run.pattern,
        False,
        run.params,
        run.tokens,
        coefficients,
        law,
    )
    return run.nll - found.nll


# ---------------------------------------------------------------- folds


class Fold(NamedTuple):
    """Runs that are left out together, and the rows of `design_rows` that stay in."""

    name: str
    runs: frozenset[int]
    designs: Mask


def budget_folds() -> list[Fold]:
    """Each budget of Tables 14 and 15, of all families."""
    budgets = scaling_rows()["train_flops"].to_numpy()
    folds = []
    for budget in np.unique(budgets):
        of_budget = _positions(budgets == budget)
        folds.append(Fold(f"{budget:.0e}", of_budget, all_designs()))
    return folds


def size_folds() -> list[Fold]:
    """Each family at each scale, with its designs of that scale."""
    rows = scaling_rows()
    cells = (rows["model"] + " " + rows["scale"]).to_numpy()
    folds = []
    for cell in np.unique(cells):
        of_cell = _positions(cells == cell)
        other_designs = labels().cell != cell
        folds.append(Fold(str(cell), of_cell, other_designs))
    return folds


def family_folds() -> list[Fold]:
    """All runs of each family but Llama."""
    families = scaling_rows()["model"].to_numpy()
    folds = []
    for name in SCALED:
        if name != "llama":
            of_family = _positions(families == name)
            folds.append(Fold(name, of_family, all_designs()))
    return folds


def _positions(mask: Mask) -> frozenset[int]:
    return frozenset(map(int, np.flatnonzero(mask)))


# distance -> the folds that test it, and whose law they use instead of their own
MOVES: dict[str, tuple[Callable[[], list[Fold]], str | None]] = {
    OTHER_BUDGETS: (budget_folds, None),
    OTHER_SIZES: (size_folds, None),
    LLAMAS_LAW: (family_folds, "llama"),
}


def run_margin(distance: str, without: Fold | None = None) -> float:
    """What a move adds to the half width of its design's interval, from the runs outside the fold
    `without`.

    Inner folds leave out their own runs and those of `without`. COVERAGE of their errors are within
    the design's margin plus what is returned."""
    folds, law_of = MOVES[distance]
    outer_runs = frozenset[int]()
    outer_designs = all_designs()
    if without:
        outer_runs = without.runs
        outer_designs = without.designs
    excesses = []
    for fold in folds():
        designs = outer_designs & fold.designs
        found = additive.fit(designs)
        margins = cached_design_margins(designs.tobytes())
        for i in sorted(fold.runs - outer_runs):
            error = run_error(i, fold.runs | outer_runs, found, law_of)
            margin = margins[run_distance(i, designs)]
            excesses.append((fold.name, abs(error) - margin))
    return max(0.0, group_quantile(excesses))


def run_distance(i: int, designs: Mask) -> str:
    """How far the design of run i is from the training designs. The training designs are of 350M
    and 1B; a run of another size uses the nearer of the two."""
    run = runs()[i]
    scale = "1B"
    if run.scale in ("100M", "350M"):
        scale = "350M"
    distance = design_distance(run.family, scale, False, designs)
    return distance or OTHER_SCALE
