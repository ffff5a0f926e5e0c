"""A chart on a page. web/static/chart.js draws it, describes it to screen readers, and saves it as
SVG or CSV."""

from collections.abc import Mapping

from hybrid_core.report import figures
from pages.parts import browser, layout

_chart = browser.component("chart")


def show(figure: figures.Figure, key: str) -> None:
    """Draw a figure with its title, legend and source, and the buttons that save it."""
    data = {
        "title": figures.title(figure),
        "source": figures.source(figure),
        "told": figures.told(figure),
        "figure": figure,
        "csv": figures.table(figure),
        "name": key,
    }
    _chart(key=key, data=data)


def row(drawn: Mapping[str, figures.Figure], width: int) -> None:
    """Draw figures, by their keys, in a row that wraps. `width`: of each, in pixels."""
    cells = layout.cells(len(drawn), width)
    for cell, (key, figure) in zip(cells, drawn.items(), strict=True):
        with cell:
            show(figure, key)
