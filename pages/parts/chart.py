"""A chart on a page: drawn, told to a screen reader, and given away as SVG and CSV."""

import plotly.graph_objects as go
import streamlit as st

from hybrid_core.report import figures
from pages.parts import layout

CONFIG = {"displaylogo": False, "modeBarButtons": [["toImage", "resetScale2d"]]}


def show(figure: go.Figure, key: str) -> None:
    """Draw it; the camera above it saves an SVG, the button below it the data."""
    layout.write_in_ink(figure)
    with st.container(gap=None):
        st.plotly_chart(
            figure, key=key, config=CONFIG | {"toImageButtonOptions": {"format": "svg", "filename": key}}, alt=figures.told(figure)
        )
        st.download_button(
            "CSV",
            lambda: figures.data(figure).to_csv(index=False),
            f"{key}.csv",
            "text/csv",
            key=f"{key}.csv",
            type="tertiary",
            icon=":material/table:",
            on_click="ignore",
            help="The chart's data. The camera on the chart saves it as SVG.",
        )
