"""A chart as data and as text."""

import csv
import io
import re
from html import unescape
from typing import Any

from hybrid_core.report.figures import style


def data(figure: style.Figure) -> list[tuple[Any, ...]]:
    """The data of a chart: the names of the columns, then one row per point or cell."""
    layout = figure["layout"]
    x = _axis_title(layout["xaxis"]) or "x"
    y = _axis_title(layout["yaxis"]) or "y"
    # Columns of bars side by side have the series' name on their axes.
    x = layout["meta"].get("unit", x)
    y = layout["meta"].get("rows", y)
    kinds = {trace["type"] for trace in figure["data"]}
    rows: list[tuple[Any, ...]] = [("series", x, y)]
    if "heatmap" in kinds:
        rows = [(x, y, "share")]
    for trace in figure["data"]:
        rows += _points(trace)
    return rows


def _axis_title(axis: dict[str, Any]) -> str:
    title = axis.get("title", {})
    return _words(title.get("text"))


def table(figure: style.Figure) -> str:
    """The same as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(data(figure))
    return text.getvalue()


def _points(trace: dict[str, Any]) -> list[tuple[Any, ...]]:
    if trace["type"] == "heatmap":
        return _cells(trace)
    name = unescape(trace.get("name") or "")
    xs = map(_plain, trace["x"])
    ys = map(_plain, trace["y"])
    return [(name, x, y) for x, y in zip(xs, ys, strict=True)]


def _cells(trace: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The cells of a heat map, row by row."""
    cells = []
    for y, row in zip(trace["y"], trace["z"], strict=True):
        for x, cell in zip(trace["x"], row, strict=True):
            cells.append((x, y, cell))
    return cells


def told(figure: style.Figure) -> str:
    """A chart as text, for someone who cannot see it: its title, and where each series starts and
    ends."""
    lines = [style.title(figure)]
    for trace in figure["data"]:
        named = trace.get("showlegend") is not False
        if named and len(trace["y"]):
            lines.append(_told_of(trace))
    return ". ".join(filter(None, lines))


MOST_TOLD = 10  # bars of a series


def _told_of(trace: dict[str, Any]) -> str:
    """One series as text."""
    if trace["type"] == "heatmap":
        return _told_of_cells(trace)
    name = _words(trace.get("name"))
    xs = list(trace["x"])
    ys = list(trace["y"])
    if trace["type"] == "bar":
        bars = []
        for x, y in zip(xs[:MOST_TOLD], ys[:MOST_TOLD], strict=True):
            bars.append(f"{_words(str(y))} {_said(x)}")
        return f"{name}: {', '.join(bars)}"
    first = f"{_said(ys[0])} at {_said(xs[0])}"
    last = f"{_said(ys[-1])} at {_said(xs[-1])}"
    return f"{name}: {first}, {last}"


def _told_of_cells(trace: dict[str, Any]) -> str:
    every = [cell for _, _, cell in _cells(trace)]
    cells = [cell for cell in every if cell is not None]
    if not cells:
        return "no cells yet"
    least = _said(min(cells))
    most = _said(max(cells))
    return f"{len(cells)} cells, from {least} to {most}"


def _words(html: str | None) -> str:
    """Text without markup."""
    on_one_line = (html or "").replace("<br>", " ")
    without_tags = re.sub(r"<[^>]+>", "", on_one_line)
    return unescape(without_tags).strip()


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _words(value)
    return value


def _said(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (int, float)):
        return f"{value:,.4g}"
    return str(value)
