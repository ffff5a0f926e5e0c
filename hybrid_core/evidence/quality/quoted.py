"""The loss that the paper prints of a design which it trained."""

from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

import pandas as pd

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines

Size = Literal["350M", "1B", "3B"]
# size -> (table, what its rows share, how long they were trained)
TRAINED: dict[Size, tuple[str, str, str]] = {
    "350M": ("table10_350m", "budget == 'data'", "60B tokens at 8K"),
    "1B": ("table09_1b", "budget == 'data'", "60B tokens at 8K"),
    "3B": ("table14_15_scaling", "scale == '3B' and train_flops == 4e20", "4e20 FLOPs at 8K"),
}


class Quoted(NamedTuple):
    """NLL on DCLM as printed, how the design was trained, the table, and the mean accuracy in
    percent where it has one."""

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
    rows: list[tuple[ArchSpec, pd.Series]] = []
    for spec in _of_size(size):
        matching = baselines.matching(spec, table).query(query)
        rows += [(spec, row) for _, row in matching.head(1).iterrows()]
    return tuple(rows)


@cache
def trained_otherwise(size: Size) -> tuple[ArchSpec, ...]:
    """Presets of a size that its table prints, but at no such training: windows with one global
    layer or none, at equal FLOPs only."""
    table, _, _ = TRAINED[size]
    known = {spec.name for spec, _ in trained(size)}
    return tuple(
        spec
        for spec in _of_size(size)
        if spec.name not in known and not baselines.matching(spec, table).empty
    )


def _of_size(size: Size) -> Iterator[ArchSpec]:
    """Presets at the dimensions of a size, without experts and the variants of Tables 18 and 19,
    whose names are longer."""
    for name in presets.names():
        spec = presets.get(name).spec
        if name.endswith(f"-{size.lower()}") and name.count("-") < 3 and baselines.is_papers(spec):
            yield spec


def quoted(spec: ArchSpec) -> Quoted | None:
    """What is printed of this very stack at the paper's dimensions, or None."""
    for size, (table, _, training) in TRAINED.items():
        if baselines.scale(spec) == size and baselines.is_papers(spec):
            for known, row in trained(size):
                if known.pattern == spec.pattern:
                    accuracy = float(row["avg"]) if "avg" in row else None
                    return Quoted(
                        float(row["nll_dclm"]), training, baselines.TABLES[table][0], accuracy
                    )
    return None
