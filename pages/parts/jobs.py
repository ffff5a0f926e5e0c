"""Jobs on a page: start one, watch what runs and waits, choose which result is shown."""

from collections.abc import Callable
from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from hybrid_core.report import units
from hybrid_core.report.html import report
from hybrid_core.runs import Run, cancel, open_store, submit
from hybrid_core.runs.devices import devices, why_no_gpu
from hybrid_core.runs.jobs import bury_the_dead
from hybrid_core.runs.kinds import Options, kind_of
from hybrid_core.runs.store import ACTIVE, now
from hybrid_core.spec import ArchSpec, SpecError
from pages.parts import design

STATUS_ICON = {
    "queued": ":material/hourglass_empty:",
    "running": ":material/play_circle:",
    "done": ":material/check_circle:",
    "failed": ":material/error:",
    "cancelled": ":material/cancel:",
}


def device_choice(place: DeltaGenerator, key: str) -> str:
    """A select box of this machine's devices, each with its memory."""
    with place, st.spinner("Looking for GPUs"):
        known = {device.key: f"{device.name} ({units.n_bytes(device.memory_bytes)})" for device in devices()}
    if why := why_no_gpu():
        place.caption(f"No GPU: {design.plain(why)}")
    return str(place.selectbox("Device", list(known), format_func=known.get, key=key))


def start(make: Callable[[], tuple[ArchSpec, Options]]) -> bool:
    """Submit what `make` asks for, to be shown by `pick`; where either raises SpecError, say that line. Whether it was submitted."""
    try:
        spec, options = make()
        run_id = submit(spec, options)
    except SpecError as error:
        st.error(design.plain(str(error)))
        return False
    st.session_state[f"{kind_of(options)}.run"] = run_id
    return True


@st.fragment(run_every=1.0)
def queue() -> None:
    """Running and waiting jobs, refreshed every second; the page follows when one has something new or ends."""
    active = _active_rows()
    state = {(run.id, run.message) for run in active}
    if st.session_state.get("jobs.state", state) != state:
        st.session_state["jobs.state"] = state
        st.rerun()  # a part is known, or a job has ended: the results below follow
    st.session_state["jobs.state"] = state
    if not active:
        st.caption("No job is running or waiting.")


def _active_rows() -> list[Run]:
    """Draw a row with a bar and a button for each job that runs or waits, and return the jobs."""
    store = open_store()
    bury_the_dead(store)
    active = store.list(with_parts=False, statuses=ACTIVE)
    for run in reversed(active):
        text, stop = st.columns([5, 1], vertical_alignment="center")
        doing = f"{run.message or 'starting'}{_time_left(run)}"
        text.progress(
            run.fraction,
            f"{STATUS_ICON[run.status]} Run {run.id}, {design.plain(run.name)} on {run.device}: {doing}",
        )
        if stop.button("Cancel", key=f"cancel-{run.id}", width="stretch"):
            cancel(run.id, store)
            st.rerun()
    return active


def strip() -> None:
    """The queue on pages of other things: what runs and waits, nothing when there is nothing."""
    active = bool(open_store().list(with_parts=False, statuses=ACTIVE))
    st.fragment(_strip, run_every=1.0 if active else 5.0)()


def _strip() -> None:
    active = _active_rows()
    state = {run.id for run in active}
    if st.session_state.setdefault("jobs.strip", state) != state:
        ended = st.session_state["jobs.strip"] - state
        st.session_state["jobs.strip"] = state
        for run_id in ended:
            run = open_store().get(run_id)
            st.toast(f"Run {run_id}, {design.plain(run.name)}: {run.status}", icon=STATUS_ICON[run.status])
        st.rerun()


def _time_left(run: Run) -> str:
    """Of the budget, or, where a job has none, at the pace so far."""
    if run.status != "running" or run.started_at is None:
        return ""
    gone = (now() - run.started_at).total_seconds()
    if "budget_s" in run.options:
        left = run.options["budget_s"] - gone
        return f", about {units.seconds(left)} left of the budget" if left > 0 else ", the budget is used up"
    return f", about {units.seconds(gone * (1 / run.fraction - 1))} left" if run.fraction > 0.02 else ""


def pick(kind: str) -> Run | None:
    """The run to show: the one just started, or what the user chooses; None where there is none of this kind."""
    runs = open_store().list(with_parts=False, kind=kind)
    if not runs:
        return None
    labels = {run.id: f"{run.id}: {run.name} on {run.device}, {run.created_at:%Y-%m-%d %H:%M} UTC" for run in runs}
    wanted = st.session_state.pop(f"{kind}.run", None)
    if wanted in labels:
        st.session_state[f"{kind}.shown"] = wanted
    return open_store().get(st.selectbox("Result", list(labels), format_func=labels.get, key=f"{kind}.shown"))


def headline(run: Run) -> None:
    """What a result opens with: its state, why it ended early, the report, the device."""
    st.subheader(f"{STATUS_ICON[run.status]} Run {run.id}: {design.plain(run.name)}, {run.status}")
    if run.status == "cancelled":
        st.info(f"{design.plain(run.error or run.status)}; what was finished is kept")
    if run.status == "failed":
        st.error(design.plain(run.error or run.status))
        if tail := run.log_tail():
            with st.expander("Last lines of its log"):
                st.code(tail, language=None)
    if run.parts:
        name = f"report-{run.id}.html"
        st.download_button("Save report", partial(report, [run], design.home()), name, "text/html", icon=":material/description:")
    if found := run.parts.get("environment"):
        st.caption(
            f"{found['name']}; torch {found['packages']['torch']}, {found['threads']} threads; started {run.started_at:%Y-%m-%d %H:%M} UTC"
        )
