"""A chart without looking at it: its data and its words."""

import re
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go


def data(figure: go.Figure) -> pd.DataFrame:
    """What a chart shows, one row a point or cell, under the titles of its axes."""
    frames = [_points(trace) for trace in figure.data if trace.x is not None]
    names = {"x": _words(figure.layout.xaxis.title.text) or "x", "y": _words(figure.layout.yaxis.title.text) or "y"}
    return pd.concat(frames, ignore_index=True).rename(columns=names) if frames else pd.DataFrame()


def _points(trace: Any) -> pd.DataFrame:
    if trace.type == "heatmap":
        cells = [(x, y, cell) for y, row in zip(trace.y, trace.z, strict=True) for x, cell in zip(trace.x, row, strict=True)]
        return pd.DataFrame(cells, columns=["x", "y", "share"])
    return pd.DataFrame({"series": trace.name or "", "x": _column(trace.x), "y": _column(trace.y)})


def told(figure: go.Figure) -> str:
    """A chart in words, for who cannot see it: its title, and where each series starts and ends."""
    lines = [figure.layout.meta["title"]]
    for trace in figure.data:
        xs, ys = _column(trace.x), _column(trace.y)
        if trace.showlegend is not False and len(ys):
            if trace.type == "heatmap":
                cells = [cell for row in trace.z for cell in row if cell is not None]
                lines.append(f"{len(cells)} cells, from {_said(min(cells))} to {_said(max(cells))}" if cells else "no cell yet")
            elif trace.type == "bar":
                lines.append(f"{trace.name}: " + ", ".join(f"{_words(str(y))} {_said(x)}" for x, y in zip(xs[:8], ys[:8], strict=True)))
            else:
                lines.append(f"{trace.name}: {_said(ys[0])} at {_said(xs[0])}, {_said(ys[-1])} at {_said(xs[-1])}")
    return ". ".join(line for line in lines if line)


def _column(values: Any) -> list[Any]:
    return [] if values is None else list(values)


def _words(html: str | None) -> str:
    """Text without markup."""
    return unescape(re.sub(r"<[^>]+>", "", (html or "").replace("<br>", " "))).strip()


def _said(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, (int, float, np.number)) else str(value)
