"""The loss that the paper prints for a design that it trained."""

from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

import pandas as pd

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines

Size = Literal["350M", "1B", "3B"]
# size -> (table, filter for its rows, how long they were trained)
TRAINED: dict[Size, tuple[str, str, str]] = {
    "350M": ("table10_350m", "budget == 'data'", "60B tokens at 8K"),
    "1B": ("table09_1b", "budget == 'data'", "60B tokens at 8K"),
    "3B": ("table14_15_scaling", "scale == '3B' and train_flops == 4e20", "4e20 FLOPs at 8K"),
}


class Quoted(NamedTuple):
    """NLL on DCLM as printed, how the design was trained, the table, and the mean accuracy in
    percent where the table has one."""

    nll: float
    training: str
    table: str
    accuracy: float | None = None

    def __str__(self) -> str:
        return f"{self.nll:.3f} (quoted, {self.training}, Table {self.table})"


@cache
def trained(size: Size) -> tuple[tuple[ArchSpec, pd.Series], ...]:
    """Presets of a size with the row that prints their loss."""
    table, query, _ = TRAINED[size]
    found: list[tuple[ArchSpec, pd.Series]] = []
    for spec in _of_size(size):
        rows = baselines.matching(spec, table).query(query)
        if len(rows):
            found.append((spec, rows.iloc[0]))
    return tuple(found)


@cache
def trained_otherwise(size: Size) -> tuple[ArchSpec, ...]:
    """Presets of a size that its table prints only at other training: windows with one global layer
    or none, at equal FLOPs."""
    table, _, _ = TRAINED[size]
    known = {spec.name for spec, _ in trained(size)}
    others = [spec for spec in _of_size(size) if spec.name not in known]
    return tuple(spec for spec in others if not baselines.matching(spec, table).empty)


def _of_size(size: Size) -> Iterator[ArchSpec]:
    """Presets with the dimensions of a size. Left out: those with experts, and the variants of
    Tables 18 and 19, whose names are longer."""
    for name in presets.names():
        spec = presets.get(name).spec
        of_size = name.endswith(f"-{size.lower()}")
        variant = name.count("-") >= 3
        if of_size and not variant and baselines.is_papers(spec):
            yield spec


def quoted(spec: ArchSpec) -> Quoted | None:
    """What the paper prints for exactly this stack at the paper's dimensions, or None."""
    if not baselines.is_papers(spec):
        return None
    for size, (table, _, training) in TRAINED.items():
        if baselines.scale(spec) != size:
            continue
        for known, row in trained(size):
            if known.pattern == spec.pattern:
                number, _ = baselines.TABLES[table]
                return Quoted(
                    float(row["nll_dclm"]),
                    training,
                    number,
                    printed_accuracy(row),
                )
    return None


def printed_accuracy(row: pd.Series) -> float | None:
    """Mean accuracy of a row in percent, or None if its table has none."""
    if "avg" not in row:
        return None
    return float(row["avg"])
