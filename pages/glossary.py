"""Glossary: every term of the explorer in one line, and where each number comes from."""

import streamlit as st

from hybrid_core import glossary
from hybrid_core.report.sources import Origin, origins
from pages.parts import design, jobs, layout


def _show_terms(wanted: str) -> bool:
    """The terms whose line contains `wanted`. Returns whether there are any."""
    found = {}
    for group, lines in glossary.groups().items():
        rows = _matching_rows(lines, wanted)
        if rows:
            found[group] = rows
    cells = layout.cells(len(found), layout.WIDE)
    for cell, (group, rows) in zip(cells, found.items(), strict=True):
        with cell:
            st.subheader(group)
            st.table(rows, hide_index=True, width="content")
    return bool(found)


def _matching_rows(lines: dict[str, str], wanted: str) -> list[dict[str, str]]:
    rows = []
    for term, line in lines.items():
        if wanted in f"{term} {line}".casefold():
            rows.append({"term": f"`{term}`", "meaning": design.plain(line)})
    return rows


def _show_numbers(wanted: str) -> bool:
    """The numbers whose entry contains `wanted`, each with an anchor. Returns whether there are
    any."""
    found = {}
    for key, origin in origins().items():
        if wanted in _searched(origin):
            found[key] = origin
    if not found:
        return False
    st.header("Where numbers come from", anchor="where-numbers-come-from")
    cells = layout.cells(len(found), layout.CHART)
    for cell, (key, origin) in zip(cells, found.items(), strict=True):
        with cell:
            _show_number(key, origin)
    return True


def _searched(origin: Origin) -> str:
    """The text of an entry that the search looks through."""
    conventions = " ".join(origin.counts)
    return f"{origin.label} {conventions} {origin.source}".casefold()


def _show_number(key: str, origin: Origin) -> None:
    """One entry: unit, conventions, formula, function and source."""
    anchor = key.replace("_", "-")
    st.subheader(origin.label, anchor=f"number-{anchor}")
    st.caption(f"in {origin.unit}")
    conventions = [f"- **{name}**: {what}" for name, what in origin.conventions.items()]
    st.markdown("\n".join(conventions))
    st.latex(origin.formula)
    st.markdown(f"`{origin.where}`")
    st.caption(f"Source: {design.plain(origin.source)}")


design.view()
st.title("Glossary")
jobs.strip()
st.markdown(
    "The question marks next to controls show these lines. "
    "[Where numbers come from](#where-numbers-come-from) has the formula and the source of every "
    "number."
)
typed = st.text_input("Find", placeholder="a term or a word from its explanation")
wanted = typed.strip().casefold()
has_terms = _show_terms(wanted)
has_numbers = _show_numbers(wanted)
if not has_terms and not has_numbers:
    st.info(f"No term contains “{design.plain(wanted)}”.")
