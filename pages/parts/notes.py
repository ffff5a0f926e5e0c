"""Advice next to the control that it is about."""

from collections import defaultdict

import streamlit as st

from hybrid_core.evidence.advice.advise import Advice
from pages.parts import design

Notes = dict[str, list[Advice]]


def by_control(advice: list[Advice]) -> Notes:
    """Advice by the name of its control, the most important first."""
    notes: Notes = defaultdict(list)
    for item in advice:
        notes[item.rule.control].append(item)
    return notes


def show(notes: Notes, *controls: str) -> None:
    """Warnings in full; options behind a button that shows how many there are."""
    found: list[Advice] = []
    for control in controls:
        found += notes.get(control, [])
    # The container is there even without advice, so that the controls below keep their place.
    with st.container():
        for item in found:
            if item.rule.kind == "warning":
                st.caption(f":orange[:material/warning:] {_text(item)}")
        _show_options([item for item in found if item.rule.kind == "option"])


def _show_options(options: list[Advice]) -> None:
    if not options:
        return
    findings = "findings"
    if len(options) == 1:
        findings = "finding"
    with st.popover(f"{len(options)} {findings} of the paper", icon=":material/lightbulb:"):
        for item in options:
            st.markdown(_text(item))


def _text(item: Advice) -> str:
    return f"{design.plain(item.rule.text)} *{item.sources}*"
