"""Compare: up to four designs side by side, what differs first."""

import streamlit as st

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import published
from hybrid_core.interop.link import MAX_COMPARED
from hybrid_core.report import compare
from hybrid_core.report.figures import style
from hybrid_core.report.figures.designs import beside_each_other
from hybrid_core.speed import hardware
from pages.parts import chart, design, jobs, layout, pictures, share


def cards(designs: list[style.Named]) -> None:
    """One card a design, the first being the one on Compose."""
    cells = layout.cells(len(designs), layout.CARD + 40)
    for index, (cell, (label, spec)) in enumerate(zip(cells, designs, strict=True)):
        with cell.container(border=True):
            st.markdown(f"**{design.plain(label)}**")
            st.markdown(pictures.strip(spec.pattern, pictures.colours(spec)))
            st.caption(f"{spec.n_layers} layers, d_model {spec.d_model}")
            if index == 0:
                if st.button("Change in Compose"):
                    layout.go("compose")
                continue
            row = st.container(horizontal=True)
            row.button(
                "Remove", key=f"remove-{index}", on_click=remove, args=(spec,), help="Take it away"
            )
            row.button(
                "Make first",
                key=f"first-{index}",
                on_click=make_first,
                args=(spec,),
                help="It changes places with the design on Compose",
            )


def remove(spec: ArchSpec) -> None:
    """Take a design away."""
    left = [other for other in design.view().others if other != spec]
    design.change(compared=tuple(left))


def make_first(spec: ArchSpec) -> None:
    """Let a design change places with the one on Compose."""
    view = design.view()
    others = list(view.others)
    if spec in others:
        others[others.index(spec)] = view.design
    design.change(compared=tuple(others))
    design.open_in_compose(spec)


def add() -> None:
    """What was picked from the list."""
    name = st.session_state["compare.add"]
    if name:
        design.change(compared=(*design.view().others, published.resolve(name)))
        st.session_state["compare.add"] = None


view = design.view()
designs = compare.named([view.design, *view.others])
device = hardware.get(view.hardware)
st.title("Compare")
jobs.strip()
with st.container(horizontal=True, vertical_alignment="bottom"):
    st.selectbox(
        "Add a design of the paper or a published model",
        [*presets.ordered(), *published.models()],
        index=None,
        key="compare.add",
        on_change=add,
        disabled=len(view.others) >= MAX_COMPARED,
        help=f"Up to {MAX_COMPARED} beside the first. Your own: “Keep for comparison” on Compose",
        width=360,
    )
    share.draw(view.design, "compare")
cards(designs)
if not view.others:
    st.info(
        "There is nothing to compare yet. Add a design above, or click “Keep for comparison” on "
        "Compose and change the design there."
    )
    st.stop()
facts = [compare.design_facts(item.spec, view.workload, device) for item in designs]
differ, alike = compare.parted([item.label for item in designs], facts)
layout.table(differ)
with st.expander(f"{len(alike)} figures in which they are alike"):
    layout.table(alike)
workload = f"Batch {view.workload.batch_size}, {view.workload.context_len:,} tokens: set on Compose"
st.caption(f"Costs first, then dimensions. {workload}.")
st.markdown("[Where each number comes from](glossary#where-numbers-come-from)")
drawn = beside_each_other(designs, view.workload, device)
for cell, (key, figure) in zip(layout.cells(len(drawn), layout.WIDE), drawn.items(), strict=True):
    with cell:
        chart.show(figure, f"compare-{key}")
st.subheader(f"What to change in the YAML of {design.plain(designs[0].label)}")
tabs = st.tabs([f"to have {item.label}" for item in designs[1:]])
for tab, (label, spec) in zip(tabs, designs[1:], strict=True):
    diff = compare.yaml_diff(view.design, spec)
    tab.code(diff or f"Nothing: {label} is the same design.", language="diff")
