"""The rows that a rule cites, and the designs that they stand for."""

from typing import Any, Literal, NamedTuple

import pandas as pd

from hybrid_core.evidence import baselines, errata
from hybrid_core.evidence.advice.facts import Axes, Facts, Scale, Scenario, scenario
from hybrid_core.evidence.throughput import TOTALS
from hybrid_core.validation import Frozen

Direction = Literal["lower", "higher", "equal"]
# Ratios are rounded to whole layers: 1:5 is 2 of 13 and 2 of 11 layers in the rows.
SHARE_SLACK = 1.1


class Shape(NamedTuple):
    """What a row and a stack must share for the row to stand for the stack. `axes`: the block's, if
    the row comes from a table of blocks."""

    family: str
    share: float  # of layers that are attention or intra-hybrid
    several: bool  # whether there is more than one of them
    axes: Axes | None = None

    def is_like(self, known: Facts) -> bool:
        """Whether a design with these facts resembles the row's design."""
        share = known.share_with_attention
        if share is None:
            return False
        if self.family != known.family or self.several != known.several_with_attention:
            return False
        names_axes = self.axes is not None
        if names_axes and self.axes != known.intra_axes:
            return False
        if self.share == 1:  # even one Mamba layer makes it a different design
            return share == 1
        return self.share / SHARE_SLACK <= share <= self.share * SHARE_SLACK


# Tables of stacks with intra-hybrid blocks only.
_BLOCKS = {"table06_intra_summary", "table18_19_intra_variants", "table20_dim_ratio"}
_FAMILY = {
    "table11_swa_position": "swa",
    "table17_inter_position": "inter",
    "table21_intra_position": "intra",
}
# printed in Tables 6, 18 and 19 -> the spec's term
_WORDS = {
    "conc": "concat",
    "sep": "separate",
    "1": "joint",
    "2": "separate",
    "nan": "none",
}


def _axes(table: str, row: pd.Series) -> Axes:
    """The axes of a row in a table of blocks, in the spec's terms."""
    printed = errata.not_printed(table) | row.to_dict()
    words = {}
    for axis, printed_word in printed.items():
        word = str(printed_word)
        words[axis] = _WORDS.get(word, word)
    value = "separate"
    if printed["value"] == "joint":
        value = "shared"
    return (
        words["norm"],
        words["scalar"],
        words["fusion"],
        value,
        words["out"],
    )


def _shape(table: str, row: pd.Series) -> Shape | None:
    """The shape of a row's design; None where the table prints no layers."""
    if table in _BLOCKS:
        return Shape("intra", 1.0, True, _axes(table, row))
    if not set(baselines.COUNTS) & set(row.index):
        return None
    printed = [int(row.get(column, 0)) for column in baselines.COUNTS]
    layers = errata.meant_layers(table, tuple(printed))
    attn, _, _, hyb = layers
    family = _FAMILY.get(table) or str(row["model"])
    if family == "swa" and not attn:
        family = "window"
    n_with_attention = attn + hyb
    share = n_with_attention / sum(layers)
    return Shape(family, share, several=n_with_attention > 1)


Picked = dict[str, str | float | None]  # column -> wanted value; null: nothing printed


class Evidence(Frozen):
    """Two rows of a table, each selected by column values, and the printed cells to compare with
    their order."""

    table: str
    rows: tuple[Picked, Picked]
    cells: dict[str, tuple[float, Direction, float]]

    def found(self) -> list[pd.DataFrame]:
        """The rows that each selector picks. The tests check that it is one each."""
        return [self._picked(picked) for picked in self.rows]

    def _picked(self, picked: Picked) -> pd.DataFrame:
        frame = baselines.table(self.table)
        mask = pd.Series(True, index=frame.index)
        for column, value in picked.items():
            if value is None:
                mask &= frame[column].isna()
            else:
                mask &= frame[column] == value
        return frame[mask]

    def shape(self, side: int) -> Shape | None:
        """The shape of the first (0) or second (1) row."""
        rows = self.found()[side]
        return _shape(self.table, rows.iloc[0])

    @property
    def source(self) -> str:
        """`Table 17` or `Tables 18 and 19`."""
        number, _ = baselines.TABLES[self.table]
        if " and " in number:
            return f"Tables {number}"
        return f"Table {number}"

    @property
    def sort(self) -> str:
        """`speed` if the cells come from Table 13, else `quality`."""
        if self.table == "table13_throughput":
            return "speed"
        return "quality"

    @property
    def scale(self) -> Scale:
        """The scale of both rows. Tables without a scale column hold 1B models."""
        scale: Scale = self._first().get("scale", "1B")
        return scale

    @property
    def scenarios(self) -> set[Scenario]:
        """The uses that the rows stand for."""
        if self.sort == "speed":
            lengths = [n for key, n in TOTALS.items() if f"tput_{key}" in self.cells]
            return set(map(scenario, lengths))
        trained = int(self._first().get("context_len", baselines.PAPER_CONTEXT))
        if trained == baselines.PAPER_CONTEXT:
            return {"short", "medium"}
        return {scenario(trained)}

    def _first(self) -> Any:
        return self.found()[0].iloc[0]
