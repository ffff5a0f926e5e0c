"""Where a number comes from: the dialog that a "?" next to it opens."""

import streamlit as st

from hybrid_core.report.sources import explained, origins


def open_if_asked(source: str | None) -> None:
    """Open the entry of profiles/numbers.yaml that a component's "?" asked for."""
    # The key comes from the browser, so it may be anything.
    if source in origins():
        st.dialog(origins()[source].label)(_explain)(source)


def _explain(source: str) -> None:
    st.markdown(explained(source))


def drawn_anew() -> None:
    """What a component calls when its "?" is clicked: the page is drawn again, and that run opens
    the dialog."""
