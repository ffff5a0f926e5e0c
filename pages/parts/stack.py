"""The stack of layers: click a layer, or write its letter, to change its kind."""

import streamlit as st

from hybrid_core import placement
from hybrid_core.glossary import explain
from hybrid_core.report import figures
from hybrid_core.spec import ArchSpec
from hybrid_core.workload import Workload
from pages.parts import draft, layout

NEXT = "next kind"
CYCLE = "AMHS"


def draw(spec: ArchSpec, workload: Workload) -> None:
    """The picture and its two ways of change."""
    figure = figures.stack(spec, workload)
    layout.write_in_ink(figure)
    key = f"stack-{st.session_state.setdefault('stack.clicks', 0)}"  # a new chart has nothing selected
    st.segmented_control(
        "A click on a layer makes it", [NEXT, *placement.LETTERS], default=NEXT, format_func=_called, key="stack.kind", required=True
    )
    st.plotly_chart(
        figure,
        key=key,
        on_select=lambda: _clicked(key, spec.letters),
        selection_mode="points",
        config={"displayModeBar": False},
        alt=figures.told(figure),
    )
    st.session_state["stack.letters"] = spec.letters
    st.text_input(
        "The same as letters, first layer at the left",
        key="stack.letters",
        on_change=lambda: draft.set_kinds(st.session_state["stack.letters"]),
        help=explain("pattern"),
    )


def _called(kind: str) -> str:
    return placement.LETTERS.get(kind, kind)


def _clicked(key: str, pattern: str) -> None:
    """Change the kind of the layer that was clicked."""
    points = st.session_state[key].selection.points
    if not points:
        return
    layer = int(points[0]["y"])
    before, wanted = pattern[layer - 1], st.session_state["stack.kind"]
    after = CYCLE[(CYCLE.find(before) + 1) % len(CYCLE)] if wanted == NEXT else wanted
    draft.set_kinds(pattern[: layer - 1] + after + pattern[layer:])
    st.session_state["stack.clicks"] += 1
