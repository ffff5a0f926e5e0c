"""Errors of the additive model on designs that were left out, by what was missing when they were
predicted.

For each distance between designs, rows are left out and predicted from that distance. The interval
is wide enough for COVERAGE of those errors. Rows that are left out together are a group, such as a
family at a scale. All groups weigh the same, however many rows they have (pooled distribution
functions of Dunn, Wasserman and Ramdas, arXiv 1809.07441)."""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hybrid_core.evidence.quality import additive
from hybrid_core.evidence.quality.scaling import COVERAGE, Array

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Margins = dict[str, float]  # distance -> half width of an interval, nats

OTHER_DESIGNS = "other designs"
NO_EXPERTS = "without experts"
OTHER_SCALE = "another scale"


class Miss(NamedTuple):
    """A row predicted without its group: its position in the table, the distance, the group, and
    printed minus predicted NLL."""

    row: int
    distance: str
    group: str
    error: float


def group_quantile(misses: list[tuple[str, float]]) -> float:
    """The error that a share COVERAGE of the misses (pairs of group and error) does not exceed. All
    groups weigh the same. NaN if there are no misses."""
    if not misses:
        return math.nan
    frame = pd.DataFrame(misses, columns=["group", "error"]).sort_values("error", kind="stable")
    group_sizes = frame.groupby("group")["error"].transform("size")
    weights = 1 / group_sizes.to_numpy(dtype=float)
    reached = np.cumsum(weights) / weights.sum()
    first_enough = np.searchsorted(reached, COVERAGE - 1e-9)
    return float(frame["error"].iloc[first_enough])


class Labels(NamedTuple):
    """Two labels of each row of `design_rows`. `design`: the design, in both budgets; `cell`: its
    family and scale."""

    design: Array
    cell: Array


@cache
def labels() -> Labels:
    """The labels of the rows. Rows with the same label are left out together."""
    rows = additive.design_rows()
    experts = rows["experts"].map({True: " with experts", False: ""})
    stack = rows["scale"] + " " + rows["pattern"]
    design = stack + experts
    cell = rows["family"] + " " + rows["scale"]
    return Labels(design.to_numpy(), cell.to_numpy())


@cache
def _columns() -> tuple[Array, Array, Array]:
    """Family, scale and experts of each row of `design_rows`."""
    rows = additive.design_rows()
    family = rows["family"].to_numpy(dtype=str)
    scale = rows["scale"].to_numpy(dtype=str)
    experts = rows["experts"].to_numpy(dtype=bool)
    return family, scale, experts


def all_designs() -> Mask:
    """The mask that keeps every row of `design_rows`."""
    return np.ones(len(additive.design_rows()), dtype=bool)


def design_distance(
    family: str,
    scale: str,
    experts: bool,
    train: Mask,
) -> str | None:
    """How far a design is from the training rows; None if its family is not among them."""
    families, scales, _ = _columns()
    same_family = train & (families == family)
    if not same_family.any():
        return None
    same_scale = scales == scale
    if not (same_family & same_scale).any():
        return OTHER_SCALE
    if experts:
        return NO_EXPERTS
    return OTHER_DESIGNS


def design_misses(train: Mask, groups: Array) -> Iterator[Miss]:
    """Each group of the training rows predicted from the other training rows. Rows whose family is
    in no other group cannot be predicted and are left out."""
    families, scales, experts = _columns()
    terms = additive.design_matrix()
    nll = additive.design_rows()["nll"].to_numpy()
    for group in np.unique(groups[train]):
        out = train & (groups == group)
        rest = train & ~out
        found = additive.fit(rest)
        for i in np.flatnonzero(out):
            distance = design_distance(
                families[i],
                scales[i],
                experts[i],
                rest,
            )
            if distance:
                error = nll[i] - terms[i] @ found
                yield Miss(int(i), distance, str(group), float(error))


def design_margins(train: Mask) -> Margins:
    """The half width of an interval at each distance between designs, from the training rows
    alone."""
    by_design = list(design_misses(train, labels().design))
    by_cell = list(design_misses(train, labels().cell))
    return {
        OTHER_DESIGNS: _width(by_design, OTHER_DESIGNS),
        NO_EXPERTS: _width(by_design, NO_EXPERTS),
        OTHER_SCALE: _width(by_cell, OTHER_SCALE),
    }


def _width(misses: list[Miss], distance: str) -> float:
    as_far = [miss for miss in misses if miss.distance == distance]
    return group_quantile([(miss.group, abs(miss.error)) for miss in as_far])


@cache
def cached_design_margins(mask: bytes) -> Margins:
    """`design_margins` of a mask, given as its bytes."""
    return design_margins(np.frombuffer(mask, dtype=bool))
