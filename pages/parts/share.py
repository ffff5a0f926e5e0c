"""What a visitor takes away: the link to the view, its report, and the design as YAML, as Python or
as another framework's config."""

from functools import partial

import streamlit as st

from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.export import export, notes
from hybrid_core.report.html import design_report
from hybrid_core.validation import SpecError
from pages.parts import design

FRAMEWORKS = {
    "python": ("Python", "text/x-python"),
    "hf": ("for Hugging Face", "application/json"),
    "megatron": ("for Megatron", "text/plain"),
    "fla": ("for FLA", "application/json"),
    "torchtitan": ("for torchtitan", "text/x-python"),
}


def draw(spec: ArchSpec, page: str = "") -> None:
    """One menu; the link opens `page`."""
    menu = st.popover(
        "Share",
        icon=":material/share:",
        key="share",
        on_change="rerun",
    )
    if not menu.open:
        return
    with menu:
        st.markdown("**Link to this view** (the button at its right copies it)")
        st.code(design.address(page), language=None, wrap_lines=True)
        st.download_button(
            "Download YAML",
            spec.to_yaml(),
            "design.yaml",
            "application/yaml",
            icon=":material/download:",
            on_click="ignore",
        )
        made = partial(design_report, design.view(), design.home())
        st.download_button(
            "Save report",
            made,
            "design-report.html",
            "text/html",
            icon=":material/description:",
            on_click="ignore",
        )
        st.markdown("**For another framework**")
        for to, (label, kind) in FRAMEWORKS.items():
            _download(spec, to, label, kind)


def _download(spec: ArchSpec, to: str, label: str, kind: str) -> None:
    """The one file of a format, or the reason why it cannot say this design."""
    try:
        ((name, text),) = export(spec, to).items()
    except SpecError as error:
        st.caption(f"{label}: not possible. {design.plain(str(error).removeprefix(f'{to}: '))}")
        return
    st.download_button(
        f"Download {label}",
        text,
        name,
        kind,
        icon=":material/code:",
        on_click="ignore",
        key=f"share.{to}",
    )
    for line in notes(spec, to):
        st.caption(f"{design.plain(line[:1].upper() + line[1:])}.")
