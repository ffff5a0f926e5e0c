"""Rows that wrap: side by side on a wide screen, one below the other on a narrow one."""

from collections.abc import Iterator

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

CARD, CHART, MAP = 222, 476, 350  # pixels: four cards or two charts beside the sidebar at 1440, two or one at 800; three maps, or two


def cells(n: int, width: int) -> Iterator[DeltaGenerator]:
    """`n` containers of `width` pixels in a row that wraps."""
    row = st.container(horizontal=True)
    return (row.container(width=width) for _ in range(n))
