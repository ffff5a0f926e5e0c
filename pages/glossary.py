"""Glossary: every term of the explorer in one line."""

import streamlit as st

from hybrid_core import glossary
from pages.parts import design, jobs, layout


def matching(terms: dict[str, str], wanted: str) -> list[dict[str, str]]:
    """The terms with `wanted` in their name or explanation, as rows of a table."""
    rows = []
    for term, line in terms.items():
        if wanted in f"{term} {line}".casefold():
            rows.append({"term": f"`{term}`", "meaning": design.plain(line)})
    return rows


design.view()
st.title("Glossary")
jobs.strip()
st.markdown("The question marks beside the controls show the same lines.")
asked = st.text_input("Find", placeholder="a term or a word of its explanation").strip().casefold()
found = {}
for group, terms in glossary.groups().items():
    rows = matching(terms, asked)
    if rows:
        found[group] = rows
for cell, (group, rows) in zip(layout.cells(len(found), layout.WIDE), found.items(), strict=True):
    with cell:
        st.subheader(group)
        st.table(rows, hide_index=True, width="content")
if not found:
    st.info(f"No term has “{design.plain(asked)}” in it.")
