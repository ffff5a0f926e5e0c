"""A chart on a page. web/static/chart.js draws it, describes it to screen readers, and saves it as
SVG or CSV."""

from hybrid_core.report import figures
from pages.parts import browser

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
