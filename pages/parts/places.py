"""Where a strategy places its attention (or intra-hybrid) layers. The user picks a rule by its
picture, or lists the layers."""

from typing import Any

import streamlit as st

from hybrid_core.design import placement
from hybrid_core.glossary import explain
from pages.parts import browser, draft, pictures

KEY = "places"
FIELD = draft.field("layers.placement")
BY_HAND = {"name": "custom", "words": "custom: the layers you name", "lines": {}}

_places = browser.component("places")


def draw(strategy: placement.Strategy) -> None:
    """A choice of rules, each with a picture of the stack that it makes."""
    chosen = draft.value("layers.placement")
    rules = [_rule(strategy, name) for name in _shown(chosen)]
    data = {
        "title": "Placement, first layer on the left",
        "says": explain("placement"),
        "rules": [*rules, BY_HAND],
        "layers": draft.value("n_layers"),
        "chosen": chosen,
    }
    _places(key=KEY, data=data, on_chosen_change=_choose)
    if chosen == "custom":
        placed, _ = placement.MIXTURES[strategy]
        st.text_input(
            f"Layers of kind {placement.LETTERS[placed]}",
            key=draft.field("layers.indices"),
            help=explain("indices"),
        )


def _shown(chosen: str) -> list[placement.Placement]:
    """The rules to choose from. `scatter` is the paper's other name for `middle`, so it is offered
    only if the design uses it."""
    names = list(placement.PLACEMENTS)
    if chosen != "scatter":
        names.remove("scatter")
    return names


def _rule(strategy: placement.Strategy, name: placement.Placement) -> dict[str, Any]:
    """A rule with the stack that it makes."""
    n_layers = draft.value("n_layers")
    ratio = (draft.value("layers.a"), draft.value("layers.b"))
    n_placed = 0
    if sum(ratio):
        n_placed = placement.n_with_attention(n_layers, ratio)
    indices = placement.place(n_placed, n_layers, name)
    stack = placement.pattern(strategy, n_layers, indices)
    lines = pictures.lines(stack, pictures.COLOURS)
    return {"name": name, "words": name, "lines": lines}


def _choose() -> None:
    name = st.session_state[KEY].chosen
    if name in (*placement.PLACEMENTS, "custom"):
        st.session_state[FIELD] = name
