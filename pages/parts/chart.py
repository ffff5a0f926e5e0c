"""A chart on a page. web/static/chart.js draws it, describes it to screen readers, and saves it as
SVG or CSV."""

from collections.abc import Mapping

from hybrid_core.report.figures import style, words
from pages.parts import browser, layout

_chart = browser.component("chart")


def show(figure: style.Figure, key: str) -> None:
    """Draw a figure with its title, legend and source, and the buttons that save it."""
    data = {
        "title": style.title(figure),
        "source": style.source(figure),
        "told": words.told(figure),
        "figure": figure,
        "csv": words.table(figure),
        "name": key,
    }
    _chart(key=key, data=data)


def row(drawn: Mapping[str, style.Figure], width: int) -> None:
    """Draw figures, by their keys, in a row that wraps. `width`: of each, in pixels."""
    cells = layout.cells(len(drawn), width)
    for cell, (key, figure) in zip(cells, drawn.items(), strict=True):
        with cell:
            show(figure, key)
