"""An estimate of a design's NLL from the paper's rows, and how far such estimates miss a row that
they have not seen.

NLL is the DCLM validation loss in nats per token.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines
from hybrid_core.evidence.quality.additive import (
    PAPER_TOKENS,
    coefficients,
    design_matrix,
    design_rows,
    fit,
    moved,
    trained,
)
from hybrid_core.evidence.quality.calibration import interval
from hybrid_core.evidence.quality.mixture import mixture
from hybrid_core.evidence.quality.paper_range import uncovered
from hybrid_core.evidence.quality.placed import untrained_placement
from hybrid_core.evidence.quality.scaling import Array, active_params, fit_law, law, scaling_rows
from hybrid_core.ffns.moe import MoE

CONVENTION = "estimated from the paper's rows"


class Estimate(NamedTuple):
    """NLL with an interval as wide as COVERAGE of the errors on rows that were left out as far away
    (`calibration`).

    `basis`: the tables that it rests on; `rests_on`: how near their rows are.
    """

    nll: float
    low: float
    high: float
    tokens: float
    basis: str
    rests_on: str


class OutOfRange(NamedTuple):
    """Why the paper says nothing about a design: one line."""

    reason: str


def estimate(spec: ArchSpec, tokens: float = PAPER_TOKENS) -> Estimate | OutOfRange:
    """NLL of a design trained at 8K on `tokens` of DCLM, from the paper's rows.

    Inside 350M and 1B and 60B to 82B tokens: the additive model of `coefficients`. Elsewhere the
    law of the family (Llama's for windows) moves it there. The interval is wider the further the
    design is from the rows (`calibration.DISTANCES`)."""
    mixed = mixture(spec.pattern)
    if mixed is None or mixed.family == "window":
        return OutOfRange(f"layers: {spec.pattern} - {_NO_FAMILY}")
    reason = uncovered(spec, mixed.family, tokens) or untrained_placement(mixed, trained())
    if reason:
        return OutOfRange(reason)
    params = float(active_params(spec))
    experts = isinstance(spec.stack[0].ffn, MoE)
    curve, _ = law("llama" if mixed.family == "swa" else mixed.family)
    terms = np.array(list(coefficients().values()))
    found = moved(spec.pattern, experts, params, tokens, terms, curve)
    half, rests_on = interval(
        mixed.family,
        experts,
        found.scales,
        params,
        found.by_law,
    )
    basis = "Tables 4, 9, 10, 11, 17 and 21"
    if found.by_law:
        basis += ", moved by the scaling law of Tables 14 and 15"
    return Estimate(
        found.nll,
        found.nll - half,
        found.nll + half,
        tokens,
        basis,
        rests_on,
    )


_NO_FAMILY = (
    "the paper trained attention, Mamba-2, attention or intra-hybrid blocks among Mamba-2, and "
    "attention among windows (windows alone: one row of Table 9)"
)


# ---------------------------------------------------------------- how good the estimate is


@cache
def leave_one_out() -> pd.DataFrame:
    """Every row used, predicted without it, beside a baseline: the mean of the other rows of its
    family, scale and kind of budget.

    `designs`: the additive model without all rows of that design (its other budget would tell).
    `runs`: the scaling laws without that row."""
    parts = [_without_design(design_rows()), _without_run(scaling_rows())]
    return pd.concat(parts, ignore_index=True)


def _without_design(rows: pd.DataFrame) -> pd.DataFrame:
    nll = rows["nll"].to_numpy()
    experts = rows["experts"].astype(str)
    design = rows["scale"] + rows["pattern"] + experts
    predicted = np.full(len(rows), np.nan)
    for name in design.unique():
        out = (design == name).to_numpy()
        predicted[out] = design_matrix()[out] @ fit(~out, nll)
    budget = (rows["tokens"] > PAPER_TOKENS).astype(str) + experts
    return _errors(
        rows.assign(kind="designs"),
        predicted,
        [rows["family"], rows["scale"], budget],
    )


def _without_run(rows: pd.DataFrame) -> pd.DataFrame:
    number, _ = baselines.TABLES["table14_15_scaling"]
    rows = rows.rename(columns={"model": "family", "nll_dclm": "nll"})
    rows = rows.assign(kind="runs", table=number)
    predicted = np.full(len(rows), np.nan)
    for family in rows["family"].unique():
        own = (rows["family"] == family).to_numpy()
        runs = rows[own]
        params, tokens = runs["params"].to_numpy(), runs["tokens"].to_numpy()
        each_left_out = 1 - np.eye(len(runs))
        without, _ = fit_law(
            params,
            tokens,
            runs["nll"].to_numpy(),
            each_left_out,
        )
        predicted[own] = np.diagonal(without.loss(params, tokens))
    return _errors(rows, predicted, [rows["family"], rows["scale"]])


def _errors(
    rows: pd.DataFrame,
    predicted: Array,
    group: list[pd.Series],
) -> pd.DataFrame:
    """Prediction and baseline of each row with their errors, printed minus predicted. A row alone
    in its group has no baseline."""
    of_group = rows.groupby(group)["nll"]
    others = of_group.transform("size") - 1
    baseline = (of_group.transform("sum") - rows["nll"]) / others.replace(0, np.nan)
    columns = ["kind", "table", "family", "scale", "pattern", "experts", "tokens", "nll"]
    return rows.reindex(columns=columns).assign(
        predicted=predicted,
        error=rows["nll"] - predicted,
        baseline=baseline,
        baseline_error=rows["nll"] - baseline,
    )


@cache
def accuracy() -> pd.DataFrame:
    """Mean absolute leave-one-out error by kind of row, over the rows that have a baseline and over
    all."""
    found: list[dict[str, Any]] = []
    for kind, rows in leave_one_out().groupby("kind"):
        error = rows["error"].abs()
        beside = rows.dropna(subset="baseline")
        record = {
            "kind": kind,
            "rows": len(rows),
            "mean_error": error.mean(),
            "largest": error.max(),
            "rows_with_baseline": len(beside),
            "mean_error_there": beside["error"].abs().mean(),
            "baseline_mean_error": beside["baseline_error"].abs().mean(),
        }
        found.append(record)
    return pd.DataFrame(found)
