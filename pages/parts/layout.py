"""Rows that wrap on a narrow screen, and colours that Streamlit's theme has no setting for."""

from collections.abc import Iterator

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.parts import design

# Pixels. A window of 1440 has room for four cards or two charts next to the sidebar, and for two
# wide charts or three maps without it. One of 800 has room for half as many.
CARD, CHART, WIDE, MAP = 222, 476, 596, 350


INK = {"dark": "#FAFAFA", "light": "#141414"}
FAINT = {  # text that Streamlit writes with too little contrast
    "dark": "[data-testid='stBaseButton-primary'], [data-tag] * { color: #000 }",
    "light": (
        ".token.deleted { color: #B3261E !important } .token.inserted { color: #1B6E3A !important }"
    ),
}


def _theme() -> str:
    """The theme on screen; light if the browser has not said."""
    if st.context.theme.type == "dark":
        return "dark"
    return "light"


def ink() -> str:
    """The colour of text."""
    return INK[_theme()]


TOP = "[data-testid='stMainBlockContainer'] { padding-top: 4.5rem }"  # just below the navigation
# Half a second into a run, Streamlit fades what the run has not reached yet. To be ready for that,
# browsers give each element its own layer at every change, which takes a tenth of the time until
# charts are drawn. The icon at the top right already says that a page is at work.
STEADY = "[data-stale], summary { transition: none !important; opacity: 1 !important }"


# A formula breaks after its operators only. A part that is wider than a phone scrolls.
FORMULA = "p:has(.katex), .stLatex { overflow-x: auto; overflow-y: hidden }"


def theme() -> None:
    """Give faint text contrast, start pages at the top, stop fading on changes, and keep formulas
    within a narrow window."""
    st.html(f"<style>{TOP} {STEADY} {FORMULA} {FAINT[_theme()]}</style>")


def go(page: str) -> None:
    """Switch to another page. Streamlit finds it from the folder of web/navigation.py."""
    st.switch_page(f"../pages/{page}.py")


def cells(n: int, width: int) -> Iterator[DeltaGenerator]:
    """`n` containers, each `width` pixels wide, in a row that wraps."""
    row = st.container(horizontal=True)
    return (row.container(width=width) for _ in range(n))


def table(frame: pd.DataFrame) -> None:
    """A table whose text wraps instead of being cut. User text is shown as written."""
    headed = frame.rename(index=design.plain, columns=design.plain)
    st.table(headed.map(_plain_cell))


def _plain_cell(cell: object) -> str:
    return design.plain(str(cell))
