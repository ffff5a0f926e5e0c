"""Recompute every parameter count, FLOPs figure and cache size that the paper prints, and compare
at printed precision.

Each row is turned into the design it describes. A cell agrees if the computed figure rounds to the
printed one. Tokens are printed in whole billions, so a FLOPs cell agrees if any token count within
half a billion does. (The data budget is exactly 60B.) Every cell that disagrees must be listed in
profiles/paper/contradictions.csv with the reason. No formula is tuned to match a printed figure.
"""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import NamedTuple

import pandas as pd

from hybrid_core.costs.model import ModelCosts, model_costs
from hybrid_core.data import PROFILES
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines, errata
from hybrid_core.workload import Workload

Row = dict[str, str]


class Cell(NamedTuple):
    """One printed figure and what the closed forms give. `contradiction`: the key of a known
    difference among `errata.reasons`."""

    table: str
    row: str
    column: str
    printed: str
    computed: float
    agrees: bool
    contradiction: errata.CellKey | None

    @property
    def reason(self) -> str | None:
        """Why the printed and computed figures differ, if known."""
        if self.contradiction is None:
            return None
        return errata.reasons()[self.contradiction]


def check(name: str) -> list[Cell]:
    """Every checkable cell of one table."""
    frame = pd.read_csv(
        PROFILES / "paper" / f"{name}.csv",
        dtype=str,
        keep_default_na=False,
    )
    cells: list[Cell] = []
    for record in frame.to_dict("records"):
        row = {str(column): str(value) for column, value in record.items()}
        cells += _row_cells(name, row)
    return cells


def check_all() -> dict[str, list[Cell]]:
    """The cells of each table, in the paper's order. Tables without a checkable cell are left
    out."""
    found = {name: check(name) for name in ROW_DESIGNS}
    return {name: cells for name, cells in found.items() if cells}


def _row_cells(name: str, row: Row) -> Iterator[Cell]:
    spec = ROW_DESIGNS[name](row)
    if spec is None:
        return
    costs = model_costs(spec)
    context = int(row.get("context_len") or baselines.PAPER_CONTEXT)
    label = _label(name, row)
    counts = baselines.counts(spec)
    layers = "+".join(str(count) for count in counts if count)
    reasons = errata.reasons()
    for column, compute in COLUMNS.items():
        printed = row.get(column)
        if not printed:
            continue
        candidates = compute(costs, row, context)
        if not candidates:
            continue
        agrees = any(rounds_to(value, printed) for value in candidates)
        key = (name, label, counts, column)
        contradiction = None
        if not agrees and key in reasons:
            contradiction = key
        yield Cell(
            name,
            f"{label} {layers}",
            column,
            printed,
            candidates[0],
            agrees,
            contradiction,
        )


# ---------------------------------------------------------------- a row's design


def _counts(row: Row) -> tuple[int, ...]:
    return tuple(int(row.get(column) or 0) for column in baselines.COUNTS)


def _stack(scale: str, counts: tuple[int, ...]) -> ArchSpec:
    """A stack with the paper's dimensions at a scale. The order of its layers does not change any
    cost."""
    base = presets.get(f"llama-{scale.lower()}").spec
    pattern = ""
    for kind, count in zip(baselines.COUNTED.values(), counts, strict=True):
        pattern += kind.entry.letter * count
    return base.replace(n_layers=len(pattern), layers={"pattern": pattern})


def _by_counts(row: Row) -> ArchSpec:
    """The design with a row's scale and layer counts. At 350M the 1:0 intra stack has its own
    widths (Table 20), taken from its preset."""
    scale = row.get("scale") or "1B"
    counts = _counts(row)
    if scale == "350M" and counts == (0, 0, 0, 11):
        return presets.get("intra-1to0-350m").spec
    return _stack(scale, counts)


def _moe(row: Row) -> ArchSpec:
    spec = _by_counts(row)
    if not row["experts"]:
        return spec
    return spec.replace(ffn=presets.get("llama-moe-1b").spec.ffn)


def _homogeneous(row: Row) -> ArchSpec:
    return presets.get(f"{row['model']}-{row['scale'].lower()}").spec


def _dim_ratio(row: Row) -> ArchSpec:
    """Table 20: the Transformer dimension is the query/key width, the Mamba dimension half the
    inner width; heads are concatenated."""
    counts = _counts(row)
    if not counts[3]:
        return _stack(row["scale"], counts)
    base = presets.get(f"intra-1to0-{row['scale'].lower()}").spec
    assert base.intra
    intra = base.intra.model_dump(exclude_none=True)
    widths = {
        "qk_head_dim": int(row["dim_transformer"]) // base.intra.n_heads,
        "d_ssm": 2 * int(row["dim_mamba"]),
        "fusion": "concat",
        "out": "joint",
    }
    return base.replace(intra=intra | widths)


def _variant(row: Row) -> ArchSpec:
    """Tables 18 and 19: every row has a preset. Its name lists its axes, unless it is the paper's
    final choice."""
    scale = row["scale"].lower()
    if not row["module"]:
        return presets.get(f"{row['model']}-{scale}").spec
    if row["module"] != "T/M":
        kind = row["module"][0].lower()
        added = ""
        if row["fusion"] == "add":
            added = "-add"
        return presets.get(f"diff-{kind}{added}-{scale}").spec
    fusion = row["fusion"].replace("conc", "concat")
    value = row["value"].replace("joint", "shared")
    words = (
        row["norm"],
        row["scalar"],
        fusion,
        value,
        row["out"],
    )
    axes = "-".join(words)
    if axes == "group-none-diff-sep-sep":
        axes = "1to0"
    return presets.get(f"intra-{axes}-{scale}").spec


# Tables whose rows have parameters, FLOPs or a cache, and how to turn a row into a design.
ROW_DESIGNS: dict[str, Callable[[Row], ArchSpec | None]] = {
    "table04_moe": _moe,
    "table08_configs": _homogeneous,
    "table09_1b": _by_counts,
    "table10_350m": _by_counts,
    "table11_swa_position": _by_counts,
    "table12_long_context": _by_counts,
    "table13_throughput": _by_counts,
    "table14_15_scaling": _by_counts,
    "table17_inter_position": _by_counts,
    "table18_19_intra_variants": _variant,
    "table20_dim_ratio": _dim_ratio,
    "table21_intra_position": _by_counts,
}


def _label(name: str, row: Row) -> str:
    """A row's name in the list of contradictions: its model, or what identifies the row if no model
    is printed."""
    if name == "table20_dim_ratio":
        return f"{row['scale']} {row['dim_transformer']}/{row['dim_mamba']}"
    if name == "table14_15_scaling":
        return f"{row['model']} {row['scale']}"
    if name == "table18_19_intra_variants":
        return f"{row['module'] or row['model']} {row['scale']}"
    if name == "table11_swa_position":
        return "swa"
    if name == "table21_intra_position":
        return "intra"
    return row.get("model") or row["scale"]


# ---------------------------------------------------------------- a cell's figure


def _depth(costs: ModelCosts, row: Row, context: int) -> list[float]:
    return [float(costs.spec.n_layers)]


def _non_embedding(costs: ModelCosts, row: Row, context: int) -> list[float]:
    return [costs.params().non_embedding / 1e9]


def _embedding(costs: ModelCosts, row: Row, context: int) -> list[float]:
    return [costs.params().embedding / 1e9]


def _active(costs: ModelCosts, row: Row, context: int) -> list[float]:
    params = costs.params()
    return [(params.active - params.embedding) / 1e9]


def _train_flops(costs: ModelCosts, row: Row, context: int) -> list[float]:
    """Total training FLOPs at the printed tokens. If those are rounded, also at up to half a
    billion tokens to either side."""
    if not row.get("tokens_b"):
        return []
    tokens = float(row["tokens_b"])
    per_token = float(costs.train_flops_per_token(context, "paper"))
    offsets = [0.0]
    if tokens != 60:  # the data budget is exact
        for tenths in range(1, 6):
            offsets += [-tenths / 10, tenths / 10]
    return [(tokens + offset) * 1e9 * per_token for offset in offsets]


def _cache_mib(costs: ModelCosts, row: Row, context: int) -> list[float]:
    n_bytes = costs.cache_bytes(context, "paper", Workload())
    return [float(n_bytes) / 2**20]


# From the costs of a row's design, the row and its context.
Figures = Callable[[ModelCosts, Row, int], list[float]]
# column -> the values that its printed figure may stand for, the likeliest first
COLUMNS: dict[str, Figures] = {
    "n_layers": _depth,
    "n_emb_b": _non_embedding,
    "emb_b": _embedding,
    "active_b": _active,
    "total_b": _non_embedding,
    "train_flops": _train_flops,
    "cache_mib": _cache_mib,
}


def rounds_to(value: float, printed: str) -> bool:
    """Whether `value` rounds to the printed figure: to its significant digits if printed like
    4.5e20, else to its decimals."""
    figure = Decimal(printed)
    if "e" in printed.lower():
        decimals = len(figure.as_tuple().digits) - 1
        return f"{value:.{decimals}e}" == f"{float(figure):.{decimals}e}"
    decimals = max(0, -int(figure.as_tuple().exponent))
    return f"{value:.{decimals}f}" == printed
