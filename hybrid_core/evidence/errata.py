"""Where the paper disagrees with itself: cells that its own formulas do not reproduce, and
misprints.

Both are data: one line per cell with what is printed, what is right, the reason, and its source
(profiles/paper/contradictions.csv and misprints.csv). A contradiction only explains a difference. A
misprint also says how to read the row.
"""

import csv
from functools import cache
from typing import NamedTuple

from hybrid_core.data import PROFILES

Layers = tuple[int, ...]  # attention, window, Mamba and intra-hybrid layers
CellKey = tuple[str, str, Layers, str]  # table, row, layers, column


class Contradiction(NamedTuple):
    """A printed figure that the paper's own formulas and dimensions do not reproduce.

    `row`: the model; in Table 14 with its scale, in Tables 18 and 19 the two modules and the scale,
    in Table 20 the scale and the widths. `computed`: with one digit more than printed."""

    table: str
    row: str
    layers: Layers
    column: str
    printed: str
    computed: str
    reason: str
    source: str

    @property
    def key(self) -> CellKey:
        """The key of the cell. Rows that repeat a cell share it."""
        return self.table, self.row, self.layers, self.column


class Misprint(NamedTuple):
    """A cell to read as `right` instead of as printed. `printed` is empty if the table prints
    nothing, `right` if the right value is not known. Layers are written as `0+0+10+2`."""

    table: str
    scale: str
    column: str
    printed: str
    right: str
    reason: str
    source: str


def _lines(name: str) -> list[dict[str, str]]:
    text = (PROFILES / "paper" / f"{name}.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def contradictions() -> tuple[Contradiction, ...]:
    """Every listed contradiction, in the order of the tables."""
    found = []
    for line in _lines("contradictions"):
        kinds = ("n_attn", "n_swa", "n_ssm", "n_hyb")
        layers = tuple(int(line.pop(kind)) for kind in kinds)
        found.append(Contradiction(layers=layers, **line))
    return tuple(found)


@cache
def reasons() -> dict[CellKey, str]:
    """Why a cell differs from the formula, by cell."""
    return {known.key: known.reason for known in contradictions()}


@cache
def misprints() -> tuple[Misprint, ...]:
    """Every listed misprint, in the order of the tables."""
    return tuple(Misprint(**line) for line in _lines("misprints"))


@cache
def _meant_layers() -> dict[tuple[str, Layers], Layers]:
    found = {}
    for known in misprints():
        if known.column == "layers":
            key = (known.table, _layers(known.printed))
            found[key] = _layers(known.right)
    return found


def _layers(written: str) -> Layers:
    return tuple(int(count) for count in written.split("+"))


def meant_layers(table: str, printed: Layers) -> Layers:
    """The layers that a row means: those printed, unless they are a misprint."""
    return _meant_layers().get((table, printed), printed)


@cache
def has_no_loss(table: str, scale: str, column: str, printed: str) -> bool:
    """Whether a row prints the losses of another design, so that its own are unknown. One of its
    cells identifies the row."""
    for known in misprints():
        cell = (known.table, known.scale, known.column, known.printed)
        if not known.right and cell == (table, scale, column, printed):
            return bool(printed)
    return False


@cache
def not_printed(table: str) -> dict[str, str]:
    """Columns that a table does not print -> their value in all of its rows."""
    found = {}
    for known in misprints():
        if known.table == table and not known.printed:
            found[known.column] = known.right
    return found
