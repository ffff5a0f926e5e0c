"""A chart on a page: drawn by static/chart.js, told to a screen reader, and given away as SVG and CSV."""

import plotly.graph_objects as go

from hybrid_core.report import figures
from pages.parts import browser

_chart = browser.component("chart")


def show(figure: go.Figure, key: str) -> None:
    """Draw it under its title, with its legend, its source and the buttons that save it."""
    _chart(
        key=key,
        data={
            "figure": figure.to_json(),
            "title": figure.layout.meta["title"],
            "source": figure.layout.meta["source"],
            "told": figures.told(figure),
            "csv": figures.data(figure).to_csv(index=False),
            "name": key,
        },
    )
