"""How wide intervals are, and how often they hold: errors on rows that were left out, by what was
missing when they were predicted.

An estimate can be more or less far from the rows that it rests on (`DISTANCES`). For each distance,
rows are left out so that they are predicted from as far, and the interval is as wide as COVERAGE of
those errors. Groups that are left out together count alike, however many rows they have: a new
family at a scale is one such group (pooled distribution functions of Dunn, Wasserman and Ramdas,
arXiv 1809.07441).

`held_out` checks the widths on rows that did not make them: each fold sets its widths by leaving
out again within its own training rows."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hybrid_core.binomial import clopper_pearson
from hybrid_core.evidence.quality import additive
from hybrid_core.evidence.quality.scaling import (
    COVERAGE,
    SCALED,
    Array,
    ScalingLaw,
    fit_law,
    has_run_of_size,
    runs_of,
    scaling_rows,
    trained_preset,
)

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Margins = dict[str, float]

OTHER_DESIGNS, NO_EXPERTS, OTHER_SCALE = "other designs", "without experts", "another scale"
OTHER_BUDGETS, OTHER_SIZES, LLAMAS_LAW = "other budgets", "other sizes", "Llama's law"
# distance -> what the rows are that an estimate rests on
DISTANCES = {
    OTHER_DESIGNS: "other designs of its family at its scale",
    NO_EXPERTS: "its family without experts, and other families with them",
    OTHER_SCALE: "its family at another scale only",
    OTHER_BUDGETS: "moved by its family's law, fitted to runs of its size too",
    OTHER_SIZES: "moved by its family's law, fitted to runs of other sizes",
    LLAMAS_LAW: "moved by Llama's law",
}


class Miss(NamedTuple):
    """A row predicted without its group: its position in the table, the distance, the group, and
    printed minus predicted NLL."""

    row: int
    distance: str
    group: str
    error: float


def group_quantile(misses: list[tuple[str, float]]) -> float:
    """The error that COVERAGE of (group, error) stay below, every group weighing the same. NaN if
    there are none."""
    if not misses:
        return math.nan
    groups = pd.Series([group for group, _ in misses])
    weights = 1 / groups.map(groups.value_counts()).to_numpy(dtype=float)
    errors = np.array([error for _, error in misses])
    order = np.argsort(errors)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(errors[order][np.searchsorted(reached, COVERAGE - 1e-9)])


# ---------------------------------------------------------------- designs: the additive model


@cache
def _labels() -> tuple[Array, Array]:
    """Of each row of `design_rows`: its design (with both budgets), and its family and scale."""
    rows = additive.design_rows()
    design = (
        rows["scale"]
        + " "
        + rows["pattern"]
        + rows["experts"].map({True: " with experts", False: ""})
    )
    return design.to_numpy(), (rows["family"] + " " + rows["scale"]).to_numpy()


@cache
def _columns() -> tuple[Array, Array, Array]:
    """Family, scale and experts of each row of `design_rows`."""
    rows = additive.design_rows()
    return (
        rows["family"].to_numpy(dtype=str),
        rows["scale"].to_numpy(dtype=str),
        rows["experts"].to_numpy(dtype=bool),
    )


def design_distance(family: str, scale: str, experts: bool, train: Mask) -> str | None:
    """How far a design is from the training rows; None where its family is not among them."""
    families, scales, _ = _columns()
    same_family = train & (families == family)
    if not same_family.any():
        return None
    if not (same_family & (scales == scale)).any():
        return OTHER_SCALE
    return NO_EXPERTS if experts else OTHER_DESIGNS


def design_misses(train: Mask, groups: Array) -> Iterator[Miss]:
    """Each group of the training rows predicted from the other training rows."""
    families, scales, experts = _columns()
    terms, nll = additive.design_matrix(), additive.design_rows()["nll"].to_numpy()
    for group in np.unique(groups[train]):
        out = train & (groups == group)
        rest = train & ~out
        found = additive.fit(rest)
        for i in np.flatnonzero(out):
            if distance := design_distance(families[i], scales[i], experts[i], rest):
                yield Miss(int(i), distance, str(group), float(nll[i] - terms[i] @ found))


def design_margins(train: Mask) -> Margins:
    """The half width of an interval at each distance between designs, from the training rows
    alone."""
    design, cell = _labels()
    by_design, by_cell = list(design_misses(train, design)), list(design_misses(train, cell))
    found = {distance: _width(by_design, distance) for distance in (OTHER_DESIGNS, NO_EXPERTS)}
    return found | {OTHER_SCALE: _width(by_cell, OTHER_SCALE)}


def _width(misses: list[Miss], distance: str) -> float:
    return group_quantile(
        [(miss.group, abs(miss.error)) for miss in misses if miss.distance == distance]
    )


# ---------------------------------------------------------------- runs: the additive model moved by a law


def law_without(family: str, out: frozenset[int]) -> ScalingLaw:
    """The law of a family fitted to its runs without those at some positions of `scaling_rows`."""
    own = [i for i, run in enumerate(_runs()) if run.family == family]
    return _law_of_runs(family, tuple(i not in out for i in own))


@cache
def _law_of_runs(family: str, kept: tuple[bool, ...]) -> ScalingLaw:
    return fit_law(*runs_of(family), np.array([kept], dtype=float))[0]


class _Run(NamedTuple):
    family: str
    scale: str
    params: float
    tokens: float
    nll: float
    pattern: str


@cache
def _runs() -> tuple[_Run, ...]:
    """The rows of `scaling_rows` with their stacks."""
    columns = ["model", "scale", "params", "tokens", "nll_dclm"]
    found = []
    for family, scale, params, tokens, nll in scaling_rows()[columns].itertuples(
        index=False, name=None
    ):
        found.append(
            _Run(family, scale, params, tokens, nll, trained_preset(family, scale).pattern)
        )
    return tuple(found)


def run_error(i: int, out: frozenset[int], coefficients: Array, law_of: str | None = None) -> float:
    """NLL of run i of `scaling_rows`, printed minus predicted: additive model, moved by a law
    fitted without the runs `out`."""
    run = _runs()[i]
    law = law_without(law_of or run.family, out)
    return (
        run.nll - additive.moved(run.pattern, False, run.params, run.tokens, coefficients, law).nll
    )


class Fold(NamedTuple):
    """Runs that are left out together, and the rows of `design_rows` that stay."""

    name: str
    runs: frozenset[int]
    designs: Mask


def budget_folds() -> list[Fold]:
    """Each budget of Tables 14 and 15, of all families."""
    budgets = scaling_rows()["train_flops"].to_numpy()
    return [
        Fold(f"{budget:.0e}", _positions(budgets == budget), _all_designs())
        for budget in np.unique(budgets)
    ]


def size_folds() -> list[Fold]:
    """Each family at each scale, with its designs of that scale."""
    rows = scaling_rows()
    cells = (rows["model"] + " " + rows["scale"]).to_numpy()
    return [
        Fold(str(cell), _positions(cells == cell), _labels()[1] != cell)
        for cell in np.unique(cells)
    ]


def family_folds() -> list[Fold]:
    """All runs of each family but Llama."""
    families = scaling_rows()["model"].to_numpy()
    return [
        Fold(name, _positions(families == name), _all_designs())
        for name in SCALED
        if name != "llama"
    ]


def _all_designs() -> Mask:
    return np.ones(len(additive.design_rows()), dtype=bool)


def _positions(mask: Mask) -> frozenset[int]:
    return frozenset(map(int, np.flatnonzero(mask)))


# distance -> the folds that test it, and whose law they use instead of their own
MOVES: dict[str, tuple[Callable[[], list[Fold]], str | None]] = {
    OTHER_BUDGETS: (budget_folds, None),
    OTHER_SIZES: (size_folds, None),
    LLAMAS_LAW: (family_folds, "llama"),
}


def run_margin(distance: str, without: Fold | None = None) -> float:
    """What a move adds to the half width of its design, from the runs outside the fold `without`.

    Inner folds leave out their own runs and the outer fold's; half = the design's margin + this
    covers COVERAGE of their errors."""
    folds, law_of = MOVES[distance]
    outer_runs = without.runs if without else frozenset[int]()
    outer_designs = without.designs if without else _all_designs()
    excesses = []
    for fold in folds():
        asked = fold.runs - outer_runs
        designs = outer_designs & fold.designs
        found = additive.fit(designs)
        margins = cached_design_margins(designs.tobytes())
        for i in sorted(asked):
            error = run_error(i, fold.runs | outer_runs, found, law_of)
            excesses.append((fold.name, abs(error) - margins[_run_distance(i, designs)]))
    return max(0.0, group_quantile(excesses))


def _run_distance(i: int, designs: Mask) -> str:
    """How far the design of a run is from the designs in training; sizes without designs of their
    own take the nearer of the two."""
    run = _runs()[i]
    scale = "350M" if run.scale in ("100M", "350M") else "1B"
    return design_distance(run.family, scale, False, designs) or OTHER_SCALE


@cache
def cached_design_margins(mask: bytes) -> Margins:
    """`design_margins` of a mask, given as its bytes."""
    return design_margins(np.frombuffer(mask, dtype=bool))


class Interval(NamedTuple):
    """Half of an estimate's interval in nats, and what the estimate rests on in words."""

    half: float
    rests_on: str


def interval(
    family: str, experts: bool, scales: tuple[str, ...], params: float, by_law: bool
) -> Interval:
    """The interval of an estimate from the rows of `scales`: the widest of theirs, and wider where
    a law moved it."""
    everything = _all_designs()
    margins = cached_design_margins(everything.tobytes())
    distances = [
        design_distance(family, scale, experts, everything) or OTHER_SCALE for scale in scales
    ]
    widest = max(distances, key=margins.__getitem__)
    half, rests_on = margins[widest], DISTANCES[widest]
    if by_law:
        move = _move_distance(family, params)
        half, rests_on = half + _full_run_margin(move), f"{rests_on}, {DISTANCES[move]}"
    return Interval(half, rests_on)


def _move_distance(family: str, params: float) -> str:
    if family not in SCALED:
        return LLAMAS_LAW
    return OTHER_BUDGETS if has_run_of_size(family, params) else OTHER_SIZES


@cache
def _full_run_margin(distance: str) -> float:
    return run_margin(distance)


def widths() -> pd.DataFrame:
    """The half width at each distance. What a law adds is said for itself; it comes on top of the
    design's own."""
    margins = cached_design_margins(_all_designs().tobytes()) | {
        distance: _full_run_margin(distance) for distance in MOVES
    }
    rows = [
        {"distance": distance, "rests_on": what, "half": margins[distance]}
        for distance, what in DISTANCES.items()
    ]
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- whether intervals hold


@cache
def held_out() -> pd.DataFrame:
    """Every row predicted without its fold, with an interval that was set without it too: `half`
    and `covered`.

    `left_out`: design (with both budgets), family and scale, or, of the runs of Tables 14 and 15,
    budget, family and scale, or family."""
    rows = [
        *_held_out_designs("design", _labels()[0]),
        *_held_out_designs("family and scale", _labels()[1]),
    ]
    names = {OTHER_BUDGETS: "budget", OTHER_SIZES: "family and scale", LLAMAS_LAW: "family"}
    for distance, name in names.items():
        rows += _held_out_runs(distance, name)
    return pd.DataFrame(rows)


def _held_out_designs(name: str, groups: Array) -> Iterator[dict[str, Any]]:
    rows = additive.design_rows()
    for miss in design_misses(_all_designs(), groups):
        margins = cached_design_margins((groups != miss.group).tobytes())
        row = rows.iloc[miss.row]
        yield _record("designs", name, miss, margins[miss.distance], row["family"], row["scale"])


def _held_out_runs(distance: str, name: str) -> Iterator[dict[str, Any]]:
    folds, law_of = MOVES[distance]
    for fold in folds():
        found = additive.fit(fold.designs)
        margins, more = cached_design_margins(fold.designs.tobytes()), run_margin(distance, fold)
        for i in sorted(fold.runs):
            run = _runs()[i]
            miss = Miss(i, distance, fold.name, run_error(i, fold.runs, found, law_of))
            yield _record(
                "runs",
                name,
                miss,
                margins[_run_distance(i, fold.designs)] + more,
                run.family,
                run.scale,
            )


def _record(
    kind: str, name: str, miss: Miss, half: float, family: str, scale: str
) -> dict[str, Any]:
    where = {
        "kind": kind,
        "left_out": name,
        "group": miss.group,
        "family": family,
        "scale": scale,
        "distance": miss.distance,
    }
    return where | {"error": miss.error, "half": half, "covered": bool(abs(miss.error) <= half)}


@cache
def coverage() -> pd.DataFrame:
    """How many held-out rows their intervals hold: pooled, by what was left out, and there by
    family, and by family and scale.

    With the exact 95 % interval of the share (Clopper and Pearson); it takes rows for independent,
    which rows of a family hardly are."""
    rows = held_out()
    found = [_counted({"kind": "all", "left_out": "pooled", "family": "all", "scale": "all"}, rows)]
    for (kind, name), own in rows.groupby(["kind", "left_out"], sort=False):
        found.append(
            _counted({"kind": kind, "left_out": name, "family": "all", "scale": "all"}, own)
        )
        for family, of_family in own.groupby("family", sort=False):
            where = {"kind": kind, "left_out": name, "family": family}
            found.append(_counted(where | {"scale": "all"}, of_family))
            for scale, cell in of_family.groupby("scale", sort=False):
                found.append(_counted(where | {"scale": scale}, cell))
    return pd.DataFrame(found)


def _counted(where: dict[str, Any], rows: pd.DataFrame) -> dict[str, Any]:
    n, covered = len(rows), int(rows["covered"].sum())
    low, high = clopper_pearson(covered, n)
    return where | {
        "n": n,
        "covered": covered,
        "share": covered / n,
        "low": low,
        "high": high,
        "mean_half": rows["half"].mean(),
    }
