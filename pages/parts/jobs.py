"""Jobs on a page: start one, watch the queue, choose which result is shown."""

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
from hybrid_core.report.retrieval import not_whole
from hybrid_core.results.environment import Environment
from hybrid_core.runs.devices import devices, why_no_gpu
from hybrid_core.runs.jobs import cancel, submit
from hybrid_core.runs.kinds import Options, kind_of
from hybrid_core.runs.schema import StoreError
from hybrid_core.runs.store import ACTIVE, Run, UnknownRun, now, open_store
from hybrid_core.validation import SpecError
from pages.parts import design

DRAWN = "jobs.drawn"  # set while the whole page is drawn, not the queue alone
STATUS_ICON = {
    "queued": ":material/hourglass_empty:",
    "running": ":material/play_circle:",
    "done": ":material/check_circle:",
    "failed": ":material/error:",
    "cancelled": ":material/cancel:",
}


def device_choice(place: DeltaGenerator, key: str) -> str:
    """A select box of this machine's devices, each with its memory."""
    labels = {}
    with place, st.spinner("Looking for GPUs"):
        for device in devices():
            labels[device.key] = f"{device.name} ({units.n_bytes(device.memory_bytes)})"
    why = why_no_gpu()
    if why:
        place.caption(f"No GPU: {design.plain(why)}")
    chosen = place.selectbox("Device", list(labels), format_func=labels.__getitem__, key=key)
    return str(chosen)


# ---------------------------------------------------------------- what may be wrong with runs


@contextmanager
def needs_runs(say: bool = True) -> Iterator[None]:
    """Wraps code that reads or changes runs. If the store cannot be used, one line says why. With
    `say` False there is no line, because the page shows the reason elsewhere."""
    try:
        yield
    except StoreError as error:
        if say:
            st.error(f"Runs cannot be read or started. {design.plain(str(error))}.")


@contextmanager
def results(*runs: Run) -> Iterator[None]:
    """Wraps code that draws results. If another version stored a part that cannot be read, one
    line says so, and the rest of the page is drawn."""
    try:
        yield
    except MALFORMED as error:
        logging.getLogger(__name__).exception("a result cannot be shown")
        which = ""
        if runs:
            names = [f"run {run.id}" for run in runs]
            which = f" of {', '.join(names)}"
        st.warning(f"The rest{which} cannot be shown: {design.plain(malformed(error))}.")


def finished(kind: str) -> list[Run]:
    """The runs of a kind that are done and can be shown. Empty if the store cannot be used, which
    `strip` reports."""
    try:
        done = open_store().list(statuses=("done",), kind=kind)
    except StoreError:
        return []
    return [run for run in done if not run.foreign]


def warn_if_foreign(run: Run) -> bool:
    """Whether this version cannot show a run. If so, a warning says why."""
    if run.foreign:
        why = design.plain(run.foreign)
        st.warning(
            f"Run {run.id} cannot be shown: {why}. "
            "It is kept as it is, and can be deleted on the Runs page."
        )
    return bool(run.foreign)


# ---------------------------------------------------------------- jobs


def start(make: Callable[[], tuple[ArchSpec, Options]]) -> bool:
    """Submit the job that `make` describes; `show` then shows it. Returns whether it was submitted.
    If its options are wrong or the store cannot be used, one line says why."""
    try:
        spec, options = make()
        run_id = submit(spec, options)
    except (SpecError, StoreError) as error:
        st.error(design.plain(str(error)))
        return False
    st.session_state[f"{kind_of(options)}.run"] = run_id
    return True


def queue() -> None:
    """Running and waiting jobs, refreshed every second. The page is drawn again when one of them
    has something new or ends."""
    st.session_state[DRAWN] = True
    st.fragment(_queue, run_every=1.0)()


def _queue() -> None:
    with needs_runs():
        active = _active_rows()
        _follow({(run.id, run.message) for run in active})
        if not active:
            st.caption("No job is running or waiting.")


def _follow(state: set[Any]) -> None:
    """Draw the whole page again if the jobs have changed. Not while the page is being drawn:
    starting over would lose the click that it is drawn for."""
    before = st.session_state.get("jobs.state", state)
    drawn = st.session_state.pop(DRAWN, False)
    st.session_state["jobs.state"] = state
    if before != state and not drawn:
        st.rerun()


def _active() -> list[Run]:
    """The jobs that run or wait, newest first."""
    return open_store().list(with_parts=False, statuses=ACTIVE)


def _active_rows() -> list[Run]:
    """Draw a row for each job that runs or waits, and return the jobs."""
    active = _active()
    for run in reversed(active):
        _active_row(run, active)
    return active


def _active_row(run: Run, active: list[Run]) -> None:
    """A job's progress, and the button that cancels it."""
    text, stop = st.columns([5, 1], vertical_alignment="center")
    name = design.plain(run.name)
    title = f"{STATUS_ICON[run.status]} Run {run.id}, {name} on {run.device}"
    text.progress(run.fraction, f"{title}: {_doing(run, active)}{_time_left(run)}")
    with stop.popover("Cancel", key=f"cancel-{run.id}", width="stretch"):
        st.write(f"Cancel run {run.id}, {name}? What it has measured is kept.")
        st.button(
            "Yes, cancel",
            key=f"cancel-{run.id}-yes",
            on_click=_cancel,
            args=(run.id,),
        )


def _doing(run: Run, active: list[Run]) -> str:
    """What a job is doing, or what it waits for."""
    if run.status == "running":
        return run.message or "starting"
    if open_store().shared and run.host != socket.gethostname():
        return f"waits for a server on {run.host}"
    ahead = []
    for other in active:
        same_queue = (other.device, other.host) == (run.device, run.host)
        if same_queue and other.id < run.id:
            ahead.append(other.id)
    if not ahead:
        return "about to start"
    return f"waits for run {max(ahead)}"


def _cancel(run_id: int) -> None:
    """Cancel the run that a confirmation named, unless it has ended or is gone."""
    try:
        cancelled = cancel(run_id)
    except (UnknownRun, StoreError) as error:
        st.toast(design.plain(str(error)))
        return
    if not cancelled:
        st.toast(f"Run {run_id} had already ended.")


def strip(say: bool = True) -> None:
    """The queue on pages that show no jobs: a row per job, nothing if there is none. With `say`
    False, the page itself says why jobs cannot be shown."""
    try:
        busy = bool(_active())
    except StoreError as error:  # this page works without the store
        if say:
            why = design.plain(str(error))
            st.caption(f":material/info: Jobs and runs cannot be shown. {why}.")
        return
    st.session_state[DRAWN] = True
    st.fragment(_strip, run_every=1.0 if busy else 5.0)()


def _strip() -> None:
    with needs_runs():
        state = {run.id for run in _active_rows()}
        ended = st.session_state.get("jobs.strip", state) - state
        for run_id in ended:
            _toast(run_id)
        st.session_state["jobs.strip"] = state
        _follow(state)


def _toast(run_id: int) -> None:
    """Say how a run ended."""
    try:
        run = open_store().get(run_id)
    except UnknownRun:  # ended, and deleted since
        return
    st.toast(f"Run {run_id}, {design.plain(run.name)}: {run.status}", icon=STATUS_ICON[run.status])


LEAST_FRACTION = 0.02  # with less done, the pace so far is no guide


def _time_left(run: Run) -> str:
    """What is left of a job's budget. If it has none, the time left at the pace so far."""
    if run.status != "running" or run.started_at is None or run.foreign:
        return ""
    gone_s = (now() - run.started_at).total_seconds()
    if "budget_s" in run.options:
        left_s = run.options["budget_s"] - gone_s
        if left_s <= 0:
            return ", the budget is used up"
        return f", about {units.seconds(left_s)} left of the budget"
    if run.fraction <= LEAST_FRACTION:
        return ""
    left_s = gone_s * (1 / run.fraction - 1)
    return f", about {units.seconds(left_s)} left"


def show(kind: str, draw: Callable[[Run], None], none_yet: str) -> None:
    """Let the user choose a run of this kind, the newest at first, and draw it. If there is none,
    say `none_yet`. Call it below `queue`."""
    with needs_runs(say=False):
        run = _pick(kind)
        if run is None:
            st.info(none_yet)
        elif not warn_if_foreign(run):
            with results(run):
                draw(run)


def _pick(kind: str) -> Run | None:
    """The run to show: the one just started, or the one that the user chooses. None if there is
    none of this kind."""
    runs = open_store().list(with_parts=False, kind=kind)
    if not runs:
        return None
    labels = {run.id: _label(run) for run in runs}
    wanted = st.session_state.pop(f"{kind}.run", None)
    if wanted in labels:
        st.session_state[f"{kind}.shown"] = wanted
    chosen = st.selectbox(
        "Result",
        list(labels),
        format_func=labels.__getitem__,
        key=f"{kind}.shown",
    )
    return open_store().get(chosen)


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
    """A button that saves a report of these runs. If one of them cannot be read, a line says which
    and why instead."""
    broken = []
    for run in runs:
        why = unreadable(run)
        if why:
            broken.append(f"run {run.id}: {why}")
    if broken:
        place.caption(f"No report can be made from {design.plain('; '.join(broken))}.")
        return
    numbers = "-".join(str(run.id) for run in runs[:6])
    place.download_button(
        "Save report",
        partial(report, runs, design.home()),
        f"report-{numbers}.html",
        "text/html",
        icon=":material/description:",
        type=look,
    )


def headline(run: Run) -> None:
    """The head of a result: its status, why it ended early, its report, its device."""
    st.subheader(f"{STATUS_ICON[run.status]} Run {run.id}: {design.plain(run.name)}, {run.status}")
    why = design.plain(run.error or run.status)
    if run.status == "cancelled":
        st.info(f"{why}; what was finished is kept")
    if run.status == "failed":
        st.error(why)
        _log(run)
    if run.parts:
        save_report([run], st.container())
    found = run.part(Environment)
    if found:
        software = f"torch {found.packages['torch']}, {found.threads} threads"
        started = f"started {run.started_at:%Y-%m-%d %H:%M} UTC"
        st.caption(f"{found.name}; {software}; {started}")


def _log(run: Run) -> None:
    """The end of a run's log, in an expander."""
    tail = run.log_tail()
    if tail:
        with st.expander("Last lines of its log"):
            st.code(tail, language=None)


def warn_of_gaps(run: Run) -> None:
    """Warn of what was not measured, so that nobody takes a partial result for a complete one."""
    for line in not_whole(run):
        st.warning(design.plain(f"{line}."))
