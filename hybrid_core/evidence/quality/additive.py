"""The additive model of NLL over the paper's trained designs: its rows, terms and fit, and how a
scaling law moves it to other sizes and token counts.

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
    """Layers from `4,7,11`, or from an open list such as `1,3..15`. Numbers beyond the last layer,
    which Table 17 has at 1:1, are left out."""
    head, _, last = printed.partition("..")
    found = [int(number) for number in head.split(",")]
    if last:
        step = 1
        if len(found) > 1:
            step = found[1] - found[0]
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
    windows_alone = rows["family"] == "window"
    return rows[~windows_alone].reset_index(drop=True)


@cache
def trained() -> tuple[Mixture, ...]:
    """The mixtures of `design_rows`, each once."""
    patterns = design_rows()["pattern"].unique()
    return tuple(map(_mixture, patterns))


def _mixture(pattern: str) -> Mixture:
    """The mixture of a trained pattern. Every pattern that the paper trained has one."""
    mixed = mixture(pattern)
    assert mixed
    return mixed


def _printed_by_counts() -> Iterator[DesignRow]:
    """Rows that print how many layers of each kind a design has. Their pattern comes from the
    preset made from the row."""
    patterns = {}
    for spec in paper_designs():
        key = (baselines.scale(spec), baselines.counts(spec))
        patterns[key] = spec.pattern
    for name in ("table09_1b", "table10_350m", "table04_moe"):
        rows = baselines.table(name).to_dict("records")
        for row in rows:
            printed = [int(row.get(column, 0)) for column in baselines.COUNTS]
            counts = errata.meant_layers(name, tuple(printed))
            pattern = patterns[row["scale"], counts]
            tokens = PAPER_TOKENS
            if "tokens_b" in row:
                tokens = row["tokens_b"] * 1e9
            yield DesignRow(
                family=_mixture(pattern).family,
                scale=row["scale"],
                pattern=pattern,
                experts=isinstance(row.get("experts"), str),
                tokens=tokens,
                nll=row["nll_dclm"],
                table=baselines.TABLES[name][0],
            )


def _printed_by_position() -> Iterator[DesignRow]:
    """Rows that print the indices of their attention layers or intra-hybrid blocks."""
    for name, (column, chosen, other) in _POSITIONS.items():
        rows = baselines.table(name).to_dict("records")
        for row in rows:
            scale = row.get("scale", "1B")
            void = errata.has_no_loss(name, scale, column, row[column])
            one_kind = row.get("ratio") in ("1:0", "0:1")
            if void or one_kind:
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
    counts = [int(row.get(count, 0)) for count in baselines.COUNTS]
    n_layers = sum(counts)
    letters = [other] * n_layers
    for number in indices(row[column], n_layers):
        letters[number - 1] = chosen
    return "".join(letters)


# ---------------------------------------------------------------- terms and fit

FAMILIES = ["llama", "mamba", "swa", "inter", "intra"]
PLACED = ("first layer", "early")  # the terms for where the blocks are
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
    """The terms that the coefficients of the additive NLL model multiply, in the order of TERMS.

    - Family and scale: 0 or 1.
    - tokens: ln(tokens / 60B).
    - share doubled: log2 of the share of attention layers or intra-hybrid blocks.
    - first layer: the share of Mamba layers if layer 1 is not a Mamba layer, else 0.
    - early: (1/2 - mean depth)^2 if the blocks lie in the first half on average, else 0.

    The last three are for blocks among Mamba layers. Windows showed no such effects (Tables 9 and
    11). These forms were chosen from a few by their leave-one-out errors, so those errors flatter
    the model slightly."""
    mixed = _mixture(pattern)
    families = [float(mixed.family == name) for name in FAMILIES]
    more = np.log(tokens / PAPER_TOKENS)
    share = 0.0
    first = 0.0
    early = 0.0
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
    rows = columns.itertuples(index=False, name=None)
    return np.array([_terms(*row) for row in rows])


@cache
def _printed_nll() -> Array:
    return np.asarray(design_rows()["nll"].to_numpy())


def fit(kept: np.ndarray, nll: Array | None = None) -> Array:
    """Coefficients in the order of TERMS, nats per token: least squares over the rows of
    `design_rows` that `kept` marks."""
    if nll is None:
        nll = _printed_nll()
    terms = design_matrix()[kept]
    found, *_ = np.linalg.lstsq(terms, nll[kept], rcond=None)
    return np.asarray(found)


@cache
def coefficients() -> dict[str, float]:
    """The additive model fitted to all of `design_rows`: nats per token by term (see `_terms`)."""
    all_rows = np.ones(len(design_rows()), dtype=bool)
    found = fit(all_rows).tolist()
    return dict(zip(TERMS, found, strict=True))


# ---------------------------------------------------------------- other sizes and tokens


class Moved(NamedTuple):
    """An NLL, the scales whose rows it rests on, and whether a law moved it from their sizes and
    tokens."""

    nll: float
    scales: tuple[str, ...]
    by_law: bool


def moved(
    pattern: str,
    experts: bool,
    params: float,
    tokens: float,
    found: Array,
    law: ScalingLaw,
) -> Moved:
    """NLL of a stack by the coefficients `found`. The law moves it from the nearest size and token
    count in the rows to the wanted ones.

    - A placement costs at least as much as the best printed one of its family, ratio and scale. A
      placement between printed rows is not known to beat all of them.
    - Between 350M and 1B the NLL is a mean of both, weighted by the logarithm of the size.
    - Only differences of the law are used. Its runs had smaller batches, and its NLL of the same
      model is up to 0.05 off Tables 9 and 10."""
    largest_small = _extent("350M").params[1]
    smallest_large = _extent("1B").params[0]
    between = np.log(params / largest_small)
    apart = np.log(smallest_large / largest_small)
    weight = float(np.clip(between / apart, 0, 1))
    weights = {"350M": 1 - weight, "1B": weight}
    nll = 0.0
    by_law = False
    scales = []
    for scale, share in weights.items():
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
    """NLL by the rows of one scale, moved to the wanted size and tokens; and whether it had to be
    moved."""
    extent = _extent(scale)
    near_params = float(np.clip(params, *extent.params))
    near_tokens = float(np.clip(tokens, *extent.tokens))
    near_nll = _terms(pattern, scale, near_tokens, experts) @ found
    step = law.loss(params, tokens) - law.loss(near_params, near_tokens)
    nll = float(near_nll)
    nll += _short_of_best(pattern, scale, found)
    nll += float(step[0, 0])
    had_to = (near_params, near_tokens) != (params, tokens)
    return nll, had_to


def _placed_cost(pattern: str, found: Array) -> float:
    """What the additive model charges for a placement, nats per token."""
    terms = _terms(pattern, "1B", PAPER_TOKENS, experts=False)
    placed = [TERMS.index(name) for name in PLACED]
    return float(terms[placed] @ found[placed])


def _short_of_best(pattern: str, scale: str, found: Array) -> float:
    """How much less a placement is charged than the best printed one of its family, ratio and
    scale; 0 if it is not charged less, or none is printed."""
    mixed = mixture(pattern)
    if mixed is None or not mixed.is_mixed:
        return 0.0
    best = _best_printed(mixed.family, nearest_ratio(mixed.share), scale)
    if best is None:
        return 0.0
    short = _placed_cost(best, found) - _placed_cost(pattern, found)
    return max(0.0, short)


@cache
def _best_printed(family: str, ratio: str, scale: str) -> str | None:
    """The pattern of the lowest NLL printed at the data budget for a family, ratio and scale,
    dense; the first on a tie."""
    rows = design_rows().query(
        "family == @family and scale == @scale and tokens == @PAPER_TOKENS and not experts"
    )
    best: str | None = None
    lowest = float("inf")
    for pattern, nll in zip(rows["pattern"], rows["nll"], strict=True):
        mixed = _mixture(pattern)
        of_ratio = mixed.is_mixed and nearest_ratio(mixed.share) == ratio
        if of_ratio and nll < lowest:
            best = pattern
            lowest = nll
    return best


class Extent(NamedTuple):
    """Smallest and largest parameter and token counts among the rows of a scale."""

    params: tuple[float, float]
    tokens: tuple[float, float]


@cache
def _extent(scale: str) -> Extent:
    specs = [spec for spec in paper_designs() if baselines.scale(spec) == scale]
    sizes = list(map(active_params, specs))
    tokens = design_rows().query("scale == @scale")["tokens"]
    return Extent(
        params=(min(sizes), max(sizes)),
        tokens=(tokens.min(), tokens.max()),
    )
