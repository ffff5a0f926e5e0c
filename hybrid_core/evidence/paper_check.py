"""Recompute every parameter count, FLOPs figure and cache size that the paper prints, at printed
precision.

A row becomes the design that it describes; a cell agrees when the computed figure rounds to the
print. A row's tokens are themselves rounded to a billion, so a FLOPs cell agrees if any token count
within half a billion does (the data budget is exactly 60B). What does not agree must be in
profiles/paper/contradictions.csv, which says why; nothing is tuned to fit."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import pandas as pd

from hybrid_core.costs.model import ModelCosts, model_costs
from hybrid_core.data import PROFILES
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines, errata
from hybrid_core.workload import Workload

Row = dict[str, str]
PAPER_CONTEXT = 8192


class Cell(NamedTuple):
    """One printed figure and what the closed forms give. `contradiction` is the key under which a
    difference is explained."""

    table: str
    row: str
    column: str
    printed: str
    computed: float
    agrees: bool
    contradiction: errata.CellKey | None

    @property
    def reason(self) -> str | None:
        """Why print and formula differ, where that is known."""
        return errata.reasons()[self.contradiction] if self.contradiction else None


def check(name: str) -> list[Cell]:
    """Every checkable cell of one table."""
    frame = pd.read_csv(PROFILES / "paper" / f"{name}.csv", dtype=str, keep_default_na=False)
    return [
        cell
        for row in frame.to_dict("records")
        for cell in _row_cells(name, {str(k): str(v) for k, v in row.items()})
    ]


def check_all() -> dict[str, list[Cell]]:
    """Table by table, in the paper's order; tables without a checkable cell are left out."""
    return {name: cells for name in ROW_DESIGNS if (cells := check(name))}


def _row_cells(name: str, row: Row) -> Iterator[Cell]:
    spec = ROW_DESIGNS[name](row)
    if spec is None:
        return
    costs, context = model_costs(spec), int(row.get("context_len") or PAPER_CONTEXT)
    label, counts = _label(name, row), baselines.counts(spec)
    for column, compute in COLUMNS.items():
        if not row.get(column):
            continue
        if not (candidates := compute(costs, row, context)):
            continue
        agrees = any(rounds_to(value, row[column]) for value in candidates)
        key = (name, label, counts, column)
        known = key if not agrees and key in errata.reasons() else None
        yield Cell(
            name,
            f"{label} {'+'.join(str(n) for n in counts if n)}",
            column,
            row[column],
            candidates[0],
            agrees,
            known,
        )


# ---------------------------------------------------------------- a row's design


def _counts(row: Row) -> tuple[int, ...]:
    return tuple(int(row.get(column) or 0) for column in baselines.COUNTS)


def _stack(scale: str, counts: tuple[int, ...]) -> ArchSpec:
    """Layers of the paper's dimensions at a scale; their order does not change any cost."""
    base = presets.get(f"llama-{scale.lower()}").spec
    pattern = "".join(letter * n for letter, n in zip("ASMH", counts, strict=True))
    return base.replace(n_layers=len(pattern), layers={"pattern": pattern})


def _by_counts(row: Row) -> ArchSpec:
    """Scale and counts; at 350M the 1:0 intra stack has widths of its own (Table 20), which its
    preset carries."""
    scale, counts = row.get("scale") or "1B", _counts(row)
    if scale == "350M" and counts == (0, 0, 0, 11):
        return presets.get("intra-1to0-350m").spec
    return _stack(scale, counts)


def _moe(row: Row) -> ArchSpec:
    spec = _by_counts(row)
    return spec.replace(ffn=presets.get("llama-moe-1b").spec.ffn) if row["experts"] else spec


def _homogeneous(row: Row) -> ArchSpec:
    return presets.get(f"{row['model']}-{row['scale'].lower()}").spec


def _dim_ratio(row: Row) -> ArchSpec:
    """Table 20: the Transformer's dimension is the query/key width, the Mamba's half its inner
    width; heads are concatenated."""
    base = presets.get(f"intra-1to0-{row['scale'].lower()}").spec
    counts, d_qk, d_ssm = _counts(row), int(row["dim_transformer"]), 2 * int(row["dim_mamba"])
    if not counts[3]:
        return _stack(row["scale"], counts)
    assert base.intra
    widths = {
        "qk_head_dim": d_qk // base.intra.n_heads,
        "d_ssm": d_ssm,
        "fusion": "concat",
        "out": "joint",
    }
    return base.replace(intra=base.intra.model_dump(exclude_none=True) | widths)


def _variant(row: Row) -> ArchSpec:
    """Tables 18 and 19: every row has a preset, which is called by its axes unless it is the final
    choice."""
    scale = row["scale"].lower()
    if not row["module"]:
        return presets.get(f"{row['model']}-{scale}").spec
    if row["module"] != "T/M":
        return presets.get(
            f"diff-{row['module'][0].lower()}{'-add' if row['fusion'] == 'add' else ''}-{scale}"
        ).spec
    fusion, value = row["fusion"].replace("conc", "concat"), row["value"].replace("joint", "shared")
    axes = "-".join((row["norm"], row["scalar"], fusion, value, row["out"]))
    return presets.get(
        f"intra-{'1to0' if axes == 'group-none-diff-sep-sep' else axes}-{scale}"
    ).spec


# Tables whose rows have parameters, FLOPs or a cache, and how a row becomes a design.
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
    """What a row is called in the list of contradictions: its model, or what tells it apart where no model is
    printed."""
    if name == "table20_dim_ratio":
        return f"{row['scale']} {row['dim_transformer']}/{row['dim_mamba']}"
    if name == "table14_15_scaling":
        return f"{row['model']} {row['scale']}"
    if name == "table18_19_intra_variants":
        return f"{row['module'] or row['model']} {row['scale']}"
    only = {"table11_swa_position": "swa", "table21_intra_position": "intra"}
    return only.get(name) or row.get("model") or row["scale"]


# ---------------------------------------------------------------- a cell's figure


def _train_flops(costs: ModelCosts, row: Row, context: int) -> list[float]:
    """Total training FLOPs at the printed tokens, and at half a billion tokens to either side where
    those are rounded."""
    if not row.get("tokens_b"):
        return []
    tokens = float(row["tokens_b"])
    spread = (0.0,) if tokens == 60 else tuple(step / 10 for step in range(-5, 6))
    per_token = float(costs.train_flops_per_token(context, "paper"))
    return [(tokens + off) * 1e9 * per_token for off in sorted(spread, key=abs)]


def _cache_mib(costs: ModelCosts, row: Row, context: int) -> list[float]:
    return [float(costs.cache_bytes(context, "paper", Workload())) / 2**20]


COLUMNS: dict[str, Callable[[ModelCosts, Row, int], list[float]]] = {
    "n_layers": lambda costs, row, context: [float(costs.spec.n_layers)],
    "n_emb_b": lambda costs, row, context: [costs.params().non_embedding / 1e9],
    "emb_b": lambda costs, row, context: [costs.params().embedding / 1e9],
    "active_b": lambda costs, row, context: [
        (costs.params().active - costs.params().embedding) / 1e9
    ],
    "total_b": lambda costs, row, context: [costs.params().non_embedding / 1e9],
    "train_flops": _train_flops,
    "cache_mib": _cache_mib,
}


def rounds_to(value: float, printed: str) -> bool:
    """Whether `value` rounds to the printed figure: as many significant digits for 4.5e20, as many
    decimals otherwise."""
    print_ = Decimal(printed)
    digits, exponent = print_.as_tuple().digits, int(print_.as_tuple().exponent)
    if "e" in printed.lower():
        return f"{value:.{len(digits) - 1}e}" == f"{float(print_):.{len(digits) - 1}e}"
    return f"{value:.{max(0, -exponent)}f}" == printed


# ---------------------------------------------------------------- speed


def throughput_ratios() -> tuple[dict[str, Any], ...]:
    """Table 13's tokens/s beside the roofline's ceiling for the H200 that it was measured on, per
    preset that it has and total length.

    Another code base measured them, so nothing is fitted: the ratio says how far that code was from
    the ceiling."""
    return tuple(
        row
        for name in presets.ordered()
        for row in baselines.beside_ceiling(presets.get(name).spec)
    )
