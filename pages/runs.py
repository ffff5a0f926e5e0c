"""Runs: everything measured so far, to compare, report or delete."""

from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from hybrid_core.report.compare import differences
from hybrid_core.report.figures.measured import generation_chart, live_cache_chart
from hybrid_core.report.figures.retrieval import retrieval_charts
from hybrid_core.report.html import TITLES
from hybrid_core.report.text.runs import remark
from hybrid_core.results.profile import Generation
from hybrid_core.runs.store import Run, UnknownRun, open_store
from pages.parts import chart, design, jobs, layout

CHOSEN = "runs.chosen"


def _history() -> None:
    """All runs, and what can be done with the chosen ones."""
    runs = open_store().list(with_parts=False)
    if not runs:
        st.info(
            "No runs yet. Compose a design and click “Profile this design” or “Test retrieval”."
        )
        return
    st.caption("Select rows to compare them, to save a report, or to delete them.")
    chosen = [open_store().get(run_id) for run_id in _pick(runs)]
    if not chosen:
        return
    _actions(chosen)
    for run in chosen:
        jobs.warn_if_foreign(run)
    readable = [run for run in chosen if not run.foreign]
    if readable:
        with jobs.results(*readable):
            _compare(readable)


# ---------------------------------------------------------------- choose


def _pick(runs: list[Run]) -> list[int]:
    """The history as a table; returns the numbers of the chosen runs."""
    ids = [run.id for run in runs]
    # Rows come and go, so the selection is kept by run number.
    chosen = [run_id for run_id in st.session_state.get(CHOSEN, []) if run_id in ids]
    rows = [ids.index(run_id) for run_id in chosen]
    # The browser keeps its ticks by row. When the rows change it needs a new table, or the ticks
    # would move to other runs.
    key = f"runs.table.{hash(tuple(ids))}"
    st.dataframe(
        pd.DataFrame([_row(run) for run in runs]),
        hide_index=True,
        on_select=lambda: _choose(ids, key),
        selection_mode="multi-row",
        selection_default={"selection": {"rows": rows}},
        key=key,
    )
    return chosen


def _choose(ids: list[int], key: str) -> None:
    """Keep the numbers of the ticked runs."""
    ticked = st.session_state[key].selection.rows
    st.session_state[CHOSEN] = [ids[row] for row in ticked]


def _row(run: Run) -> dict[str, Any]:
    layers = ""
    created = None
    if not run.foreign:
        layers = run.spec.pattern
    if not run.unread:
        created = run.created_at
    return {
        "run": run.id,
        "kind": TITLES.get(run.kind, run.kind),
        "status": run.status,
        "design": run.name,
        "layers": layers,
        "device": run.device,
        "created (UTC)": created,
        "remark": remark(run),
    }


# ---------------------------------------------------------------- act


def _actions(runs: list[Run]) -> None:
    """The buttons for the chosen runs."""
    row = st.container(horizontal=True)
    finished = [run for run in runs if run.parts and not run.foreign]
    if finished:
        jobs.save_report(finished, row, "primary")
    first, *others = runs
    if not others and not first.foreign:
        _open_button(first, row)
    _delete_button(runs, row)


def _open_button(run: Run, row: DeltaGenerator) -> None:
    if row.button("Open in Compose", icon=":material/stacks:"):
        design.open_in_compose(run.spec)
        layout.go("compose")


def _delete_button(runs: list[Run], row: DeltaGenerator) -> None:
    """Delete, after a confirmation that names the runs."""
    active = any(run.active for run in runs)
    with row.popover("Delete", icon=":material/delete:", disabled=active):
        st.write("Delete permanently?")
        names = [f"- run {run.id}, {design.plain(run.name)}" for run in runs]
        st.markdown("\n".join(names))
        ids = [run.id for run in runs]
        st.button("Yes, delete", key="runs.delete", on_click=_delete, args=(ids,))


def _delete(ids: list[int]) -> None:
    """Delete the runs that a confirmation named, and no others. Report those that were gone or had
    started again."""
    refused = []
    for run_id in ids:
        try:
            open_store().delete(run_id)
        except UnknownRun:
            refused.append(f"Run {run_id} is gone already.")
        except ValueError as error:
            refused.append(f"{error}.")
    st.session_state[CHOSEN] = []
    if refused:
        st.session_state["runs.refused"] = " ".join(refused)


# ---------------------------------------------------------------- show


def _compare(runs: list[Run]) -> None:
    """The figures that differ between runs, then curves and maps."""
    title = "Comparison"
    if len(runs) == 1:
        title = f"Run {runs[0].id}"
    st.subheader(title)
    for run in runs:
        if run.error:
            st.warning(f"Run {run.id}, {design.plain(run.name)}: {design.plain(run.error)}")
    layout.table(differences(runs))
    measured = [run for run in runs if run.part(Generation)]
    if measured:
        chart.show(generation_chart(measured), "runs-generation")
        chart.show(live_cache_chart(measured), "runs-cache")
    drawn = enumerate(retrieval_charts(runs))
    chart.row({f"runs-retrieval-{index}": figure for index, figure in drawn}, layout.WIDE)


st.title("Runs")
design.view()
refused = st.session_state.pop("runs.refused", None)
if refused:
    st.warning(design.plain(refused))
jobs.strip(say=False)
with jobs.needs_runs():
    _history()
