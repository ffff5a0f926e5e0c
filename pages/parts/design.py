"""The design on screen: kept in the session, carried in the link."""

import re

import streamlit as st

from hybrid_core import link, presets
from hybrid_core.spec import ArchSpec, SpecError

KEY = "design"


def current() -> ArchSpec:
    """The last good design: the session's, else the link's, else the worked example. A bad link is said and not followed."""
    if KEY not in st.session_state:
        st.session_state[KEY] = presets.get(presets.FIRST).spec
        if text := st.query_params.get(KEY):
            try:
                st.session_state[KEY] = link.decode(text)
            except SpecError as error:
                st.error(f"This link cannot be opened; the worked example is shown instead. {error}")
    design: ArchSpec = st.session_state[KEY]
    return design


def keep(spec: ArchSpec) -> None:
    """Make `spec` the design on screen and in the address bar."""
    st.session_state[KEY] = spec
    st.query_params[KEY] = link.encode(spec)


def plain(text: str) -> str:
    """Text of the user's for places that read Markdown: shown as it was written."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~:$^])", r"\\\1", text)
