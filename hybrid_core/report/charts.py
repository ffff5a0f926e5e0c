"""A chart as HTML, for a report that opens offline."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from plotly.io import to_html

from hybrid_core.data import WEB
from hybrid_core.report.figures import style, words

# The subset of plotly that the charts need, a third of the whole; pages load the same file.
PLOTLY = WEB / "static" / "plotly-cartesian-4.1.1.min.js"
_AXIS = {
    "gridcolor": "#E4E4E4",
    "zerolinecolor": "#E4E4E4",
    "automargin": True,
}
_ON_WHITE = {
    "xaxis": _AXIS,
    "yaxis": _AXIS,
    "font": {"color": "#1A1A1A"},
}
_CONFIG = {"displayModeBar": False, "responsive": True}
_PHONE = 280  # pixels: width of a legend on a phone
_LETTER = 7  # pixels: width of a letter in a legend
_SIGN = 44  # pixels: the line or square before a name, and the gap after it
_LEGEND_ROW = 20  # pixels


class Chart(NamedTuple):
    """What a template needs of a chart. `told`: the chart described in words; `sources`: entries of
    profiles/numbers.yaml."""

    title: str
    told: str
    plot: str
    source: str
    sources: tuple[str, ...]


def charts(figures: Sequence[style.Figure]) -> list[Chart]:
    """The charts of a page."""
    return [chart(figure, f"chart-{index}") for index, figure in enumerate(figures)]


def chart(figure: style.Figure, name: str) -> Chart:
    """One chart. `name`: its id in the page. Plotly's JSON escapes tags, so none can end the
    script."""
    template = {"template": {"layout": _ON_WHITE}}
    layout = figure["layout"] | template | _legend(figure)
    plot = {"data": figure["data"], "layout": layout}
    html = to_html(
        plot,
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config=_CONFIG,
        validate=False,
    )
    return Chart(
        style.title(figure),
        words.told(figure),
        str(html),
        style.source(figure),
        style.shows(figure),
    )


def _legend(figure: style.Figure) -> dict[str, Any]:
    """Whether the chart needs a legend, and room above the plot for as many rows as its names need
    on a phone."""
    layout = figure["layout"]
    names = []
    for trace in figure["data"]:
        in_legend = trace.get("showlegend") is not False
        if in_legend and trace.get("name"):
            names.append(trace["name"])
    if layout.get("showlegend") is False or len(names) < 2:
        return {"showlegend": False}
    longest = max(map(len, names))
    per_row = max(1, _PHONE // (_LETTER * longest + _SIGN))
    rows = -(-len(names) // per_row)  # rounded up
    height = _LEGEND_ROW * rows
    margin = layout["margin"] | {"t": layout["margin"]["t"] + height}
    return {
        "showlegend": True,
        "margin": margin,
        "height": layout["height"] + height,
    }
