"""The house style: a title and a source, colours that the colour-blind tell apart, names where what
they name is."""

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from hybrid_core.design.spec import ArchSpec
from hybrid_core.report import units
from hybrid_core.report.figures import names
from hybrid_core.runs.store import Run
from hybrid_core.terms import Num

# Okabe and Ito's colours, for designs side by side.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
CONTEXTS = 2 ** np.arange(11, 21)  # 2K to 1M
MODEL_COLOUR = {
    "llama": "#D55E00",
    "swa": "#E69F00",
    "mamba": "#0072B2",
    "inter": "#CC79A7",
    "intra": "#009E73",
}
MODEL_LABEL = {
    "llama": "Llama",
    "swa": "SWA",
    "mamba": "Mamba",
    "inter": "Inter-hybrid",
    "intra": "Intra-hybrid",
}


class Named(NamedTuple):
    """A design with the name it has on a chart."""

    label: str
    spec: ArchSpec


def label(run: Run) -> str:
    """How a run is called on charts and in tables; escaped where plotly would read markup."""
    return f"#{run.id} {run.name}"


# As plotly's JSON has it: {"data": [traces], "layout": {...}}. Plotly's own classes take 0.2 s a
# page to check it.
Figure = dict[str, Any]


def blank(
    title: str,
    source: str,
    x: str,
    y: str,
    height: int = 285,
    shows: Sequence[str] = (),
) -> Figure:
    """An empty plot. Title and source are not drawn: the page writes them beside the plot, as text
    that wraps. `shows`: the entries of profiles/numbers.yaml whose numbers are drawn."""
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
            "meta": {"title": title, "source": source, "shows": list(shows)},
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


def shows(figure: Figure) -> tuple[str, ...]:
    """The entries of profiles/numbers.yaml whose numbers are drawn."""
    return tuple(figure["layout"]["meta"]["shows"])


def vertical(
    figure: Figure,
    x: float,
    colour: str = "#777777",
    xref: str = "x",
) -> None:
    """A dashed line from bottom to top."""
    line = {"color": colour, "width": 2, "dash": "dash"}
    figure["layout"]["shapes"].append(
        {
            "type": "line",
            "x0": x,
            "x1": x,
            "y0": 0,
            "y1": 1,
            "xref": xref,
            "yref": "paper",
            "line": line,
        }
    )


def log_axis(figure: Figure, axis: str) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5, written out; data that lie closer together than
    that stay on a linear one."""
    shown = [value for trace in figure["data"] for value in trace[axis] if value]
    if shown and max(shown) < 5 * min(shown):
        return
    values = [mantissa * 10.0**power for power in range(-3, 13) for mantissa in (1, 2, 5)]
    figure["layout"][f"{axis}axis"] |= {
        "type": "log",
        "tickvals": values,
        "ticktext": [units.count(value) for value in values],
    }


def length_axis(figure: Figure, step: int = 1) -> None:
    """A logarithmic axis of context lengths, each `step`th power of two written out, up to 1M."""
    lengths = [2**k for k in range(20, 9, -step)]
    figure["layout"]["xaxis"] |= {
        "type": "log",
        "tickvals": lengths,
        "ticktext": [units.length(n) for n in lengths],
    }


def lines(
    figure: Figure,
    designs: Sequence[Named],
    values: Sequence[Num],
    hover: str,
    log: bool = True,
) -> None:
    """A line per design, named beside it, over a logarithmic or a linear y axis."""
    curves = [np.broadcast_to(ys, CONTEXTS.shape) for ys in values]
    xs = CONTEXTS.tolist()
    for design, ys, colour in zip(designs, curves, cycle(len(designs)), strict=True):
        shown = ys.astype(object)
        shown[~np.isfinite(ys)] = None  # JSON has no NaN
        add(
            figure,
            "scatter",
            x=xs,
            y=shown.tolist(),
            name=escape(design.label),
            mode="lines+markers",
            line={"color": colour, "width": 2.5},
            hovertemplate=hover,
        )
    if log:
        log_axis(figure, "y")
    _name_lines(figure, designs)
    length_axis(figure, 2)  # ten words do not fit a phone


ROOM = (360, 205)  # pixels: width and height that lines have in the narrowest chart but a phone's


def _name_lines(figure: Figure, designs: Sequence[Named]) -> None:
    """Write each line's name beside it, so that no legend is needed; the designs' lines are the
    last of the chart."""
    layout = figure["layout"]
    layout["showlegend"] = False
    log = layout["yaxis"].get("type") == "log"
    placed = in_pixels(figure["data"], True, log, from_zero=not log)
    others = len(placed) - len(designs)
    labels: list[str] = []
    curves = []
    named = []
    free = placed[:others]
    for design, curve, points in zip(
        designs, figure["data"][others:], placed[others:], strict=True
    ):
        if np.isfinite(points).all(axis=1).any():
            labels.append(clipped(design.label, 44))
            curves.append(curve)
            named.append(points)
        else:
            free.append(points)
    if not named:
        return
    spots = names.place(
        [*named, *free],
        [names.width(label) for label in labels],
        ROOM,
    )
    for curve, label, spot in zip(curves, labels, spots, strict=True):
        layout["annotations"].append(_beside_line(curve, label, spot, log))


def _beside_line(
    curve: dict[str, Any],
    label: str,
    spot: names.Spot,
    log: bool,
) -> dict[str, Any]:
    """A line's name as plotly has it, which wants the logarithm of a place on a logarithmic
    axis."""
    y = curve["y"][spot.point]
    if log:
        y = float(np.log10(y))
    return {
        "x": float(np.log10(curve["x"][spot.point])),
        "y": y,
        "xshift": spot.xshift,
        "yshift": spot.yshift,
        "text": f'<span style="color:{curve["line"]["color"]}">■</span> {escape(label)}',
        "xanchor": spot.xanchor,
        "showarrow": False,
        "font": {"size": 12},  # words in a line's own colour would be too pale to read
    }


def in_pixels(
    curves: Sequence[dict[str, Any]], log_x: bool, log_y: bool, from_zero: bool = False
) -> list[np.ndarray]:
    """Where the points of curves lie in ROOM: (points, 2) each, NaN where unknown. `from_zero`: the
    y axis begins there."""
    points = [np.array([curve["x"], curve["y"]], float).T for curve in curves]
    for line in points:
        for axis, log in enumerate((log_x, log_y)):
            if log:
                line[:, axis] = np.log10(np.where(line[:, axis] > 0, line[:, axis], np.nan))
    known = np.concatenate(points)
    known = known[np.isfinite(known).all(axis=1)]
    low = known.min(axis=0, initial=np.inf)
    high = known.max(axis=0, initial=-np.inf)
    if from_zero:
        low[1] = 0.0
    span = high - low
    return [(line - low) * ROOM / np.where(span > 0, span, 1.0) for line in points]


def clipped(name: str, letters: int) -> str:
    """A name that is too long for its place, cut in the middle, where names that begin or end alike
    still differ."""
    if len(name) <= letters:
        return name
    half = (letters - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def cycle(n: int) -> list[str]:
    """Colours of `n` designs."""
    return [COLOURS[i % len(COLOURS)] for i in range(n)]
