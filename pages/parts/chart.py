"""A chart on a page: drawn by web/static/chart.js, told to a screen reader, and given away as SVG
and CSV."""

from hybrid_core.report import figures
from pages.parts import browser

_chart = browser.component("chart")


def show(figure: figures.Figure, key: str) -> None:
    """Draw it under its title, with its legend, its source and the buttons that save it."""
    said = {
        "title": figures.title(figure),
        "source": figures.source(figure),
        "told": figures.told(figure),
    }
    _chart(key=key, data=said | {"figure": figure, "csv": figures.table(figure), "name": key})
