"""The additive model of NLL over the paper's trained designs: its rows, its terms, its fit, and how
a scaling law moves it elsewhere.

NLL is the DCLM validation loss in nats per token.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hybrid_core.evidence import baselines, errata
from hybrid_core.evidence.quality.mixture import Mixture, mixture
from hybrid_core.evidence.quality.paper_range import paper_designs
from hybrid_core.evidence.quality.placed import nearest_ratio
from hybrid_core.evidence.quality.scaling import Array, ScalingLaw, active_params

PAPER_TOKENS = 60e9  # the data budget of Tables 9 and 10

# table -> (column with the indices, letter of the layers there, letter of the others)
_POSITIONS = {
    "table11_swa_position": ("attn_indices", "A", "S"),
    "table17_inter_position": ("attn_indices", "A", "M"),
    "table21_intra_position": ("intra_indices", "H", "M"),
}

# ---------------------------------------------------------------- rows


class DesignRow(NamedTuple):
    """A trained design as a table prints it. `table`: its number."""

    family: str
    scale: str
    pattern: str
    experts: bool
    tokens: float
    nll: float
    table: str


def indices(printed: str, n_layers: int) -> tuple[int, ...]:
    """Layers from `4,7,11`, or from an open list such as `1,3..15`. What a list names beyond the
    last layer is no layer (Table 17, 1:1)."""
    head, _, last = printed.partition("..")
    found = [int(number) for number in head.split(",")]
    if last:
        step = found[1] - found[0] if len(found) > 1 else 1
        found = list(range(found[0], int(last) + 1, step))
    return tuple(i for i in found if i <= n_layers)


@cache
def design_rows() -> pd.DataFrame:
    """The trained designs that the estimate rests on, each once: Tables 4, 9, 10, 11, 17 and 21,
    with their pattern of layers.

    Left out: windows alone (one row), and the row that prints another design's losses (errata).
    Table 4 is at 60B tokens, as its dense rows show."""
    rows = pd.DataFrame([*_printed_by_counts(), *_printed_by_position()])
    rows = rows.drop_duplicates(["scale", "pattern", "experts", "tokens"])
    return rows[rows["family"] != "window"].reset_index(drop=True)


@cache
def trained() -> tuple[Mixture, ...]:
    """The mixtures of `design_rows`, each once."""
    return tuple(_mixture(pattern) for pattern in design_rows()["pattern"].unique())


def _mixture(pattern: str) -> Mixture:
    """The mixture of a trained pattern; the paper trained no pattern without one."""
    mixed = mixture(pattern)
    assert mixed
    return mixed


def _printed_by_counts() -> Iterator[DesignRow]:
    """Rows that print how many layers of each kind; the pattern is that of the preset made from the
    row."""
    patterns = {}
    for spec in paper_designs():
        patterns[baselines.scale(spec), baselines.counts(spec)] = spec.pattern
    for name in ("table09_1b", "table10_350m", "table04_moe"):
        for row in baselines.table(name).to_dict("records"):
            counts = tuple(int(row.get(column, 0)) for column in baselines.COUNTS)
            pattern = patterns[row["scale"], errata.meant_layers(name, counts)]
            yield DesignRow(
                family=_mixture(pattern).family,
                scale=row["scale"],
                pattern=pattern,
                experts=isinstance(row.get("experts"), str),
                tokens=row.get("tokens_b", PAPER_TOKENS / 1e9) * 1e9,
                nll=row["nll_dclm"],
                table=baselines.TABLES[name][0],
            )


def _printed_by_position() -> Iterator[DesignRow]:
    """Rows that print the indices of their attention layers or intra-hybrid blocks."""
    for name, (column, chosen, other) in _POSITIONS.items():
        for row in baselines.table(name).to_dict("records"):
            scale = row.get("scale", "1B")
            void = errata.has_no_loss(name, scale, column, row[column])
            if void or row.get("ratio") in ("1:0", "0:1"):
                continue
            pattern = _placed_pattern(row, column, chosen, other)
            yield DesignRow(
                family=_mixture(pattern).family,
                scale=scale,
                pattern=pattern,
                experts=False,
                tokens=PAPER_TOKENS,
                nll=row["nll_dclm"],
                table=baselines.TABLES[name][0],
            )


def _placed_pattern(
    row: dict[Any, Any],
    column: str,
    chosen: str,
    other: str,
) -> str:
    n_layers = sum(int(row.get(count, 0)) for count in baselines.COUNTS)
    placed = indices(row[column], n_layers)
    letters = [other] * n_layers
    for number in placed:
        letters[number - 1] = chosen
    return "".join(letters)


# ---------------------------------------------------------------- terms and fit

FAMILIES = ["llama", "mamba", "swa", "inter", "intra"]
PLACED = ("first layer", "early")  # the terms of where blocks stand
TERMS = [
    *FAMILIES,
    "350M",
    "tokens, 1B",
    "tokens, 350M",
    "share doubled",
    "first layer",
    "early",
    "experts",
]


def _terms(
    pattern: str,
    scale: str,
    tokens: float,
    experts: bool,
) -> Array:
    """What the additive model of NLL multiplies its coefficients with, in the order of TERMS.

    Family and scale are 0 or 1; tokens: ln(tokens / 60B). For blocks among Mamba layers, share
    doubled: log2 of their share; first layer: the share of Mamba layers if layer 1 is not one of
    them; early: (1/2 - mean depth)^2 in the first half. Windows showed no such effects (Tables 9
    and 11). These forms were chosen among a few by the leave-one-out errors themselves, which are a
    little kind for that."""
    mixed = _mixture(pattern)
    families = [float(mixed.family == name) for name in FAMILIES]
    more = np.log(tokens / PAPER_TOKENS)
    share, first, early = 0.0, 0.0, 0.0
    if mixed.family in ("inter", "intra"):
        share = np.log2(mixed.share)
        first = mixed.first * (1 - mixed.share)
        early = max(0.0, 0.5 - mixed.centre) ** 2
    terms = [
        *families,
        scale == "350M",
        more * (scale == "1B"),
        more * (scale == "350M"),
        share,
        first,
        early,
        experts,
    ]
    return np.array(terms, dtype=float)


@cache
def design_matrix() -> Array:
    """The terms of `design_rows`, rows x terms."""
    columns = design_rows()[["pattern", "scale", "tokens", "experts"]]
    return np.array([_terms(*row) for row in columns.itertuples(index=False, name=None)])


@cache
def _printed_nll() -> Array:
    return np.asarray(design_rows()["nll"].to_numpy())


def fit(kept: np.ndarray, nll: Array | None = None) -> Array:
    """Coefficients in the order of TERMS, nats per token: least squares over the rows of
    `design_rows` that `kept` marks."""
    losses = _printed_nll() if nll is None else nll
    return np.asarray(np.linalg.lstsq(design_matrix()[kept], losses[kept], rcond=None)[0])


@cache
def coefficients() -> dict[str, float]:
    """The additive model fitted to all of `design_rows`: nats per token by term (see `_terms`)."""
    found = fit(np.ones(len(design_rows()), dtype=bool))
    return dict(zip(TERMS, map(float, found), strict=True))


# ---------------------------------------------------------------- other sizes and tokens


class Moved(NamedTuple):
    """An NLL, the scales whose rows it rests on, and whether a law moved it from their sizes and
    tokens."""

    nll: float
    scales: tuple[str, ...]
    by_law: bool


def moved(
    pattern: str, experts: bool, params: float, tokens: float, found: Array, law: ScalingLaw
) -> Moved:
    """NLL of a stack by the coefficients `found`, moved by the law from the nearest size and tokens
    of its rows to the wanted ones.

    A placement costs at least what the best printed one of its family, ratio and scale costs: one
    that only lies between rows is not known to be better than all of them. Between 350M and 1B the
    NLL is a mean of both, weighed by the logarithm of the size. Only differences of the law are
    used: its runs had smaller batches, and the same model lies up to 0.05 beside Tables 9 and
    10."""
    small, large = _extent("350M"), _extent("1B")
    between = np.log(params / small.params[1])
    apart = np.log(large.params[0] / small.params[1])
    weight = float(np.clip(between / apart, 0, 1))
    nll, by_law, scales = 0.0, False, []
    for scale, share in (("350M", 1 - weight), ("1B", weight)):
        if share == 0:
            continue
        own, had_to = _moved_from(
            scale,
            pattern,
            experts,
            params,
            tokens,
            found,
            law,
        )
        nll += share * own
        by_law = by_law or had_to
        scales.append(scale)
    return Moved(nll, tuple(scales), by_law)


def _moved_from(
    scale: str,
    pattern: str,
    experts: bool,
    params: float,
    tokens: float,
    found: Array,
    law: ScalingLaw,
) -> tuple[float, bool]:
    """The additive model at one scale, moved to the wanted size and tokens; and whether it had to
    be."""
    extent = _extent(scale)
    near_params = np.clip(params, *extent.params)
    near_tokens = np.clip(tokens, *extent.tokens)
    nll = float(_terms(pattern, scale, float(near_tokens), experts) @ found)
    nll += _short_of_best(pattern, scale, found)
    step = law.loss(params, tokens) - law.loss(near_params, near_tokens)
    had_to = bool(near_params != params or near_tokens != tokens)
    return nll + float(step[0, 0]), had_to


def _placed_cost(pattern: str, found: Array) -> float:
    """What the additive model charges for a placement, nats per token."""
    terms = _terms(pattern, "1B", PAPER_TOKENS, experts=False)
    return float(sum(terms[i] * found[i] for i in map(TERMS.index, PLACED)))


def _short_of_best(pattern: str, scale: str, found: Array) -> float:
    """How much less a placement is charged than the best printed one of its family, ratio and
    scale; 0 if it is not charged less, or none is printed."""
    mixed = mixture(pattern)
    if mixed is None or not 0 < mixed.share < 1:
        return 0.0
    best = _best_printed(mixed.family, nearest_ratio(mixed.share), scale)
    if best is None:
        return 0.0
    return max(0.0, _placed_cost(best, found) - _placed_cost(pattern, found))


@cache
def _best_printed(family: str, ratio: str, scale: str) -> str | None:
    """The pattern of the lowest NLL printed at the data budget for a family, ratio and scale,
    dense; the first of equals."""
    rows = design_rows().query(
        "family == @family and scale == @scale and tokens == @PAPER_TOKENS and not experts"
    )
    best: str | None = None
    lowest = float("inf")
    for pattern, nll in zip(rows["pattern"], rows["nll"], strict=True):
        share = _mixture(pattern).share
        if 0 < share < 1 and nearest_ratio(share) == ratio and nll < lowest:
            best, lowest = pattern, nll
    return best


class Extent(NamedTuple):
    """Least and largest parameters and tokens among the rows of a scale."""

    params: tuple[float, float]
    tokens: tuple[float, float]


@cache
def _extent(scale: str) -> Extent:
    sizes = [active_params(spec) for spec in paper_designs() if baselines.scale(spec) == scale]
    tokens = design_rows().query("scale == @scale")["tokens"]
    return Extent((min(sizes), max(sizes)), (tokens.min(), tokens.max()))
