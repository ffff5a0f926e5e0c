"""The stack of layers. The user clicks a layer, or types its letter, to change its kind."""

from collections import Counter
from itertools import starmap
from typing import Any

import streamlit as st

from hybrid_core.design.spec import ArchSpec
from hybrid_core.glossary import explain
from hybrid_core.mixers.base import Entry
from hybrid_core.report.figures.stack import STACK_TITLE, Layer, stack_layers, stack_source
from hybrid_core.workload import Workload
from pages.parts import browser, draft

NEXT = "next kind"
CYCLE = "AMHS"  # the kinds that "next kind" goes through; others have to be picked
KEY = "stack.picture"

_stack = browser.component("stack")


def draw(spec: ArchSpec, workload: Workload) -> None:
    """The picture, and its letters below. Either changes the stack."""
    offered = draft.offered()
    st.segmented_control(
        "Click a layer to make it",
        [NEXT, *offered],
        default=NEXT,
        format_func=lambda letter: offered.get(letter, letter),
        key="stack.kind",
        required=True,
    )
    _stack(
        key=KEY,
        data=_picture(spec, workload, offered),
        on_asked_change=lambda: _change_clicked(spec.letters),
    )
    st.session_state["stack.letters"] = st.session_state.pop("stack.refused", spec.letters)
    st.text_input(
        "The same as letters, first layer on the left",
        key="stack.letters",
        on_change=_change_typed,
        help=explain("pattern"),
    )


def _picture(spec: ArchSpec, workload: Workload, offered: dict[str, str]) -> dict[str, Any]:
    """What web/static/stack.js draws. Layers that look the same are described once."""
    layers = stack_layers(spec, workload)
    looks = {layer: index for index, layer in enumerate(dict.fromkeys(layers))}
    longest = [max(layer.of_params, layer.of_flops) for layer in looks]
    legend = ", ".join(f"{letter} {name}" for letter, name in offered.items())
    kinds = Counter(layer.kind for layer in layers)
    return {
        "title": STACK_TITLE,
        "source": stack_source(workload),
        "told": "Layers, the first on top. Arrow keys move, Enter changes a layer's kind, "
        f"a letter picks it: {legend}",
        "letters": list(offered),
        "kinds": list(starmap(_legend_row, kinds.items())),
        "looks": list(map(_look, looks)),
        "rows": [looks[layer] for layer in layers],
        "most": max(longest),
    }


def _legend_row(kind: Entry, n_layers: int) -> dict[str, Any]:
    return {"label": kind.label, "colour": kind.colour, "layers": n_layers}


def _look(layer: Layer) -> dict[str, Any]:
    """How a layer is drawn."""
    ink = "#fff"
    if layer.kind.light:
        ink = "#000"
    return {
        "label": layer.kind.label,
        "colour": layer.kind.colour,
        "ink": ink,
        "of_params": layer.of_params,
        "of_flops": layer.of_flops,
        "told": layer.told,
    }


def _change_typed() -> None:
    """Make the typed letters the stack. If they are refused, they stay in the box to be
    corrected."""
    letters = st.session_state["stack.letters"]
    draft.set_kinds(draft.as_letters(letters))
    if "form.problem" in st.session_state:
        st.session_state["stack.refused"] = letters


def _change_clicked(pattern: str) -> None:
    """Change the kind of the layer that was clicked: to the letter typed on it, to the kind picked
    above, or to the next one."""
    asked = st.session_state[KEY].asked
    if not asked:
        return
    layer = int(asked["layer"])
    if not 1 <= layer <= len(pattern):
        return
    before, after = pattern[: layer - 1], pattern[layer:]
    wanted = asked["kind"] or st.session_state["stack.kind"]
    if wanted == NEXT:
        wanted = _next_kind(pattern[layer - 1])
    draft.set_kinds(before + wanted + after)


def _next_kind(letter: str) -> str:
    place = CYCLE.find(letter)  # -1 for a kind outside the cycle, so A comes next
    return CYCLE[(place + 1) % len(CYCLE)]
