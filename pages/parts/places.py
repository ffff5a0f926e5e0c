"""Where a strategy places its expensive layers: a rule, picked by its picture, or layers named one
by one."""

from typing import Any

import streamlit as st

from hybrid_core.design import placement
from hybrid_core.glossary import explain
from pages.parts import browser, draft, pictures

KEY = "places"
FIELD = draft.field("layers.placement")

_places = browser.component("places")


def draw(strategy: placement.Strategy) -> None:
    """Every rule as a picture of the stack it makes; `scatter` is another name of `middle`."""
    shown = [
        name
        for name in placement.PLACEMENTS
        if name != "scatter" or draft.value("layers.placement") == "scatter"
    ]
    data = {
        "title": "Placement, first layer at the left",
        "says": explain("placement"),
        "rules": [
            *_pictures(strategy, shown),
            {"name": "custom", "words": "custom: the layers you name", "lines": {}},
        ],
        "layers": draft.value("n_layers"),
        "chosen": draft.value("layers.placement"),
    }
    _places(key=KEY, data=data, on_chosen_change=_chosen)
    if draft.value("layers.placement") == "custom":
        expensive = placement.LETTERS[placement.MIXTURES[strategy][0]]
        st.text_input(
            f"Layers of kind {expensive}",
            key=draft.field("layers.indices"),
            help=explain("indices"),
        )


def _pictures(
    strategy: placement.Strategy, names: list[placement.Placement]
) -> list[dict[str, Any]]:
    n_layers, ratio = draft.value("n_layers"), (draft.value("layers.a"), draft.value("layers.b"))
    k = placement.n_expensive(n_layers, ratio) if sum(ratio) else 0
    stacks = {
        name: placement.pattern(strategy, n_layers, placement.place(k, n_layers, name))
        for name in names
    }
    return [
        {"name": name, "words": name, "lines": pictures.lines(stack, pictures.COLOURS)}
        for name, stack in stacks.items()
    ]


def _chosen() -> None:
    if (name := st.session_state[KEY].chosen) in (*placement.PLACEMENTS, "custom"):
        st.session_state[FIELD] = name
