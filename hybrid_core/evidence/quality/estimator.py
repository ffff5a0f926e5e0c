"""An estimate of a design's NLL from the paper's rows, and how far such estimates miss rows that
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
    """NLL with an interval wide enough for COVERAGE of the errors on rows left out at the same
    distance (`calibration`).

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

    From 350M to 1B parameters and 60B to 82B tokens it is the additive model of `coefficients`.
    Outside that range the scaling law of the family moves the estimate; windows use Llama's law.
    The further the design is from the rows, the wider the interval (`calibration.DISTANCES`)."""
    mixed = mixture(spec.pattern)
    if mixed is None or mixed.family == "window":
        return OutOfRange(f"layers: {spec.pattern} - {_NO_FAMILY}")
    reason = uncovered(spec, mixed.family, tokens)
    if reason is None:
        reason = untrained_placement(mixed, trained())
    if reason:
        return OutOfRange(reason)
    params = float(active_params(spec))
    experts = isinstance(spec.stack[0].ffn, MoE)
    law_of = mixed.family
    if mixed.family == "swa":
        law_of = "llama"
    curve, _ = law(law_of)
    terms = np.array(list(coefficients().values()))
    found = moved(
        spec.pattern,
        experts,
        params,
        tokens,
        terms,
        curve,
    )
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
    """Every row, predicted without itself, and a baseline for it: the mean of the other rows of its
    family, scale and kind of budget.

    Kind `designs`: the additive model, fitted without all rows of that design, since the other
    budget would give it away. Kind `runs`: the scaling laws, fitted without that row."""
    designs = _without_design(design_rows())
    runs = _without_run(scaling_rows())
    parts = [designs, runs]
    return pd.concat(parts, ignore_index=True)


def _without_design(rows: pd.DataFrame) -> pd.DataFrame:
    nll = rows["nll"].to_numpy()
    experts = rows["experts"].astype(str)
    design = rows["scale"] + rows["pattern"] + experts
    predicted = np.full(len(rows), np.nan)
    for name in design.unique():
        out = (design == name).to_numpy()
        found = fit(~out, nll)
        predicted[out] = design_matrix()[out] @ found
    more_tokens = rows["tokens"] > PAPER_TOKENS
    budget = more_tokens.astype(str) + experts
    return _errors(
        rows.assign(kind="designs"),
        predicted,
        [rows["family"], rows["scale"], budget],
    )


def _without_run(rows: pd.DataFrame) -> pd.DataFrame:
    number, _ = baselines.TABLES["table14_15_scaling"]
    as_designs = {"model": "family", "nll_dclm": "nll"}
    rows = rows.rename(columns=as_designs)
    rows = rows.assign(kind="runs", table=number)
    predicted = np.full(len(rows), np.nan)
    for family in rows["family"].unique():
        own = (rows["family"] == family).to_numpy()
        runs = rows[own]
        params = runs["params"].to_numpy()
        tokens = runs["tokens"].to_numpy()
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
    n_others = of_group.transform("size") - 1
    sum_of_others = of_group.transform("sum") - rows["nll"]
    baseline = sum_of_others / n_others.replace(0, np.nan)
    columns = "kind table family scale pattern experts tokens nll".split()
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
        with_baseline = rows.dropna(subset="baseline")
        error_with_baseline = with_baseline["error"].abs()
        baseline_error = with_baseline["baseline_error"].abs()
        record = {
            "kind": kind,
            "rows": len(rows),
            "mean_error": error.mean(),
            "largest": error.max(),
            "rows_with_baseline": len(with_baseline),
            "mean_error_there": error_with_baseline.mean(),
            "baseline_mean_error": baseline_error.mean(),
        }
        found.append(record)
    return pd.DataFrame(found)
