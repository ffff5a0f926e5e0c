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
    heatmap = any(trace["type"] == "heatmap" for trace in figure["data"])
    x, y = (
        _words(layout[axis].get("title", {}).get("text")) or axis[0] for axis in ("xaxis", "yaxis")
    )
    x, y = (
        layout["meta"].get("unit", x),
        layout["meta"].get("rows", y),
    )  # of columns beside each other an axis has the series' name
    return [
        (x, y, "share") if heatmap else ("series", x, y),
        *(row for trace in figure["data"] for row in _points(trace)),
    ]


def table(figure: style.Figure) -> str:
    """The same as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(data(figure))
    return text.getvalue()


def _points(trace: dict[str, Any]) -> list[tuple[Any, ...]]:
    if trace["type"] == "heatmap":
        return [
            (x, y, cell)
            for y, row in zip(trace["y"], trace["z"], strict=True)
            for x, cell in zip(trace["x"], row, strict=True)
        ]
    name = unescape(trace.get("name") or "")
    return [(name, _plain(x), _plain(y)) for x, y in zip(trace["x"], trace["y"], strict=True)]


def told(figure: style.Figure) -> str:
    """A chart in words, for who cannot see it: its title, and where each series starts and ends."""
    lines = [style.title(figure)]
    for trace in figure["data"]:
        xs, ys = list(trace["x"]), list(trace["y"])
        if trace.get("showlegend") is not False and ys:
            name = _words(trace.get("name"))
            if trace["type"] == "heatmap":
                cells = [cell for row in trace["z"] for cell in row if cell is not None]
                lines.append(
                    f"{len(cells)} cells, from {_said(min(cells))} to {_said(max(cells))}"
                    if cells
                    else "no cell yet"
                )
            elif trace["type"] == "bar":
                lines.append(
                    f"{name}: "
                    + ", ".join(
                        f"{_words(str(y))} {_said(x)}"
                        for x, y in zip(xs[:10], ys[:10], strict=True)
                    )
                )
            else:
                lines.append(
                    f"{name}: {_said(ys[0])} at {_said(xs[0])}, {_said(ys[-1])} at {_said(xs[-1])}"
                )
    return ". ".join(line for line in lines if line)


def _words(html: str | None) -> str:
    """Text without markup."""
    return unescape(re.sub(r"<[^>]+>", "", (html or "").replace("<br>", " "))).strip()


def _plain(value: Any) -> Any:
    return _words(value) if isinstance(value, str) else value


def _said(value: Any) -> str:
    return (
        f"{value:,.4g}"
        if isinstance(value, (int, float))
        else "nothing"
        if value is None
        else str(value)
    )
