"""Advice beside the control that it speaks of."""

from collections import defaultdict

import streamlit as st

from hybrid_core.evidence.advice.advise import Advice
from pages.parts import design

Notes = dict[str, list[Advice]]


def by_control(advice: list[Advice]) -> Notes:
    """Advice under the name of its control, weightiest first."""
    notes: Notes = defaultdict(list)
    for item in advice:
        notes[item.rule.control].append(item)
    return notes


def show(notes: Notes, *controls: str) -> None:
    """Warnings in full, options behind a button that says how many there are."""
    found = [item for control in controls for item in notes.get(control, ())]
    with (
        st.container()
    ):  # also where there is no advice, so that the controls below keep their place
        for item in found:
            if item.rule.kind == "warning":
                st.caption(f":orange[:material/warning:] {_text(item)}")
        if options := [item for item in found if item.rule.kind == "option"]:
            with st.popover(
                f"{len(options)} {'finding' if len(options) == 1 else 'findings'} of the paper",
                icon=":material/lightbulb:",
            ):
                for item in options:
                    st.markdown(_text(item))


def _text(item: Advice) -> str:
    return f"{design.plain(item.rule.text)} *{item.sources}*"
