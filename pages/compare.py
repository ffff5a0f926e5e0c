"""Compare: up to four designs side by side, with the figures that differ first."""

import streamlit as st

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import published
from hybrid_core.interop.link import MAX_COMPARED, View
from hybrid_core.report import compare
from hybrid_core.report.figures import style
from hybrid_core.report.figures.designs import beside_each_other
from hybrid_core.speed import hardware
from pages.parts import chart, design, facts, jobs, layout, pictures, share


def _controls(view: View) -> None:
    """Add a design, or share the comparison."""
    row = st.container(horizontal=True, vertical_alignment="bottom")
    with row:
        st.selectbox(
            "Add a design of the paper or a published model",
            [*presets.ordered(), *published.models()],
            index=None,
            key="compare.add",
            on_change=_add,
            disabled=len(view.others) >= MAX_COMPARED,
            help=f"Up to {MAX_COMPARED} next to the first. To add a design of your own, click "
            "“Keep for comparison” on Compose",
            width=360,
        )
        share.draw(view.design, "compare")


def _add() -> None:
    """Add the design that was picked from the list."""
    name = st.session_state["compare.add"]
    if name:
        design.change(compared=(*design.view().others, published.resolve(name)))
        st.session_state["compare.add"] = None


def _cards(designs: list[style.Named]) -> None:
    """One card per design. The first is the one on Compose."""
    cells = layout.cells(len(designs), layout.CARD + 40)
    for index, (cell, (label, spec)) in enumerate(zip(cells, designs, strict=True)):
        with cell.container(border=True):
            st.markdown(f"**{design.plain(label)}**")
            st.markdown(pictures.strip(spec.pattern, pictures.colours(spec)))
            st.caption(f"{spec.n_layers} layers, d_model {spec.d_model}")
            if index > 0:
                _card_buttons(index, spec)
            elif st.button("Change in Compose"):
                layout.go("compose")


def _card_buttons(index: int, spec: ArchSpec) -> None:
    row = st.container(horizontal=True)
    row.button(
        "Remove",
        key=f"remove-{index}",
        on_click=_remove,
        args=(spec,),
        help="Remove this design from the comparison",
    )
    row.button(
        "Make first",
        key=f"first-{index}",
        on_click=_make_first,
        args=(spec,),
        help="Swap it with the design on Compose",
    )


def _remove(spec: ArchSpec) -> None:
    left = [other for other in design.view().others if other != spec]
    design.change(compared=tuple(left))


def _make_first(spec: ArchSpec) -> None:
    """Swap a design with the one on Compose."""
    view = design.view()
    others = list(view.others)
    if spec in others:
        others[others.index(spec)] = view.design
    design.change(compared=tuple(others))
    design.open_in_compose(spec)


def _figures(designs: list[style.Named], view: View, device: hardware.Hardware) -> None:
    """The figures in which the designs differ, then those that are the same."""
    columns = [compare.design_facts(item.spec, view.workload, device) for item in designs]
    differ, alike = compare.parted([item.label for item in designs], columns)
    sources = compare.design_sources(view.design, view.workload, device)
    facts.draw("compare.differ", differ, sources)
    with st.expander(f"{len(alike)} figures that are the same"):
        facts.draw("compare.alike", alike, sources)
    workload = view.workload
    st.caption(
        "Costs first, then dimensions. "
        f"Batch {workload.batch_size}, {workload.context_len:,} tokens: set on Compose."
    )


def _charts(designs: list[style.Named], view: View, device: hardware.Hardware) -> None:
    drawn = beside_each_other(designs, view.workload, device)
    chart.row({f"compare-{key}": figure for key, figure in drawn.items()}, layout.WIDE)


def _changes(designs: list[style.Named]) -> None:
    """What to change in the first design's YAML to get each of the others."""
    first, *others = designs
    st.subheader(f"What to change in the YAML of {design.plain(first.label)}")
    tabs = st.tabs([f"to get {item.label}" for item in others])
    for tab, (label, spec) in zip(tabs, others, strict=True):
        diff = compare.yaml_diff(first.spec, spec)
        tab.code(diff or f"Nothing: {label} is the same design.", language="diff")


view = design.view()
designs = compare.named([view.design, *view.others])
device = hardware.get(view.hardware)
st.title("Compare")
jobs.strip()
_controls(view)
_cards(designs)
if not view.others:
    st.info(
        "There is nothing to compare yet. Add a design above. Or click “Keep for comparison” on "
        "Compose and change the design there."
    )
    st.stop()
_figures(designs, view, device)
_charts(designs, view, device)
_changes(designs)
