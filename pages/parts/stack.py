"""The stack of layers. Click a layer, or write its letter, to change its kind."""

from collections import Counter
from typing import Any

import streamlit as st

from hybrid_core.design.spec import ArchSpec
from hybrid_core.glossary import explain
from hybrid_core.mixers.base import Entry
from hybrid_core.report.figures.stack import STACK_TITLE, Layer, stack_layers, stack_source
from hybrid_core.workload import Workload
from pages.parts import browser, draft

NEXT = "next kind"
CYCLE = "AMHS"  # what clicking goes through; other kinds are picked
KEY = "stack.picture"

_stack = browser.component("stack")


def draw(spec: ArchSpec, workload: Workload) -> None:
    """The picture, and the letters below it; either changes the stack."""
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
        data=_picture(spec, workload),
        on_asked_change=lambda: _asked(spec.letters),
    )
    st.session_state["stack.letters"] = st.session_state.pop("stack.refused", spec.letters)
    st.text_input(
        "The same as letters, first layer at the left",
        key="stack.letters",
        on_change=_written,
        help=explain("pattern"),
    )


def _picture(spec: ArchSpec, workload: Workload) -> dict[str, Any]:
    """What web/static/stack.js draws. Rows that look the same are sent once."""
    offered = draft.offered()
    legend = ", ".join(f"{letter} {name}" for letter, name in offered.items())
    layers = stack_layers(spec, workload)
    looks = {layer: i for i, layer in enumerate(dict.fromkeys(layers))}
    kinds = Counter(layer.kind for layer in layers)
    longest = [max(layer.of_params, layer.of_flops) for layer in looks]
    drawn = [_look(layer) for layer in looks]
    legend_rows = [_legend_row(kind, n) for kind, n in kinds.items()]
    rows = [looks[layer] for layer in layers]
    return {
        "title": STACK_TITLE,
        "source": stack_source(workload),
        "told": "Layers, first on top. Arrow keys walk, Enter changes a layer's kind, "
        f"a letter picks it: {legend}",
        "letters": list(offered),
        "kinds": legend_rows,
        "looks": drawn,
        "rows": rows,
        "most": max(longest),
    }


def _legend_row(kind: Entry, n_layers: int) -> dict[str, Any]:
    return {"label": kind.label, "colour": kind.colour, "layers": n_layers}


def _look(layer: Layer) -> dict[str, Any]:
    """How a layer is drawn."""
    return {
        "label": layer.kind.label,
        "colour": layer.kind.colour,
        "ink": "#000" if layer.kind.light else "#fff",
        "of_params": layer.of_params,
        "of_flops": layer.of_flops,
        "told": layer.told,
    }


def _written() -> None:
    """Make the stack what was written. What is refused stays in the box, so that one can mend
    it."""
    letters = st.session_state["stack.letters"]
    draft.set_kinds(draft.as_letters(letters))
    if "form.problem" in st.session_state:
        st.session_state["stack.refused"] = letters


def _asked(pattern: str) -> None:
    """Change the kind of the layer that was clicked: to the letter typed on it, to the kind picked
    above, or to the next."""
    asked = st.session_state[KEY].asked
    if not asked:
        return
    layer = int(asked["layer"])
    if not 1 <= layer <= len(pattern):
        return
    wanted = asked["kind"] or st.session_state["stack.kind"]
    if wanted == NEXT:
        place = CYCLE.find(pattern[layer - 1])  # -1 for a kind beside the cycle, so A comes next
        wanted = CYCLE[(place + 1) % len(CYCLE)]
    draft.set_kinds(pattern[: layer - 1] + wanted + pattern[layer:])
