"""What a visitor takes away: the link to the view, the design as YAML, and a Python file that builds the model."""

import streamlit as st

from hybrid_core.interop.snippet import snippet
from hybrid_core.spec import ArchSpec
from pages.parts import design


def draw(spec: ArchSpec, page: str = "") -> None:
    """One menu; the link opens `page`."""
    menu = st.popover("Share", icon=":material/share:", key="share", on_change="rerun")
    if not menu.open:
        return
    with menu:
        st.markdown("**Link to this view** (the button at its right copies it)")
        st.code(design.address(page), language=None, wrap_lines=True)
        st.download_button(
            "Download YAML", spec.to_yaml(), "design.yaml", "application/yaml", icon=":material/download:", on_click="ignore"
        )
        st.download_button("Download Python", snippet(spec), "build_design.py", "text/x-python", icon=":material/code:", on_click="ignore")
