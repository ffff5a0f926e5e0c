"""The additive model of NLL over the paper's trained designs: its rows, its terms, its fit, and how
a scaling law moves it elsewhere.

NLL is the DCLM validation loss in nats per token.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from hybrid_core.evidence import baselines, errata
from hybrid_core.evidence.quality.coverage import paper_designs
from hybrid_core.evidence.quality.mixture import Mixture, mixture
from hybrid_core.evidence.quality.placed import nearest_ratio
from hybrid_core.evidence.quality.scaling import Array, ScalingLaw, active_params

PAPER_TOKENS = 60e9  # the data budget of Tables 9 and 10

_POSITIONS = {
    "table11_swa_position": ("attn_indices", "A", "S"),
    "table17_inter_position": ("attn_indices", "A", "M"),
    "table21_intra_position": ("intra_indices", "H", "M"),
}


def indices(printed: str, n_layers: int) -> tuple[int, ...]:
    """`4,7,11`, or an open list such as `1,3..15`; what a list names beyond the last layer is no
    layer (Table 17, 1:1)."""
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

    Left out: windows alone (one row), and the row that prints another's losses (errata).
    Table 4 is at 60B tokens, as its dense rows show."""
    rows = [*_printed_by_counts(), *_printed_by_position()]
    frame = pd.DataFrame(
        rows, columns=["family", "scale", "pattern", "experts", "tokens", "nll", "table"]
    )
    frame = frame.drop_duplicates(["scale", "pattern", "experts", "tokens"])
    return frame[frame["family"] != "window"].reset_index(drop=True)


@cache
def trained() -> tuple[Mixture, ...]:
    """The mixtures of `design_rows`, each once."""
    found = (mixture(pattern) for pattern in design_rows()["pattern"].unique())
    return tuple(mixed for mixed in found if mixed)


Row = tuple[str, str, str, bool, float, float, str]


def _printed_by_counts() -> Iterator[Row]:
    """Rows printed with how many layers of each kind; the pattern is that of the preset made from
    the row."""
    patterns = {
        (baselines.scale(spec), baselines.counts(spec)): spec.pattern for spec in paper_designs()
    }
    for name in ("table09_1b", "table10_350m", "table04_moe"):
        for row in baselines.table(name).to_dict("records"):
            counts = tuple(int(row.get(column, 0)) for column in baselines.COUNTS)
            pattern = patterns[row["scale"], errata.meant_layers(name, counts)]
            experts, tokens = (
                isinstance(row.get("experts"), str),
                row.get("tokens_b", PAPER_TOKENS / 1e9) * 1e9,
            )
            mixed = mixture(pattern)
            assert mixed
            yield (
                mixed.family,
                row["scale"],
                pattern,
                experts,
                tokens,
                row["nll_dclm"],
                baselines.TABLES[name][0],
            )


def _printed_by_position() -> Iterator[Row]:
    """Rows printed with the indices of their expensive blocks."""
    for name, (column, expensive, cheap) in _POSITIONS.items():
        for row in baselines.table(name).to_dict("records"):
            void = errata.has_no_loss(name, row.get("scale", "1B"), column, row[column])
            if void or row.get("ratio") in ("1:0", "0:1"):
                continue
            n_layers = sum(int(row.get(count, 0)) for count in baselines.COUNTS)
            chosen = indices(row[column], n_layers)
            pattern = "".join(expensive if i in chosen else cheap for i in range(1, n_layers + 1))
            mixed = mixture(pattern)
            assert mixed
            yield (
                mixed.family,
                row.get("scale", "1B"),
                pattern,
                False,
                PAPER_TOKENS,
                row["nll_dclm"],
                baselines.TABLES[name][0],
            )


FAMILIES = ["llama", "mamba", "swa", "inter", "intra"]
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


def _terms(pattern: str, scale: str, tokens: float, experts: bool) -> Array:
    """What the additive model of NLL multiplies its coefficients with, in the order of TERMS.

    Family and scale are 0 or 1; tokens: ln(tokens / 60B). For blocks among Mamba layers, share
    doubled: log2 of their share; first layer: the share of Mamba layers if layer 1 is not one of
    them; early: (1/2 - mean depth)^2 in the first half. Windows showed no such effects (Tables 9
    and 11). These forms were chosen among a few by the leave-one-out errors themselves, which are a
    little kind for that."""
    mixed = mixture(pattern)
    assert mixed
    families = [float(mixed.family == name) for name in FAMILIES]
    more = np.log(tokens / PAPER_TOKENS)
    placed = [0.0, 0.0, 0.0]
    if mixed.family in ("inter", "intra"):
        placed = [
            np.log2(mixed.share),
            mixed.first * (1 - mixed.share),
            max(0.0, 0.5 - mixed.centre) ** 2,
        ]
    return np.array(
        [
            *families,
            scale == "350M",
            more * (scale == "1B"),
            more * (scale == "350M"),
            *placed,
            experts,
        ],
        dtype=float,
    )


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
    that only lies between rows is not known to be better than all of them. Between 350M and 1B it
    is a mean of both, weighed by the logarithm of the size. Of the law only differences are used:
    its runs had smaller batches, and the same model lies up to 0.05 beside Tables 9 and 10."""
    small, large = _extent("350M"), _extent("1B")
    between, apart = np.log(params / small.params[1]), np.log(large.params[0] / small.params[1])
    weight = float(np.clip(between / apart, 0, 1))
    nll, by_law, scales = 0.0, False, []
    for scale, share in (("350M", 1 - weight), ("1B", weight)):
        if share == 0:
            continue
        own, had_to = _moved_from(scale, pattern, experts, params, tokens, found, law)
        nll, by_law = nll + share * own, by_law or had_to
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
    near_params, near_tokens = np.clip(params, *extent.params), np.clip(tokens, *extent.tokens)
    nll = float(_terms(pattern, scale, float(near_tokens), experts) @ found) + _short_of_best(
        pattern, scale, found
    )
    step = law.loss(params, tokens) - law.loss(near_params, near_tokens)
    return nll + float(step[0, 0]), bool(near_params != params or near_tokens != tokens)


PLACED = ("first layer", "early")  # the terms of where blocks stand


def _placed_cost(pattern: str, found: Array) -> float:
    """What the additive model charges for a placement, nats per token."""
    terms = _terms(pattern, "1B", PAPER_TOKENS, experts=False)
    return float(sum(terms[i] * found[i] for i in map(TERMS.index, PLACED)))


def _short_of_best(pattern: str, scale: str, found: Array) -> float:
    """How much less a placement is charged than the best printed one of its family, ratio and
    scale; 0 where not less or none."""
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
        mixed = mixture(pattern)
        assert mixed
        if 0 < mixed.share < 1 and nearest_ratio(mixed.share) == ratio and nll < lowest:
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
