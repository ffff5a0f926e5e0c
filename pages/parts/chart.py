"""A chart on a page: drawn by web/static/chart.js, told to a screen reader, and given away as SVG
and CSV."""

from hybrid_core.report.figures import style, words
from pages.parts import browser

_chart = browser.component("chart")


def show(figure: style.Figure, key: str) -> None:
    """Draw it under its title, with its legend, its source and the buttons that save it."""
    said = {
        "title": style.title(figure),
        "source": style.source(figure),
        "told": words.told(figure),
    }
    _chart(key=key, data=said | {"figure": figure, "csv": words.table(figure), "name": key})
