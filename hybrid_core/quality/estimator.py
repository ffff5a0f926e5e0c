"""An estimate of a design's NLL from the paper's rows, and how far such estimates miss a row that they have not seen.

NLL is the DCLM validation loss in nats per token.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hybrid_core import baselines
from hybrid_core.quality.ablations import MISPRINTED
from hybrid_core.quality.coverage import paper_designs, uncovered
from hybrid_core.quality.mixture import mixture
from hybrid_core.quality.scaling import COVERAGE, Array, active_params, fit_law, law, scaling_rows
from hybrid_core.spec import ArchSpec, MoE

CONVENTION = "estimated from the paper's rows"
PAPER_TOKENS = 60e9  # the data budget of Tables 9 and 10

_POSITIONS = {
    "table11_swa_position": ("attn_indices", "A", "S"),
    "table17_inter_position": ("attn_indices", "A", "M"),
    "table21_intra_position": ("intra_indices", "H", "M"),
}


def indices(printed: str, n_layers: int) -> tuple[int, ...]:
    """`4,7,11`, or an open list such as `1,3..15`; what a list names beyond the last layer is no layer (Table 17, 1:1)."""
    head, _, last = printed.partition("..")
    found = [int(number) for number in head.split(",")]
    if last:
        step = found[1] - found[0] if len(found) > 1 else 1
        found = list(range(found[0], int(last) + 1, step))
    return tuple(i for i in found if i <= n_layers)


@cache
def design_rows() -> pd.DataFrame:
    """The trained designs that the estimate rests on, each once: Tables 4, 9, 10, 11, 17 and 21, with their pattern of layers.

    Left out: windows alone (one row), and Table 17's 350M row {6}, which repeats an intra row. Table 4 is at 60B tokens, as its dense
    rows show.
    """
    rows = [*_printed_by_counts(), *_printed_by_position()]
    frame = pd.DataFrame(rows, columns=["family", "scale", "pattern", "experts", "tokens", "nll", "table"])
    frame = frame.drop_duplicates(["scale", "pattern", "experts", "tokens"])
    return frame[frame["family"] != "window"].reset_index(drop=True)


Row = tuple[str, str, str, bool, float, float, str]


def _printed_by_counts() -> Iterator[Row]:
    """Rows printed with how many layers of each kind; the pattern is that of the preset made from the row."""
    patterns = {(baselines.scale(spec), baselines.counts(spec)): spec.pattern for spec in paper_designs()}
    for name in ("table09_1b", "table10_350m", "table04_moe"):
        for row in baselines.table(name).to_dict("records"):
            counts = tuple(int(row.get(column, 0)) for column in baselines.COUNTS)
            pattern = patterns[row["scale"], MISPRINTED.get(counts, counts)]
            experts, tokens = isinstance(row.get("experts"), str), row.get("tokens_b", PAPER_TOKENS / 1e9) * 1e9
            mixed = mixture(pattern)
            assert mixed
            yield mixed.family, row["scale"], pattern, experts, tokens, row["nll_dclm"], baselines.TABLES[name][0]


def _printed_by_position() -> Iterator[Row]:
    """Rows printed with the indices of their expensive blocks."""
    for name, (column, expensive, cheap) in _POSITIONS.items():
        for row in baselines.table(name).to_dict("records"):
            repeated = name == "table17_inter_position" and row["scale"] == "350M" and row[column] == "6"
            if repeated or row.get("ratio") in ("1:0", "0:1"):
                continue
            n_layers = sum(int(row.get(count, 0)) for count in baselines.COUNTS)
            chosen = indices(row[column], n_layers)
            pattern = "".join(expensive if i in chosen else cheap for i in range(1, n_layers + 1))
            mixed = mixture(pattern)
            assert mixed
            yield mixed.family, row.get("scale", "1B"), pattern, False, PAPER_TOKENS, row["nll_dclm"], baselines.TABLES[name][0]


FAMILIES = ["llama", "mamba", "swa", "inter", "intra"]
TERMS = [*FAMILIES, "350M", "tokens, 1B", "tokens, 350M", "share doubled", "first layer", "early", "experts"]


def _terms(pattern: str, scale: str, tokens: float, experts: bool) -> Array:
    """What the additive model of NLL multiplies its coefficients with, in the order of TERMS.

    Family and scale are 0 or 1; tokens: ln(tokens / 60B). For blocks among Mamba layers, share doubled: log2 of their share; first layer:
    the share of Mamba layers if layer 1 is not one of them; early: (1/2 - mean depth)^2 in the first half. Windows showed no such effects
    (Tables 9 and 11). These forms were chosen among a few by the leave-one-out errors themselves, which are a little kind for that.
    """
    mixed = mixture(pattern)
    assert mixed
    families = [float(mixed.family == name) for name in FAMILIES]
    more = np.log(tokens / PAPER_TOKENS)
    placed = [0.0, 0.0, 0.0]
    if mixed.family in ("inter", "intra"):
        placed = [np.log2(mixed.share), mixed.first * (1 - mixed.share), max(0.0, 0.5 - mixed.centre) ** 2]
    return np.array([*families, scale == "350M", more * (scale == "1B"), more * (scale == "350M"), *placed, experts], dtype=float)


def _design_matrix(rows: pd.DataFrame) -> Array:
    columns = rows[["pattern", "scale", "tokens", "experts"]]
    return np.array([_terms(*row) for row in columns.itertuples(index=False, name=None)])


@cache
def coefficients() -> dict[str, float]:
    """The additive model of NLL, least squares over `design_rows`: nats per token by term (see `_terms`)."""
    rows = design_rows()
    found = np.linalg.lstsq(_design_matrix(rows), rows["nll"].to_numpy(), rcond=None)[0]
    return dict(zip(TERMS, map(float, found), strict=True))


class Estimate(NamedTuple):
    """NLL with a 90 % interval from leave-one-out errors. `basis` says which tables it rests on."""

    nll: float
    low: float
    high: float
    tokens: float
    basis: str


class OutOfRange(NamedTuple):
    """Why the paper says nothing about a design: one line."""

    reason: str


def estimate(spec: ArchSpec, tokens: float = PAPER_TOKENS) -> Estimate | OutOfRange:
    """NLL of a design trained at 8K on `tokens` of DCLM, from the paper's rows.

    Inside 350M and 1B and 60B to 82B tokens: the additive model of `coefficients`. Elsewhere the law of the family (Llama's for windows)
    moves it there; only the law's differences are used: its runs had smaller batches, and
    the same model lies up to 0.05 beside Tables 9 and 10.
    """
    mixed = mixture(spec.pattern)
    if mixed is None or mixed.family == "window":
        return OutOfRange(f"layers: {spec.pattern} - {_NO_FAMILY}")
    if reason := uncovered(spec, mixed.family, tokens):
        return OutOfRange(reason)
    params, experts = float(active_params(spec)), isinstance(spec.stack[0].ffn, MoE)
    anchors = {scale: _moved(spec.pattern, mixed.family, experts, scale, params, tokens) for scale in ("350M", "1B")}
    small, large = (_extent(scale) for scale in anchors)
    weight = float(np.clip(np.log(params / small.params[1]) / np.log(large.params[0] / small.params[1]), 0, 1))
    nll = (1 - weight) * anchors["350M"][0] + weight * anchors["1B"][0]
    moved = weight not in (0.0, 1.0) or anchors["1B" if weight else "350M"][1]
    half = _margin("designs") + (_margin("runs") if moved else 0.0)
    basis = "Tables 4, 9, 10, 11, 17 and 21" + (", moved by the scaling law of Tables 14 and 15" if moved else "")
    return Estimate(nll, nll - half, nll + half, tokens, basis)


_NO_FAMILY = (
    "the paper trained attention, Mamba-2, attention or intra-hybrid blocks among Mamba-2, and attention among windows "
    "(windows alone: one row of Table 9)"
)


def _moved(pattern: str, family: str, experts: bool, scale: str, params: float, tokens: float) -> tuple[float, bool]:
    """The additive model at one scale, moved from the nearest size and tokens of its rows to the wanted ones; and whether it had to be."""
    extent = _extent(scale)
    near_params, near_tokens = np.clip(params, *extent.params), np.clip(tokens, *extent.tokens)
    nll = float(_terms(pattern, scale, float(near_tokens), experts) @ np.array(list(coefficients().values())))
    curve = law("llama" if family == "swa" else family)[0]
    step = curve.loss(params, tokens) - curve.loss(near_params, near_tokens)
    return nll + float(step[0, 0]), bool(near_params != params or near_tokens != tokens)


class Extent(NamedTuple):
    """Least and largest parameters and tokens among the rows of a scale."""

    params: tuple[float, float]
    tokens: tuple[float, float]


@cache
def _extent(scale: str) -> Extent:
    sizes = [active_params(spec) for spec in paper_designs() if baselines.scale(spec) == scale]
    tokens = design_rows().query("scale == @scale")["tokens"]
    return Extent((min(sizes), max(sizes)), (tokens.min(), tokens.max()))


# ---------------------------------------------------------------- how good the estimate is


@cache
def leave_one_out() -> pd.DataFrame:
    """Every row used, predicted without it, beside a baseline: the mean of the other rows of its family, scale and kind of budget.

    `designs`: the additive model without all rows of that design (its other budget would tell). `runs`: the scaling laws without that row.
    """
    return pd.concat([_without_design(design_rows()), _without_run(scaling_rows())], ignore_index=True)


def _without_design(rows: pd.DataFrame) -> pd.DataFrame:
    terms, nll = _design_matrix(rows), rows["nll"].to_numpy()
    design = rows["scale"] + rows["pattern"] + rows["experts"].astype(str)
    predicted = np.full(len(rows), np.nan)
    for name in design.unique():
        out = (design == name).to_numpy()
        predicted[out] = terms[out] @ np.linalg.lstsq(terms[~out], nll[~out], rcond=None)[0]
    budget = (rows["tokens"] > PAPER_TOKENS).astype(str) + rows["experts"].astype(str)
    return _errors(rows.assign(kind="designs"), predicted, [rows["family"], rows["scale"], budget])


def _without_run(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.rename(columns={"model": "family", "nll_dclm": "nll"}).assign(kind="runs", table=baselines.TABLES["table14_15_scaling"][0])
    predicted = np.full(len(rows), np.nan)
    for family in rows["family"].unique():
        own = (rows["family"] == family).to_numpy()
        params, tokens, nll = (rows.loc[own, column].to_numpy() for column in ("params", "tokens", "nll"))
        without, _ = fit_law(params, tokens, nll, 1 - np.eye(len(nll)))
        predicted[own] = np.diagonal(without.loss(params, tokens))
    return _errors(rows, predicted, [rows["family"], rows["scale"]])


def _errors(rows: pd.DataFrame, predicted: Array, group: list[pd.Series]) -> pd.DataFrame:
    """Prediction and baseline of each row with their errors, printed minus predicted; a row alone in its group has no baseline."""
    others = rows.groupby(group)["nll"]
    baseline = (others.transform("sum") - rows["nll"]) / (others.transform("size") - 1).replace(0, np.nan)
    kept = rows.reindex(columns=["kind", "table", "family", "scale", "pattern", "experts", "tokens", "nll"])
    return kept.assign(predicted=predicted, error=rows["nll"] - predicted, baseline=baseline, baseline_error=rows["nll"] - baseline)


@cache
def accuracy() -> pd.DataFrame:
    """Mean absolute leave-one-out error by kind of row, over the rows that have a baseline and over all; and the 90 % quantile."""
    found: list[dict[str, Any]] = []
    for kind, rows in leave_one_out().groupby("kind"):
        error, beside = rows["error"].abs(), rows.dropna(subset="baseline")
        record = {"kind": kind, "rows": len(rows), "mean_error": error.mean(), "largest": error.max()}
        record |= {
            "quantile_90": error.quantile(COVERAGE),
            "rows_with_baseline": len(beside),
            "mean_error_there": beside["error"].abs().mean(),
        }
        found.append(record | {"baseline_mean_error": beside["baseline_error"].abs().mean()})
    return pd.DataFrame(found)


def _margin(kind: str) -> float:
    """The leave-one-out error that 90 % of the rows of a kind stay below."""
    return float(accuracy().query("kind == @kind")["quantile_90"].iloc[0])
