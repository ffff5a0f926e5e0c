"""Jobs on a page: start one, watch what runs and waits, choose which result is shown."""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from hybrid_core.design.spec import ArchSpec
from hybrid_core.report import units
from hybrid_core.report.foreign import MALFORMED, malformed, unreadable
from hybrid_core.report.html import report
from hybrid_core.results.environment import Environment
from hybrid_core.runs.devices import devices, why_no_gpu
from hybrid_core.runs.jobs import cancel, submit
from hybrid_core.runs.kinds import Options, kind_of
from hybrid_core.runs.schema import StoreError
from hybrid_core.runs.store import ACTIVE, Run, UnknownRun, now, open_store
from hybrid_core.validation import SpecError
from pages.parts import design

DRAWN = "jobs.drawn"  # the whole page is being drawn, not the queue alone
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
        known = {
            device.key: f"{device.name} ({units.n_bytes(device.memory_bytes)})"
            for device in devices()
        }
    why = why_no_gpu()
    if why:
        place.caption(f"No GPU: {design.plain(why)}")
    return str(place.selectbox("Device", list(known), format_func=known.__getitem__, key=key))


# ---------------------------------------------------------------- what may be wrong with runs


@contextmanager
def needs_runs(say: bool = True) -> Iterator[None]:
    """Around code that reads or changes runs. If the store cannot be used, it shows one line
    instead, or nothing if the page has said so already."""
    try:
        yield
    except StoreError as error:
        if not say:
            return
        st.error(f"Runs cannot be read or started. {design.plain(str(error))}.")


@contextmanager
def results(*runs: Run) -> Iterator[None]:
    """Around what draws results: a part that another version stored leaves a line, and the rest of
    the page as it is."""
    try:
        yield
    except MALFORMED as error:
        logging.getLogger(__name__).exception("a result cannot be shown")
        which = ""
        if runs:
            which = " of " + ", ".join(f"run {run.id}" for run in runs)
        st.warning(f"The rest{which} cannot be shown: {design.plain(malformed(error))}.")


def finished(kind: str) -> list[Run]:
    """Runs of a kind that are done and can be shown; none where the store cannot be used, which
    `strip` says."""
    try:
        return [run for run in open_store().list(statuses=("done",), kind=kind) if not run.foreign]
    except StoreError:
        return []


def say_if_foreign(run: Run) -> bool:
    """Say why a run cannot be shown, if it cannot; says whether."""
    if run.foreign:
        why = design.plain(run.foreign)
        st.warning(
            f"Run {run.id} cannot be shown: {why}. "
            "It is kept as it is, and can be deleted on the Runs page."
        )
    return bool(run.foreign)


# ---------------------------------------------------------------- jobs


def start(make: Callable[[], tuple[ArchSpec, Options]]) -> bool:
    """Submit what `make` asks for, to be shown by `pick`; where either raises SpecError, say that
    line. Whether it was submitted."""
    try:
        spec, options = make()
        run_id = submit(spec, options)
    except (SpecError, StoreError) as error:
        st.error(design.plain(str(error)))
        return False
    st.session_state[f"{kind_of(options)}.run"] = run_id
    return True


def queue() -> None:
    """Running and waiting jobs, refreshed every second; the page follows when one has something new
    or ends."""
    st.session_state[DRAWN] = True
    st.fragment(_queue, run_every=1.0)()


def _queue() -> None:
    with needs_runs():
        active = _active_rows()
        _follow({(run.id, run.message) for run in active})
        if not active:
            st.caption("No job is running or waiting.")


def _follow(state: set[Any]) -> None:
    """Draw the whole page again when the jobs have changed. Not while it is being drawn: starting
    over would lose the click that it is drawn for."""
    before = st.session_state.get("jobs.state", state)
    drawn = st.session_state.pop(DRAWN, False)
    st.session_state["jobs.state"] = state
    if before != state and not drawn:
        st.rerun()


def _active_rows() -> list[Run]:
    """Draw a row with a bar and a button for each job that runs or waits, and return the jobs."""
    active = open_store().list(with_parts=False, statuses=ACTIVE)
    for run in reversed(active):
        text, stop = st.columns([5, 1], vertical_alignment="center")
        name = f"{STATUS_ICON[run.status]} Run {run.id}, {design.plain(run.name)} on {run.device}"
        text.progress(run.fraction, f"{name}: {doing(run, active)}{_time_left(run)}")
        with stop.popover("Cancel", key=f"cancel-{run.id}", width="stretch"):
            st.write(
                f"Cancel run {run.id}, {design.plain(run.name)}? What it has measured is kept."
            )
            st.button(
                "Yes, cancel",
                key=f"cancel-{run.id}-yes",
                on_click=_cancel,
                args=(run.id,),
            )
    return active


def doing(run: Run, active: list[Run]) -> str:
    """What a job does, or what it waits for."""
    if run.status == "running":
        return run.message or "starting"
    if open_store().shared and run.host != socket.gethostname():
        return f"waits for a server on {run.host}"
    place = (run.device, run.host)
    ahead = [other.id for other in active if (other.device, other.host) == place]
    before = [run_id for run_id in ahead if run_id < run.id]
    if not before:
        return "about to start"
    return f"waits for run {max(before)}"


def _cancel(run_id: int) -> None:
    """Cancel the run that a confirmation named, unless it has ended or is gone."""
    try:
        ended = not cancel(run_id)
    except (UnknownRun, StoreError) as error:
        st.toast(design.plain(str(error)))
        return
    if ended:
        st.toast(f"Run {run_id} had ended already.")


def strip(say: bool = True) -> None:
    """The queue on pages of other things: what runs and waits, nothing when there is nothing.
    Unless the page says it itself, also why there are none."""
    try:
        active = bool(open_store().list(with_parts=False, statuses=ACTIVE))
    except StoreError as error:  # this page does without
        if not say:
            return
        st.caption(f":material/info: Jobs and runs cannot be shown. {design.plain(str(error))}.")
        return
    st.session_state[DRAWN] = True
    st.fragment(_strip, run_every=1.0 if active else 5.0)()


def _strip() -> None:
    with needs_runs():
        state = {run.id for run in _active_rows()}
        for run_id in st.session_state.get("jobs.strip", state) - state:
            _toast(run_id)
        st.session_state["jobs.strip"] = state
        _follow(state)


def _toast(run_id: int) -> None:
    try:
        run = open_store().get(run_id)
    except UnknownRun:  # ended, and deleted since
        return
    st.toast(f"Run {run_id}, {design.plain(run.name)}: {run.status}", icon=STATUS_ICON[run.status])


KNOWN_PACE = 0.02  # the fraction done from which on the pace says something


def _time_left(run: Run) -> str:
    """Of the budget, or, where a job has none, at the pace so far."""
    if run.status != "running" or run.started_at is None or run.foreign:
        return ""
    gone = (now() - run.started_at).total_seconds()
    if "budget_s" in run.options:
        left = run.options["budget_s"] - gone
        if left <= 0:
            return ", the budget is used up"
        return f", about {units.seconds(left)} left of the budget"
    if run.fraction <= KNOWN_PACE:
        return ""
    left = gone * (1 / run.fraction - 1)
    return f", about {units.seconds(left)} left"


def show(kind: str, draw: Callable[[Run], None], none_yet: str) -> None:
    """Let the user choose a run of this kind, the newest at first, and draw it; `none_yet` where
    there is none. Stands below `queue`."""
    with needs_runs(say=False):
        run = pick(kind)
        if run is None:
            st.info(none_yet)
        elif not say_if_foreign(run):
            with results(run):
                draw(run)


def pick(kind: str) -> Run | None:
    """The run to show: the one just started, or what the user chooses; None where there is none of
    this kind."""
    runs = open_store().list(with_parts=False, kind=kind)
    if not runs:
        return None
    labels = {run.id: _label(run) for run in runs}
    wanted = st.session_state.pop(f"{kind}.run", None)
    if wanted in labels:
        st.session_state[f"{kind}.shown"] = wanted
    return open_store().get(
        st.selectbox("Result", list(labels), format_func=labels.__getitem__, key=f"{kind}.shown")
    )


def _label(run: Run) -> str:
    """A run in a list."""
    when = "cannot be shown"
    if not run.unread:
        when = f"{run.created_at:%Y-%m-%d %H:%M} UTC"
    return f"{run.id}: {run.name} on {run.device}, {when}"


def save_report(
    runs: list[Run],
    place: DeltaGenerator,
    look: Literal["primary", "secondary"] = "secondary",
) -> None:
    """A button that makes a report of these runs and saves it."""
    broken = []
    for run in runs:
        why = unreadable(run)
        if why:
            broken.append(f"run {run.id}: {why}")
    if broken:
        place.caption(f"No report can be made of {design.plain('; '.join(broken))}.")
        return
    name = f"report-{'-'.join(str(run.id) for run in runs[:6])}.html"
    place.download_button(
        "Save report",
        partial(report, runs, design.home()),
        name,
        "text/html",
        icon=":material/description:",
        type=look,
    )


def headline(run: Run) -> None:
    """What a result opens with: its state, why it ended early, the report, the device."""
    st.subheader(f"{STATUS_ICON[run.status]} Run {run.id}: {design.plain(run.name)}, {run.status}")
    if run.status == "cancelled":
        st.info(f"{design.plain(run.error or run.status)}; what was finished is kept")
    if run.status == "failed":
        st.error(design.plain(run.error or run.status))
        tail = run.log_tail()
        if tail:
            with st.expander("Last lines of its log"):
                st.code(tail, language=None)
    if run.parts:
        save_report([run], st.container())
    found = run.part(Environment)
    if found:
        software = f"torch {found.packages['torch']}, {found.threads} threads"
        started = f"started {run.started_at:%Y-%m-%d %H:%M} UTC"
        st.caption(f"{found.name}; {software}; {started}")
