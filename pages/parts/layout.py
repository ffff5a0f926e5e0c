"""Rows that wrap, side by side on a wide screen and one below the other on a narrow one; what
Streamlit's theme has no setting for."""

from collections.abc import Iterator

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.parts import design

# Pixels. Beside the sidebar at 1440 there are four cards or two charts, without it two wide charts
# or three maps; at 800 half as many.
CARD, CHART, WIDE, MAP = 222, 476, 596, 350


INK = {"dark": "#FAFAFA", "light": "#141414"}
FAINT = {  # what Streamlit writes too faintly
    "dark": "[data-testid='stBaseButton-primary'] { color: #000 }",
    "light": (
        ".token.deleted { color: #B3261E !important } .token.inserted { color: #1B6E3A !important }"
    ),
}


def _theme() -> str:
    """What is on screen; light where the browser has not said."""
    return "dark" if st.context.theme.type == "dark" else "light"


def ink() -> str:
    """The colour of words."""
    return INK[_theme()]


TOP = "[data-testid='stMainBlockContainer'] { padding-top: 4.5rem }"  # just below the navigation
# Streamlit fades what a run has not reached yet, half a second later; to be ready for it, browsers
# give each element a layer of its own at every change, a tenth of the time until charts are drawn.
# The sign at the top says that a page is at work.
STEADY = "[data-stale], summary { transition: none !important; opacity: 1 !important }"


def theme() -> None:
    """Colours that can be read where the theme's own cannot, a page that begins at its top, and
    nothing that fades at a change."""
    st.html(f"<style>{TOP} {STEADY} {FAINT[_theme()]}</style>")


def go(page: str) -> None:
    """To another page; pages are found from where the script of navigation lies."""
    st.switch_page(f"../pages/{page}.py")


def cells(n: int, width: int) -> Iterator[DeltaGenerator]:
    """`n` containers of `width` pixels in a row that wraps."""
    row = st.container(horizontal=True)
    return (row.container(width=width) for _ in range(n))


def table(frame: pd.DataFrame) -> None:
    """Text whose words wrap instead of being cut; what a user wrote in it is shown as written."""
    st.table(
        frame.rename(index=design.plain, columns=design.plain).map(
            lambda cell: design.plain(str(cell))
        )
    )
