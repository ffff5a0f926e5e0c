"""What the evidence says, as text: `cost --quality`, `advice`, `quality`, `paper-check`."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from hybrid_core.evidence.advice.advise import Advice
from hybrid_core.evidence.baselines import COUNTS, TABLES
from hybrid_core.evidence.paper_check import Cell
from hybrid_core.evidence.quality.quoted import Quoted
from hybrid_core.report import units
from hybrid_core.report.text.tables import table

Rows = Iterator[tuple[str, ...]]


def quality_lines(found: dict[str, Any]) -> str:
    """What `cost --quality` adds: the NLL printed for the design, the estimate, and the nearest
    printed rows."""
    lines = []
    if found["quoted"]:
        lines.append(f"NLL {Quoted(**found['quoted'])}")
    if found["estimate"]:
        lines.append(_estimate(found["estimate"]))
    else:
        outside = found["outside_the_papers_range"]
        lines.append(f"no estimate of NLL, outside the paper's range: {outside}")
    nearest = table(list(_nearest(found["nearest"])))
    paragraphs = ["\n".join(lines), nearest]
    if found["unlike_the_papers"]:
        paragraphs.append(found["unlike_the_papers"])
    return "\n\n".join(paragraphs)


def _estimate(found: dict[str, Any]) -> str:
    span = f"{found['low']:.3f} to {found['high']:.3f} ({found['coverage']:.0%})"
    tokens = units.count(found["tokens"])
    basis = f"{found['convention']} ({found['basis']}; from {found['rests_on']})"
    return f"NLL {found['nll']:.3f} nats per token, {span}, at {tokens} tokens: {basis}"


def _nearest(nearest: Sequence[dict[str, Any]]) -> Rows:
    head = ("attn", "window", "Mamba", "intra", "NLL", "accuracy", "table")
    yield ("nearest rows (60B tokens)", *head)
    for row in nearest:
        counts = [str(row[key]) for key in COUNTS]
        yield (
            f"  {row['model']} {row['scale']}",
            *counts,
            f"{row['nll_dclm']:.3f}",
            f"{row['avg']:.1f} %",
            f"{row['table']}, quoted",
        )


def advice_lines(name: str, given: Sequence[Advice]) -> str:
    """What `advice` prints: one paragraph per rule, with the setting that it is about and its
    source."""
    if not given:
        none = "the paper's tables suggest no change"
        return f"{name}: {none}, as far as they have rows for such a size and context"
    paragraphs = [f"{name}, {given[0].scenario} context"]
    for advice in given:
        rule = advice.rule
        paragraphs.append(f"{rule.kind}, {rule.control}: {rule.text} [{advice.sources}]")
    wrapper = textwrap.TextWrapper(110, subsequent_indent="  ")
    return "\n".join(map(wrapper.fill, paragraphs))


def throughput_ratio_table(rows: Sequence[dict[str, Any]]) -> str:
    """Table 13 next to the roofline of its device, and their ratio."""
    head = ("total length", "printed", "predicted ceiling", "printed / predicted")
    lines = [("Table 13, one H200", *head)]
    for row in rows:
        line = (
            row["name"],
            units.length(row["total_len"]),
            units.rate(row["paper_tokens_per_s"]),
            units.rate(row["predicted_tokens_per_s"]),
            f"{row['ratio']:.2f}",
        )
        lines.append(line)
    return table(lines)


# ---------------------------------------------------------------- scaling laws and estimates

LAWS = "NLL = E + A / (parameters in B)^alpha + B / (tokens in B)^beta, from Tables 14 and 15"
SLOPES = (
    "Compute-optimal size against FLOPs; tokens per parameter from the smallest to the largest "
    "budget"
)
ERRORS = (
    "NLL without the row itself; baseline: the mean of the other rows of its family, scale and "
    "kind of budget"
)
WIDTHS = (
    "Half the width of an estimate's 90 % interval, by what the estimate rests on; what a law adds "
    "comes on top"
)
COVERAGE = (
    "Rows inside such intervals, predicted and with widths set without them; share with its "
    "exact 95 % interval"
)


def quality_table(found: dict[str, Any]) -> str:
    """What `quality` prints: fits and optima with 90 % intervals, leave-one-out errors next to
    their baseline, and how many rows lie within the intervals of their estimates."""
    parts = {
        LAWS: _laws(found["laws"]),
        SLOPES: _slopes(found["slopes"]),
        ERRORS: _errors(found["accuracy"]),
        WIDTHS: _widths(found["widths"]),
        COVERAGE: _coverage(found["coverage"]),
    }
    paragraphs = []
    for title, rows in parts.items():
        paragraphs.append(f"{title}\n{table(list(rows))}")
    each_error = table(list(_each_error(found["leave_one_out"])))
    paragraphs.append(each_error)
    return "\n\n".join(paragraphs)


def _interval(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.2f} ({row[f'{key}_low']:.2f} to {row[f'{key}_high']:.2f})"


CONSTANTS = ("irreducible", "a", "b", "alpha", "beta")


def _laws(laws: Sequence[dict[str, Any]]) -> Rows:
    yield "family", "E", "A", "B", "alpha", "beta", "mean error"
    for row in laws:
        constants = [_interval(row, key) for key in CONSTANTS]
        yield row["family"], *constants, f"{row['mean_error']:.3f}"


def _slopes(slopes: Sequence[dict[str, Any]]) -> Rows:
    by_law = ("by the law: N ~ FLOPs^", "tokens/parameter")
    yield "family", "N ~ FLOPs^", "D ~ FLOPs^", "tokens/parameter", *by_law
    for row in slopes:
        yield (
            row["family"],
            _interval(row, "params_exponent"),
            _interval(row, "tokens_exponent"),
            _first_to_last(row, "tokens_per_param"),
            _interval(row, "law_params_exponent"),
            _first_to_last(row, "law_tokens_per_param"),
        )


def _first_to_last(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.0f} ({row[f'{key}_first']:.0f} to {row[f'{key}_last']:.0f})"


def _errors(accuracy: Sequence[dict[str, Any]]) -> Rows:
    over_baseline_rows = ("with baseline", "mean error", "baseline's")
    yield "rows", "number", "mean error", "largest", *over_baseline_rows
    for row in accuracy:
        yield (
            row["kind"],
            str(row["rows"]),
            f"{row['mean_error']:.4f}",
            f"{row['largest']:.4f}",
            str(row["rows_with_baseline"]),
            f"{row['mean_error_there']:.4f}",
            f"{row['baseline_mean_error']:.4f}",
        )


def _widths(widths: Sequence[dict[str, Any]]) -> Rows:
    yield "it rests on", "half (nats)"
    for row in widths:
        yield row["rests_on"], f"{row['half']:.4f}"


def _coverage(counted: Sequence[dict[str, Any]]) -> Rows:
    counts = ("rows", "inside", "share", "95 % interval", "mean half")
    yield "left out", "family", "scale", *counts
    for row in counted:
        left_out = row["left_out"]
        if row["kind"] != "all":
            left_out = f"{row['kind']}, {left_out}"
        yield (
            left_out,
            row["family"],
            row["scale"],
            str(row["n"]),
            str(row["covered"]),
            f"{row['share']:.0%}",
            f"{row['low']:.0%} to {row['high']:.0%}",
            f"{row['mean_half']:.3f}",
        )


def _each_error(errors: Sequence[dict[str, Any]]) -> Rows:
    numbers = ("printed", "predicted", "error", "baseline's error")
    yield "family", "scale", "layers", "tokens", "table", *numbers
    for row in errors:
        layers = row["pattern"] or ""
        if row["experts"]:
            layers += ", experts"
        baseline = ""
        if row["baseline_error"] is not None:
            baseline = f"{row['baseline_error']:+.3f}"
        yield (
            row["family"],
            row["scale"],
            layers,
            f"{row['tokens'] / 1e9:.1f}B",
            row["table"],
            f"{row['nll']:.3f}",
            f"{row['predicted']:.3f}",
            f"{row['error']:+.3f}",
            baseline,
        )


# ---------------------------------------------------------------- the paper's cells


def paper_check_table(tables: dict[str, list[Cell]]) -> str:
    """Per table: cells, matches, and each mismatch with its reason."""
    rows = [("table", "cells", "match", "explained", "unexplained")]
    mismatches = [("table", "row", "column", "printed", "computed", "why")]
    every: list[Cell] = []
    for name, cells in tables.items():
        every += cells
        number, _ = TABLES[name]
        rows.append(_counted(number, cells))
        for cell in cells:
            if not cell.agrees:
                mismatches.append(_mismatch(number, cell))
    rows.append(_counted("all", every))
    return table(rows) + "\n\n" + table(mismatches)


def _counted(name: str, cells: Sequence[Cell]) -> tuple[str, str, str, str, str]:
    wrong = [cell for cell in cells if not cell.agrees]
    explained = [cell for cell in wrong if cell.reason]
    return (
        name,
        str(len(cells)),
        str(len(cells) - len(wrong)),
        str(len(explained)),
        str(len(wrong) - len(explained)),
    )


def _mismatch(number: str, cell: Cell) -> tuple[str, str, str, str, str, str]:
    return (
        number,
        cell.row,
        cell.column,
        cell.printed,
        f"{cell.computed:.4g}",
        cell.reason or "UNEXPLAINED",
    )
