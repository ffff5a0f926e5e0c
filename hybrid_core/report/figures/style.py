"""What all charts share: a title and a source, colours that colour-blind people can tell apart, and
names next to what they name."""

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
    """The name of a run on charts and in tables. Charts escape it, since plotly reads markup."""
    return f"#{run.id} {run.name}"


# Plotly's JSON: {"data": [traces], "layout": {...}}. Plotly's own classes take 0.2 s per page to
# validate it.
Figure = dict[str, Any]


def blank(
    title: str,
    source: str,
    x: str,
    y: str,
    height: int = 285,
    shows: Sequence[str] = (),
) -> Figure:
    """An empty plot. Title and source are not drawn: the page writes them next to the plot, as text
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
    """Make an axis logarithmic, with ticks at 1, 2 and 5 written out. Data within a factor of 5
    might have no tick among them, so their axis stays linear."""
    shown: list[float] = []
    for trace in figure["data"]:
        shown += filter(None, trace[axis])
    if shown and max(shown) < 5 * min(shown):
        return
    values: list[float] = []
    for power in range(-3, 13):
        decade = 10.0**power
        values += [decade, 2 * decade, 5 * decade]
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
    """A line per design with its name next to it, over a logarithmic or a linear y axis."""
    curves = [np.broadcast_to(ys, CONTEXTS.shape) for ys in values]
    xs = CONTEXTS.tolist()
    colours = cycle(len(designs))
    for design, ys, colour in zip(designs, curves, colours, strict=True):
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
    length_axis(figure, 2)  # ten labels do not fit on a phone


# Pixels: width and height of the plot in the narrowest chart, phones aside.
ROOM = (360, 205)


def _name_lines(figure: Figure, designs: Sequence[Named]) -> None:
    """Write each line's name next to it, so that the chart needs no legend. The designs' lines are
    the last ones in the chart."""
    layout = figure["layout"]
    layout["showlegend"] = False
    log = layout["yaxis"].get("type") == "log"
    placed = in_pixels(figure["data"], True, log, from_zero=not log)
    others = len(placed) - len(designs)
    labels: list[str] = []
    curves = []
    named = []
    free = placed[:others]
    own_curves = figure["data"][others:]
    own_points = placed[others:]
    for design, curve, points in zip(designs, own_curves, own_points, strict=True):
        if np.isfinite(points).all(axis=1).any():
            labels.append(clipped(design.label, 44))
            curves.append(curve)
            named.append(points)
        else:
            free.append(points)
    if not named:
        return
    widths = [names.width(label) for label in labels]
    spots = names.place([*named, *free], widths, ROOM)
    for curve, label, spot in zip(curves, labels, spots, strict=True):
        layout["annotations"].append(_beside_line(curve, label, spot, log))


def _beside_line(
    curve: dict[str, Any],
    label: str,
    spot: names.Spot,
    log: bool,
) -> dict[str, Any]:
    """A line's name as an annotation of plotly. On a logarithmic axis plotly expects the logarithm
    of its position."""
    x = float(np.log10(curve["x"][spot.point]))
    y = curve["y"][spot.point]
    if log:
        y = float(np.log10(y))
    colour = curve["line"]["color"]
    return {
        "x": x,
        "y": y,
        "xshift": spot.xshift,
        "yshift": spot.yshift,
        "text": f'<span style="color:{colour}">■</span> {escape(label)}',
        "xanchor": spot.xanchor,
        "showarrow": False,
        "font": {"size": 12},  # text in the colour of the line would be too pale to read
    }


def in_pixels(
    curves: Sequence[dict[str, Any]],
    log_x: bool,
    log_y: bool,
    from_zero: bool = False,
) -> list[np.ndarray]:
    """Where the points of curves lie in ROOM: (points, 2) each, NaN where unknown. `from_zero`: the
    y axis starts at 0."""
    points = []
    for curve in curves:
        x = _scaled(curve["x"], log_x)
        y = _scaled(curve["y"], log_y)
        points.append(np.stack([x, y], axis=1))
    known = np.concatenate(points)
    known = known[np.isfinite(known).all(axis=1)]
    low = known.min(axis=0, initial=np.inf)
    high = known.max(axis=0, initial=-np.inf)
    if from_zero:
        low[1] = 0.0
    span = high - low
    span[~(span > 0)] = 1.0  # all values equal, or none
    return [(line - low) * ROOM / span for line in points]


def _scaled(values: Sequence[float | None], log: bool) -> np.ndarray:
    """Values along an axis, NaN where unknown."""
    found = np.array(values, float)
    if not log:
        return found
    return np.asarray(np.log10(np.where(found > 0, found, np.nan)))


def clipped(name: str, letters: int) -> str:
    """A name, shortened in the middle if it has more than `letters` letters. Names with the same
    beginning or end still differ."""
    if len(name) <= letters:
        return name
    half = (letters - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def cycle(n: int) -> list[str]:
    """Colours of `n` designs."""
    return [COLOURS[i % len(COLOURS)] for i in range(n)]
