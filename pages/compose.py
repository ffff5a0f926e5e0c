"""Compose: a design, its costs next to those of a reference, and what the paper says about it."""

from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

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
from hybrid_core.report.figures import style
from hybrid_core.report.figures.designs import (
    cache_by_context,
    decode_by_context,
    flops_by_part,
    longest_context,
    memory_by_context,
    memory_by_part,
)
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import Cost, cost
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

AGAINST, LIMITS, PAPER = "Against context", "Memory limits", "What the paper says"


# ---------------------------------------------------------------- the view


def _read_controls() -> str | None:
    """Update the view from the controls. Returns what is wrong with them, if anything; the view
    then keeps the last valid state."""
    view = design.view()
    if "form.name" not in st.session_state:
        draft.load(view.design)
    draft.remember()
    work.load(view)
    problems = [st.session_state.pop("form.problem", None)]
    try:
        design.keep(draft.design())
        draft.follow(design.current())
    except SpecError as error:
        problems.append(str(error))
    try:
        workload, device = work.current()
        design.change(workload=workload, hardware=device)
    except SpecError as error:
        problems.append(str(error))
    return next(filter(None, problems), None)


def _references(view: View) -> dict[str, ArchSpec | None]:
    """The designs that differences can be taken against: presets, designs kept for comparison, and,
    as None, the Llama of the same size."""
    own = [*view.compared]
    if view.reference:
        own.append(view.reference)
    known: dict[str, ArchSpec | None] = {SAME_SIZE: None}
    for spec in own:
        if spec.name not in presets.names():
            known[f"kept: {spec.name}"] = spec
    for name in presets.ordered():
        known[name] = presets.get(name).spec
    if st.session_state.get("form.reference") not in known:
        st.session_state["form.reference"] = _chosen_reference(view, known)
    return known


def _chosen_reference(view: View, known: dict[str, ArchSpec | None]) -> str:
    """The name under which the view's reference can be picked."""
    if view.reference is None:
        return SAME_SIZE
    if view.reference.name in known:
        return view.reference.name
    return f"kept: {view.reference.name}"


# ---------------------------------------------------------------- buttons


def _buttons(spec: ArchSpec) -> None:
    """Measure the design, keep it, share it, and step back."""
    _measure(spec)
    if st.button("Guided start", icon=":material/explore:"):
        guide.ask()
    st.button(
        "Keep for comparison",
        icon=":material/compare_arrows:",
        on_click=_keep_for_comparison,
        args=(spec,),
    )
    share.draw(spec)
    _step_button("Undo", -1, ":material/undo:")
    _step_button("Redo", 1, ":material/redo:")


def _measure(spec: ArchSpec) -> None:
    """Start a job with the usual options, and go to its page."""
    profile = st.button("Profile this design", type="primary", icon=":material/speed:")
    if profile and jobs.start(lambda: (spec, ProfileOptions())):
        layout.go("profile")
    retrieval = st.button(
        "Test retrieval",
        icon=":material/search:",
        help="Trains a small proxy for two to four minutes, then asks it to recall needles",
    )
    if retrieval and jobs.start(lambda: (spec, NiahOptions())):
        layout.go("retrieval")


def _keep_for_comparison(spec: ArchSpec) -> None:
    """Keep a design for the Compare page. The oldest one makes room."""
    kept = dict.fromkeys((*design.view().compared, spec))
    design.change(compared=tuple(kept)[-MAX_COMPARED:])
    st.toast(f"{design.plain(spec.name)} is kept for the Compare page.")


def _step_button(label: str, by: int, icon: str) -> None:
    st.button(
        label,
        icon=icon,
        disabled=not design.can_step(by),
        on_click=_step,
        args=(by,),
    )


def _step(by: int) -> None:
    draft.load(design.step(by))


# ---------------------------------------------------------------- what is shown


def _show_problem(place: DeltaGenerator, problem: str | None) -> None:
    if problem:
        place.error(f"{design.plain(problem)}  \nThe last valid design is shown.")
        # The control may be far below.
        st.toast(design.plain(problem), icon=":material/error:")


def _warnings(spec: ArchSpec, costs: Cost) -> None:
    """Whether the design fits, and which shapes a library's kernels do not support."""
    problem = costs.fit.problem
    if problem:
        st.warning(f"{problem[:1].upper()}{problem[1:]}.")
    for line in kernel_refusals(spec):
        st.caption(
            ":material/info: A library's kernel does not support a shape that the kernels here do: "
            f"{design.plain(line)}."
        )


def _intra_block(spec: ArchSpec, advice: notes.Notes) -> None:
    """The inside of the design's intra-hybrid block, if it has one."""
    for layer in spec.stack:
        if isinstance(layer.mixer, IntraMixer):
            form.draw_intra(layer.mixer, advice)
            return


def _charts(
    spec: ArchSpec,
    other: ArchSpec,
    workload: Workload,
    device: hardware.Hardware,
) -> None:
    """The stack with its FLOPs and memory, and one further view."""
    own = style.Named(spec.name, spec)
    pair = [own, style.Named(other.name, other)]
    left, right = layout.cells(2, layout.CHART)
    with left:
        stack.draw(spec, workload)
    with right:
        chart.show(flops_by_part([own], workload), "flops")
        chart.show(memory_by_part(pair, workload, device), "memory")
    # A long stack leaves room next to it.
    place = right if spec.n_layers > pictures.FEW else st.container()
    with place:
        _further_view(pair, workload, device)


def _further_view(
    pair: list[style.Named],
    workload: Workload,
    device: hardware.Hardware,
) -> None:
    """One view of several. Only the one that is picked is drawn, which keeps changes quick."""
    shown = st.segmented_control(
        "Look at",
        [AGAINST, LIMITS, PAPER],
        default=AGAINST,
        required=True,
        key="compose.look",
        label_visibility="collapsed",
    )
    if shown == PAPER:
        _findings(pair[0].spec, workload.context_len)
        return
    if shown == LIMITS:
        drawn = {
            "memory-context": memory_by_context(pair, workload, device),
            "longest": longest_context(pair, workload, device),
        }
    else:
        drawn = {
            "cache": cache_by_context(pair, workload, device),
            "decode": decode_by_context(pair, workload, device),
        }
    chart.row(drawn, layout.CHART)


def _findings(spec: ArchSpec, context_len: int) -> None:
    """The loss and speed that the paper prints, the loss that its rows suggest, and the rows
    closest to the design."""
    printed = quoted(spec)
    if printed:
        st.markdown(f"The paper trained this stack: NLL on DCLM **{printed}**, in nats per token.")
    speed = generated(spec, context_len)
    if speed:
        st.markdown(f"The paper's own code generated {speed}.")
    st.markdown(_estimated_loss(spec))
    st.markdown("**Nearest rows**")
    shown = {}
    nearest = baselines.nearest(spec).iterrows()
    for number, (_, row) in enumerate(nearest, start=1):
        shown[f"{row['model']} {row['scale']}, Table {row['table']}, {number}"] = _near_row(row)
    layout.table(pd.DataFrame(shown).T)
    unlike = baselines.unlike_the_papers(spec)
    if unlike:
        st.caption(unlike)
    st.caption(f"quoted: {baselines.CITATION}, Tables 9 and 10, 60B tokens")


def _estimated_loss(spec: ArchSpec) -> str:
    found = estimate(spec)
    if not isinstance(found, Estimate):
        return (
            "No estimate of the loss at 60B tokens, outside the paper's range: "
            f"{design.plain(found.reason)}."
        )
    return (
        f"NLL on DCLM **{found.nll:.3f}** nats per token at 60B tokens, "
        f"{found.low:.3f} to {found.high:.3f}: estimated from {found.basis}. "
        f"The interval covers {COVERAGE:.0%} of the errors when rows are left out and "
        f"predicted from {found.rests_on}."
    )


def _near_row(row: Any) -> dict[str, str]:
    """A row of the paper, as the table shows it."""
    return {
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


def _yaml(spec: ArchSpec) -> None:
    """The design as YAML, in an expander."""
    folder = st.expander("YAML", key="compose.yaml", on_change="rerun")
    if folder.open:
        folder.code(spec.to_yaml(), language="yaml")


problem = _read_controls()
view = design.view()
spec, workload, device = view.design, view.workload, hardware.get(view.hardware)
st.title(design.plain(spec.name))
# Numbers and charts change with every control, so they are sent first. The queue, the buttons and
# the sidebar mostly stay the same, so they are sent last. These are their places.
queue_place = st.container()
problem_place = st.container()
button_row = st.container(horizontal=True)
reference_place = st.container()
_show_problem(problem_place, problem)
known = _references(view)
chosen = known[st.session_state["form.reference"]]
design.change(reference=chosen)
reference = chosen or same_size_llama(spec)
costs = cost(spec, workload, device)
numbers.draw(
    costs,
    cost(reference, workload, device),
    reference.name,
    device.name,
)
with st.container():
    _warnings(spec, costs)
advice = notes.by_control(advise(spec, workload.context_len, use=work.advised_context()))
with st.container():
    _intra_block(spec, advice)
_charts(spec, reference, workload, device)
with queue_place:
    jobs.strip()
_yaml(spec)
reference_place.selectbox(
    "Differences against",
    list(known),
    key="form.reference",
    help=explain("reference"),
    width=420,
)
with button_row:
    _buttons(spec)
with st.sidebar:
    form.draw(spec, advice)
    work.draw()
    form.draw_dimensions(advice)
