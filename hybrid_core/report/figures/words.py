"""A chart without looking at it: its data and its words."""

import csv
import io
import re
from html import unescape
from typing import Any

from hybrid_core.report.figures import style


def data(figure: style.Figure) -> list[tuple[Any, ...]]:
    """What a chart shows: the names of its columns, then one row a point or cell."""
    layout = figure["layout"]
    x = _words(layout["xaxis"].get("title", {}).get("text")) or "x"
    y = _words(layout["yaxis"].get("title", {}).get("text")) or "y"
    # Of columns beside each other an axis has the series' name.
    x = layout["meta"].get("unit", x)
    y = layout["meta"].get("rows", y)
    rows: list[tuple[Any, ...]] = [("series", x, y)]
    if any(trace["type"] == "heatmap" for trace in figure["data"]):
        rows = [(x, y, "share")]
    for trace in figure["data"]:
        rows += _points(trace)
    return rows


def table(figure: style.Figure) -> str:
    """The same as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(data(figure))
    return text.getvalue()


def _points(trace: dict[str, Any]) -> list[tuple[Any, ...]]:
    if trace["type"] == "heatmap":
        cells = []
        for y, row in zip(trace["y"], trace["z"], strict=True):
            cells += [(x, y, cell) for x, cell in zip(trace["x"], row, strict=True)]
        return cells
    name = unescape(trace.get("name") or "")
    return [(name, _plain(x), _plain(y)) for x, y in zip(trace["x"], trace["y"], strict=True)]


def told(figure: style.Figure) -> str:
    """A chart in words, for who cannot see it: its title, and where each series starts and ends."""
    lines = [style.title(figure)]
    for trace in figure["data"]:
        if trace.get("showlegend") is not False and len(trace["y"]):
            lines.append(_told_of(trace))
    return ". ".join(line for line in lines if line)


MOST_TOLD = 10  # bars of a series


def _told_of(trace: dict[str, Any]) -> str:
    """One series in words."""
    if trace["type"] == "heatmap":
        return _told_of_cells(trace)
    name = _words(trace.get("name"))
    xs = list(trace["x"])
    ys = list(trace["y"])
    if trace["type"] == "bar":
        first = zip(xs[:MOST_TOLD], ys[:MOST_TOLD], strict=True)
        bars = [f"{_words(str(y))} {_said(x)}" for x, y in first]
        return f"{name}: {', '.join(bars)}"
    return f"{name}: {_said(ys[0])} at {_said(xs[0])}, {_said(ys[-1])} at {_said(xs[-1])}"


def _told_of_cells(trace: dict[str, Any]) -> str:
    cells = [cell for row in trace["z"] for cell in row if cell is not None]
    if not cells:
        return "no cell yet"
    return f"{len(cells)} cells, from {_said(min(cells))} to {_said(max(cells))}"


def _words(html: str | None) -> str:
    """Text without markup."""
    return unescape(re.sub(r"<[^>]+>", "", (html or "").replace("<br>", " "))).strip()


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
