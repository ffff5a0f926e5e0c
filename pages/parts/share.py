"""The Share menu: the link to the view, its report, and the design as YAML, as Python or as another
framework's config."""

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
    """The menu. Its link opens `page`."""
    menu = st.popover(
        "Share",
        icon=":material/share:",
        key="share",
        on_change="rerun",
    )
    if not menu.open:
        return
    with menu:
        st.markdown("**Link to this view** (the button on the right copies it)")
        st.code(design.address(page), language=None, wrap_lines=True)
        _files(spec)
        st.markdown("**For another framework**")
        for to, (label, media_type) in FRAMEWORKS.items():
            _download(spec, to, label, media_type)


def _files(spec: ArchSpec) -> None:
    """The design as YAML, and the report of the view."""
    st.download_button(
        "Download YAML",
        spec.to_yaml(),
        "design.yaml",
        "application/yaml",
        icon=":material/download:",
        on_click="ignore",
    )
    make_report = partial(design_report, design.view(), design.home())
    st.download_button(
        "Save report",
        make_report,
        "design-report.html",
        "text/html",
        icon=":material/description:",
        on_click="ignore",
    )


def _download(spec: ArchSpec, to: str, label: str, media_type: str) -> None:
    """The file of a format, or the reason why the format cannot express this design."""
    try:
        ((name, text),) = export(spec, to).items()
    except SpecError as error:
        why = str(error).removeprefix(f"{to}: ")
        st.caption(f"{label}: not possible. {design.plain(why)}")
        return
    st.download_button(
        f"Download {label}",
        text,
        name,
        media_type,
        icon=":material/code:",
        on_click="ignore",
        key=f"share.{to}",
    )
    for line in notes(spec, to):
        sentence = line[:1].upper() + line[1:]
        st.caption(f"{design.plain(sentence)}.")
