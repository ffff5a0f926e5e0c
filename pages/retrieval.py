"""Retrieval: what a design can find in its context. Either a small proxy of it is trained and
tested, or a trained checkpoint is tested."""

import streamlit as st

from pages.parts import checkpoints, needles, probes

VIEWS = {
    "Needle in a haystack": needles.draw,
    "Probes": probes.draw,
    "Checkpoint": checkpoints.draw,
}

st.title("Retrieval")
tabs = st.tabs(list(VIEWS), key="retrieval.tab", on_change="rerun")
for tab, draw in zip(tabs, VIEWS.values(), strict=True):
    if tab.open:
        with tab:
            draw()
