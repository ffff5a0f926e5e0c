"""Where a strategy places its attention (or intra-hybrid) layers: by a rule, picked by its picture,
or layers named one by one."""

from typing import Any

import streamlit as st

from hybrid_core.design import placement
from hybrid_core.glossary import explain
from pages.parts import browser, draft, pictures

KEY = "places"
FIELD = draft.field("layers.placement")

_places = browser.component("places")


def draw(strategy: placement.Strategy) -> None:
    """Every rule as a picture of the stack that it makes. `scatter` is another name of `middle`, so
    it is shown only where it was chosen."""
    chosen = draft.value("layers.placement")
    shown = [name for name in placement.PLACEMENTS if name != "scatter" or chosen == "scatter"]
    by_hand = {"name": "custom", "words": "custom: the layers you name", "lines": {}}
    data = {
        "title": "Placement, first layer at the left",
        "says": explain("placement"),
        "rules": [*_pictures(strategy, shown), by_hand],
        "layers": draft.value("n_layers"),
        "chosen": chosen,
    }
    _places(key=KEY, data=data, on_chosen_change=_chosen)
    if chosen == "custom":
        expensive = placement.LETTERS[placement.MIXTURES[strategy][0]]
        st.text_input(
            f"Layers of kind {expensive}",
            key=draft.field("layers.indices"),
            help=explain("indices"),
        )


def _pictures(
    strategy: placement.Strategy, names: list[placement.Placement]
) -> list[dict[str, Any]]:
    n_layers = draft.value("n_layers")
    ratio = (draft.value("layers.a"), draft.value("layers.b"))
    k = placement.n_expensive(n_layers, ratio) if sum(ratio) else 0
    drawn = []
    for name in names:
        stack = placement.pattern(
            strategy,
            n_layers,
            placement.place(k, n_layers, name),
        )
        lines = pictures.lines(stack, pictures.COLOURS)
        drawn.append({"name": name, "words": name, "lines": lines})
    return drawn


def _chosen() -> None:
    name = st.session_state[KEY].chosen
    if name in (*placement.PLACEMENTS, "custom"):
        st.session_state[FIELD] = name
