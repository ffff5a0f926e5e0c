"""The house style: a title and a source, colours that the colour-blind tell apart, names where what they name is."""

import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from hybrid_core.report import units
from hybrid_core.runs.store import Run
from hybrid_core.spec import ArchSpec

# Okabe and Ito's colours, for designs side by side.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
CONTEXTS = 2 ** np.arange(11, 21)  # 2K to 1M
MODEL_COLOUR = {"llama": "#D55E00", "swa": "#E69F00", "mamba": "#0072B2", "inter": "#CC79A7", "intra": "#009E73"}
MODEL_LABEL = {"llama": "Llama", "swa": "SWA", "mamba": "Mamba", "inter": "Inter-hybrid", "intra": "Intra-hybrid"}


class Named(NamedTuple):
    """A design with the name it has on a chart."""

    label: str
    spec: ArchSpec


def label(run: Run) -> str:
    """How a run is called on charts and in tables; escaped where plotly would read markup."""
    return f"#{run.id} {run.name}"


Figure = dict[str, Any]  # as plotly's JSON has it: {"data": [traces], "layout": {...}}; plotly's own classes take 0.2 s a page to check it


def blank(title: str, source: str, x: str, y: str, height: int = 285) -> Figure:
    """An empty plot. Whoever shows it writes title and source beside it as text, which wraps; the plot has no words but its own."""
    return {
        "data": [],
        "layout": {
            "height": height,
            "margin": {"l": 64, "r": 16, "t": 10, "b": 48},
            "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
            "xaxis": {"title": {"text": x, "standoff": 8}},
            "yaxis": {"title": {"text": y}},
            "hovermode": "closest",
            "annotations": [],
            "shapes": [],
            "meta": {"title": title, "source": source},
        },
    }


def add(figure: Figure, kind: str, **trace: Any) -> None:
    """One more series: a `scatter`, a `bar` or a `heatmap`."""
    figure["data"].append({"type": kind, **trace})


def title(figure: Figure) -> str:
    """What the chart shows."""
    return str(figure["layout"]["meta"]["title"])


def source(figure: Figure) -> str:
    """Where its data are from."""
    return str(figure["layout"]["meta"]["source"])


def vertical(figure: Figure, x: float, colour: str = "#777777", xref: str = "x") -> None:
    """A dashed line from bottom to top."""
    line = {"color": colour, "width": 2, "dash": "dash"}
    figure["layout"]["shapes"].append({"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "xref": xref, "yref": "paper", "line": line})


def log_axis(figure: Figure, axis: str) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5, written out; data that lie closer together than that stay on a linear one."""
    shown = [value for trace in figure["data"] for value in trace[axis] if value]
    if shown and max(shown) < 5 * min(shown):
        return
    values = [mantissa * 10.0**power for power in range(-3, 13) for mantissa in (1, 2, 5)]
    figure["layout"][f"{axis}axis"] |= {"type": "log", "tickvals": values, "ticktext": [units.count(value) for value in values]}


def length_axis(figure: Figure, step: int = 1) -> None:
    """A logarithmic axis of context lengths, each `step`th power of two written out, up to 1M."""
    lengths = [2**k for k in range(20, 9, -step)]
    figure["layout"]["xaxis"] |= {"type": "log", "tickvals": lengths, "ticktext": [units.length(n) for n in lengths]}


def lines(figure: Figure, designs: Sequence[Named], values: Sequence[np.ndarray], hover: str, log: bool = True) -> None:
    """A line per design, named where it ends, over a logarithmic or a linear y axis."""
    curves = [np.broadcast_to(ys, CONTEXTS.shape) for ys in values]
    xs = CONTEXTS.tolist()
    for design, ys, colour in zip(designs, curves, cycle(len(designs)), strict=True):
        shown = [y if np.isfinite(y) else None for y in ys.tolist()]
        add(
            figure,
            "scatter",
            x=xs,
            y=shown,
            name=escape(design.label),
            mode="lines+markers",
            line={"color": colour, "width": 2.5},
            hovertemplate=hover,
        )
    if log:
        log_axis(figure, "y")
    _name_ends(figure, [design.label for design in designs], curves, figure["layout"]["yaxis"].get("type") == "log")
    length_axis(figure, 2)  # ten words do not fit a phone


ROOM_FOR_LINES, LABEL = 235, 15  # pixels: height of a plot of lines, and of a label


def _name_ends(figure: Figure, names: Sequence[str], lines: Sequence[np.ndarray], log: bool) -> None:
    """Write each line's name at its end, above one that rises and below one that falls, and no name on another: needs no legend."""
    figure["layout"]["showlegend"] = False
    scale: Any = np.log10 if log else np.asarray
    known = np.concatenate([scale(ys[np.isfinite(ys)]) for ys in lines])
    if not known.size:
        return
    low, high = (known.min() if log else 0.0), known.max()
    pixels = ROOM_FOR_LINES / ((high - low) or 1.0)
    ends = [(int(np.isfinite(ys).nonzero()[0][-1]), i) for i, ys in enumerate(lines) if np.isfinite(ys).any()]
    free = np.inf  # the highest place, in pixels from below, that no label has taken
    for last, i in sorted(ends, key=lambda end: -lines[end[1]][end[0]]):
        y = float(scale(lines[i][last]))
        at = (y - low) * pixels
        below = last > 0 and lines[i][last] < lines[i][last - 1] and at > 1.5 * LABEL  # not on the axis
        placed = min(at + (-0.9 if below else 0.7) * LABEL, free)
        free = placed - LABEL
        figure["layout"]["annotations"].append(
            {
                "x": float(np.log10(CONTEXTS[last])),
                "y": y,
                "yshift": float(placed - at),
                "text": f'<span style="color:{cycle(len(lines))[i]}">■</span> {escape(textwrap.shorten(names[i], 44, placeholder="..."))}',
                "xanchor": "right" if last > 2 else "left",
                "showarrow": False,
                "font": {"size": 12},  # words in a line's own colour would be too pale to read
            }
        )


def cycle(n: int) -> list[str]:
    """Colours of `n` designs."""
    return [COLOURS[i % len(COLOURS)] for i in range(n)]
