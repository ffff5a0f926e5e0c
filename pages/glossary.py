"""Glossary: every term of the explorer in one line, and where each number comes from."""

import streamlit as st

from hybrid_core import glossary
from hybrid_core.report.sources import Origin, origins
from pages.parts import design, jobs, layout


def terms(wanted: str) -> bool:
    """The terms in whose line a word is; says whether there are any."""
    found = {}
    for group, lines in glossary.groups().items():
        rows = []
        for term, line in lines.items():
            if wanted in f"{term} {line}".casefold():
                rows.append({"term": f"`{term}`", "meaning": design.plain(line)})
        if rows:
            found[group] = rows
    for cell, (group, rows) in zip(
        layout.cells(len(found), layout.WIDE), found.items(), strict=True
    ):
        with cell:
            st.subheader(group)
            st.table(rows, hide_index=True, width="content")
    return bool(found)


def numbers(wanted: str) -> bool:
    """The numbers in whose entry a word is, each with an anchor; says whether there are any."""
    found = {}
    for key, origin in origins().items():
        if wanted in f"{origin.label} {' '.join(origin.counts)} {origin.source}".casefold():
            found[key] = origin
    if not found:
        return False
    st.header("Where numbers come from", anchor="where-numbers-come-from")
    for cell, (key, origin) in zip(
        layout.cells(len(found), layout.CHART), found.items(), strict=True
    ):
        with cell:
            number(key, origin)
    return True


def number(key: str, origin: Origin) -> None:
    """One entry: unit, conventions, formula, function and source."""
    st.subheader(origin.label, anchor=f"number-{key.replace('_', '-')}")
    st.caption(f"in {origin.unit}")
    st.markdown("\n".join(f"- **{name}**: {what}" for name, what in origin.conventions.items()))
    st.latex(origin.formula)
    st.markdown(f"`{origin.where}`")
    st.caption(f"Source: {design.plain(origin.source)}")


design.view()
st.title("Glossary")
jobs.strip()
st.markdown(
    "These lines are also behind the question marks beside the controls. "
    "[Where numbers come from](#where-numbers-come-from) has every number's formula and source."
)
wanted = st.text_input("Find", placeholder="a term or a word of its explanation").strip().casefold()
has_terms = terms(wanted)
has_numbers = numbers(wanted)
if not has_terms and not has_numbers:
    st.info(f"No term has “{design.plain(wanted)}” in it.")
