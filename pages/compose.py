"""Compose: the design, its costs beside a reference, and where they come from."""

import pandas as pd
import streamlit as st

from hybrid_core.costs.model import SAME_SIZE, same_size_llama
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines
from hybrid_core.evidence.advice.advise import advise
from hybrid_core.evidence.quality.estimator import Estimate, estimate
from hybrid_core.evidence.quality.quoted import quoted
from hybrid_core.evidence.quality.scaling import COVERAGE
from hybrid_core.evidence.throughput import generated
from hybrid_core.glossary import explain
from hybrid_core.interop.kernel_shapes import kernel_refusals
from hybrid_core.interop.link import MAX_COMPARED, View
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.retrieval.options import NiahOptions
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.report import figures
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import cost
from hybrid_core.validation import SpecError
from hybrid_core.workload import Workload
from pages.parts import (
    chart,
    design,
    draft,
    form,
    guide,
    jobs,
    layout,
    notes,
    numbers,
    pictures,
    share,
    stack,
    work,
)


def references(view: View) -> dict[str, ArchSpec | None]:
    """What differences can be taken against: presets, designs kept for comparison, and, as None,
    the Llama of the same size."""
    own = [*view.compared, *([view.reference] if view.reference else [])]
    kept = {f"kept: {spec.name}": spec for spec in own if spec.name not in presets.names()}
    known = {
        SAME_SIZE: None,
        **kept,
        **{name: presets.get(name).spec for name in presets.ordered()},
    }
    if st.session_state.get("form.reference") not in known:
        name = view.reference.name if view.reference else SAME_SIZE
        st.session_state["form.reference"] = name if name in known else f"kept: {name}"
    return known


def keep_for_comparison(spec: ArchSpec) -> None:
    """Let it stand beside what is composed from here on; the oldest makes room."""
    kept = dict.fromkeys((*design.view().compared, spec))
    design.change(compared=tuple(kept)[-MAX_COMPARED:])
    st.toast(f"{design.plain(spec.name)} is kept for the Compare page.")


def buttons(spec: ArchSpec) -> None:
    """Profile, take away, and the way back."""
    profile = st.button("Profile this design", type="primary", icon=":material/speed:")
    if profile and jobs.start(lambda: (spec, ProfileOptions())):
        layout.go("profile")
    help_retrieval = "Trains a small proxy for two to four minutes and asks it for needles"
    retrieval = st.button("Test retrieval", icon=":material/search:", help=help_retrieval)
    if retrieval and jobs.start(lambda: (spec, NiahOptions())):
        layout.go("retrieval")
    if st.button("Guided start", icon=":material/explore:"):
        guide.ask()
    st.button(
        "Keep for comparison",
        icon=":material/compare_arrows:",
        on_click=keep_for_comparison,
        args=(spec,),
    )
    share.draw(spec)
    for label, by, icon in (("Undo", -1, ":material/undo:"), ("Redo", 1, ":material/redo:")):
        st.button(
            label,
            icon=icon,
            disabled=not design.can_step(by),
            on_click=lambda by=by: draft.load(design.step(by)),
        )


AGAINST, LIMITS, PAPER = "Against context", "Memory limits", "What the paper says"


def charts(
    spec: ArchSpec,
    other: ArchSpec,
    workload: Workload,
    device: hardware.Hardware,
) -> None:
    """The stack with its FLOPs and memory, and one further view."""
    pair = [figures.Named(spec.name, spec), figures.Named(other.name, other)]
    left, right = layout.cells(2, layout.CHART)
    with left:
        stack.draw(spec, workload)
    with right:
        chart.show(figures.flops_by_part(pair[:1], workload), "flops")
        chart.show(figures.memory_by_part(pair, workload, device), "memory")
    with (
        right if spec.n_layers > pictures.FEW else st.container()
    ):  # beside a stack that is high enough
        by_context(pair, workload, device)


def by_context(
    pair: list[figures.Named],
    workload: Workload,
    device: hardware.Hardware,
) -> None:
    """One view of several: what is not looked at is not drawn, which keeps changes quick."""
    shown = st.segmented_control(
        "Look at",
        [AGAINST, LIMITS, PAPER],
        default=AGAINST,
        required=True,
        key="compose.look",
        label_visibility="collapsed",
    )
    if shown == PAPER:
        findings(pair[0].spec, workload.context_len)
        return
    drawn = {
        AGAINST: {"cache": figures.cache_by_context, "decode": figures.decode_by_context},
        LIMITS: {"memory-context": figures.memory_by_context, "longest": figures.longest_context},
    }[shown]
    for cell, (key, draw) in zip(layout.cells(2, layout.CHART), drawn.items(), strict=True):
        with cell:
            chart.show(draw(pair, workload, device), key)


def findings(spec: ArchSpec, context_len: int) -> None:
    """The loss and speed that the paper prints, the loss that its rows suggest, and the rows
    closest to the design."""
    if printed := quoted(spec):
        st.markdown(f"The paper trained this stack: NLL on DCLM **{printed}**, in nats per token.")
    if speed := generated(spec, context_len):
        st.markdown(f"The paper's own code generated {speed}.")
    found = estimate(spec)
    if isinstance(found, Estimate):
        st.markdown(
            f"NLL on DCLM **{found.nll:.3f}** nats per token at 60B tokens, "
            f"{found.low:.3f} to {found.high:.3f}: estimated from "
            f"{found.basis}. The interval is as wide as {COVERAGE:.0%} of the errors "
            "when rows are left out and predicted from "
            f"{found.rests_on}."
        )
    else:
        st.markdown(
            "No estimate of the loss at 60B tokens, outside the paper's range: "
            f"{design.plain(found.reason)}."
        )
    st.markdown("**Nearest rows**")
    rows = baselines.nearest(spec)
    shown = {
        f"{row['model']} {row['scale']}, Table {row['table']}, {i}": {
            "attention": str(row["n_attn"]),
            "window": str(row["n_swa"]),
            "Mamba": str(row["n_ssm"]),
            "intra": str(row["n_hyb"]),
            "NLL DCLM (nats)": f"{row['nll_dclm']:.3f}",
            "NLL PG19 (nats)": f"{row['nll_pg19']:.3f}",
            "accuracy (%)": f"{row['avg']:.1f}",
            "cache at 8K (MiB)": f"{row['cache_mib']:.0f}",
            "layers that differ": f"{row['distance']:.0%}",
        }
        for i, (_, row) in enumerate(rows.iterrows(), start=1)
    }
    layout.table(pd.DataFrame(shown).T)
    st.caption(f"quoted: {baselines.CITATION}, Tables 9 and 10, 60B tokens")


view = design.view()
if "form.name" not in st.session_state:
    draft.load(view.design)
draft.remember()
work.load(view)
problem = st.session_state.pop("form.problem", None)
try:
    design.keep(draft.design())
    draft.follow(design.current())
except SpecError as error:
    problem = problem or str(error)
spec = design.current()
try:
    workload, key = work.current()
except SpecError as error:
    problem, workload, key = problem or str(error), view.workload, view.hardware
device = hardware.get(key)
st.title(design.plain(spec.name))
# What changes is sent first, the controls, which mostly stay, last: places that are filled later,
# or at times, are kept here.
queue, wrong, row, against = (
    st.container(),
    st.container(),
    st.container(horizontal=True),
    st.container(),
)
if problem:
    wrong.error(f"{design.plain(problem)}  \nThe last valid design is shown.")
    st.toast(design.plain(problem), icon=":material/error:")  # the controls may be far below
known = references(design.view())
chosen = known[st.session_state["form.reference"]]
design.change(workload=workload, hardware=key, reference=chosen)
reference = chosen or same_size_llama(spec)
costs = cost(spec, workload, device)
numbers.draw(
    costs,
    cost(reference, workload, device),
    reference.name,
    device.name,
)
with st.container():
    if problem := costs.fit.problem:
        st.warning(f"{problem[:1].upper()}{problem[1:]}.")
    for line in kernel_refusals(spec):
        st.caption(
            ":material/info: A library's kernel refuses a shape that the kernels "
            f"here take: {design.plain(line)}."
        )
said = notes.by_control(advise(spec, workload.context_len, use=work.advised_context()))
with st.container():
    if intra := next(
        (layer.mixer for layer in spec.stack if isinstance(layer.mixer, IntraMixer)), None
    ):
        form.draw_intra(intra, said)
charts(spec, reference, workload, device)
with queue:
    jobs.strip()
yaml = st.expander("YAML", key="compose.yaml", on_change="rerun")
if yaml.open:
    yaml.code(spec.to_yaml(), language="yaml")
against.selectbox(
    "Differences against", list(known), key="form.reference", help=explain("reference"), width=420
)
with row:
    buttons(spec)
with st.sidebar:
    form.draw(spec, said)
    work.draw()
    form.draw_parts(said)
