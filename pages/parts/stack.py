"""The stack of layers: press a layer, or write its letter, to change its kind."""

from collections import Counter
from typing import Any

import streamlit as st

from hybrid_core.design import placement
from hybrid_core.design.spec import ArchSpec
from hybrid_core.glossary import explain
from hybrid_core.report import figures
from hybrid_core.workload import Workload
from pages.parts import browser, draft

NEXT = "next kind"
CYCLE = "AMHS"
KEY = "stack.picture"

_stack = browser.component("stack")


def draw(spec: ArchSpec, workload: Workload) -> None:
    """The picture and its two ways of change."""
    st.segmented_control(
        "A press on a layer makes it",
        [NEXT, *placement.LETTERS],
        default=NEXT,
        format_func=_called,
        key="stack.kind",
        required=True,
    )
    _stack(key=KEY, data=_picture(spec, workload), on_asked_change=lambda: _asked(spec.letters))
    st.session_state["stack.letters"] = st.session_state.pop("stack.refused", spec.letters)
    st.text_input(
        "The same as letters, first layer at the left",
        key="stack.letters",
        on_change=_written,
        help=explain("pattern"),
    )


def _picture(spec: ArchSpec, workload: Workload) -> dict[str, Any]:
    """What web/static/stack.js draws: rows that look the same are sent once."""
    layers = figures.layers(spec, workload)
    looks = {layer: i for i, layer in enumerate(dict.fromkeys(layers))}
    kinds = Counter(layer.kind for layer in layers)
    return {
        "title": figures.STACK_TITLE,
        "source": figures.stack_source(workload),
        "told": "Layers, first on top; arrow keys walk, Enter changes a layer's kind, a letter picks it: "
        + ", ".join(f"{letter} {name}" for letter, name in placement.LETTERS.items()),
        "letters": list(placement.LETTERS),
        "kinds": [
            {"label": kind.label, "colour": kind.colour, "layers": n} for kind, n in kinds.items()
        ],
        "looks": [
            {
                "label": layer.kind.label,
                "colour": layer.kind.colour,
                "ink": "#000" if layer.kind.light else "#fff",
                "of_params": layer.of_params,
                "of_flops": layer.of_flops,
                "told": layer.told,
            }
            for layer in looks
        ],
        "rows": [looks[layer] for layer in layers],
        "most": max(max(layer.of_params, layer.of_flops) for layer in looks),
    }


def _called(kind: str) -> str:
    return placement.LETTERS.get(kind, kind)


def _written() -> None:
    """Make the stack what was written; what is refused stays in the box, to be mended."""
    letters = st.session_state["stack.letters"]
    draft.set_kinds(letters)
    if "form.problem" in st.session_state:
        st.session_state["stack.refused"] = letters


def _asked(pattern: str) -> None:
    """Change the kind of the layer that was pressed: to the letter typed, to the kind picked above,
    or to the next."""
    asked = st.session_state[KEY].asked
    if not asked:
        return
    layer = int(asked["layer"])
    if not 1 <= layer <= len(pattern):
        return
    before, wanted = pattern[layer - 1], asked["kind"] or st.session_state["stack.kind"]
    after = CYCLE[(CYCLE.find(before) + 1) % len(CYCLE)] if wanted == NEXT else wanted
    draft.set_kinds(pattern[: layer - 1] + after + pattern[layer:])
