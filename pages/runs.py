"""Runs: what was measured so far; compare, report, delete."""

import pandas as pd
import streamlit as st

from hybrid_core.report import figures
from hybrid_core.report.compare import differences
from hybrid_core.report.html import TITLES
from hybrid_core.report.text.runs import remark
from hybrid_core.results.profile import Generation
from hybrid_core.runs import Run, open_store
from hybrid_core.runs.store import UnknownRun
from pages.parts import chart, design, jobs, layout

CHOSEN = "runs.chosen"


def row(run: Run) -> dict[str, object]:
    """A run in the history."""
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


def pick(runs: list[Run]) -> list[int]:
    """The history as a table; returns the numbers of the chosen runs. Rows come and go: what is
    chosen is kept by number."""
    frame = pd.DataFrame([row(run) for run in runs])
    ids = [run.id for run in runs]
    chosen = [run_id for run_id in st.session_state.get(CHOSEN, []) if run_id in ids]
    # Another set of rows is another table, or the browser's ticks, which are places, would be of
    # other runs.
    key = f"runs.table.{hash(tuple(ids))}"

    def choose() -> None:
        st.session_state[CHOSEN] = [ids[row] for row in st.session_state[key].selection.rows]

    st.dataframe(
        frame,
        hide_index=True,
        on_select=choose,
        selection_mode="multi-row",
        selection_default={"selection": {"rows": [ids.index(run_id) for run_id in chosen]}},
        key=key,
    )
    return chosen


def actions(runs: list[Run]) -> None:
    """What can be done with the chosen runs."""
    buttons = st.container(horizontal=True)
    finished = [run for run in runs if run.parts and not run.foreign]
    if finished:
        jobs.save_report(finished, buttons, "primary")
    one = len(runs) == 1 and not runs[0].foreign
    if one and buttons.button("Open in Compose", icon=":material/stacks:"):
        design.open_in_compose(runs[0].spec)
        layout.go("compose")
    with buttons.popover(
        "Delete", icon=":material/delete:", disabled=any(run.active for run in runs)
    ):
        st.write("Delete for good?")
        st.markdown("\n".join(f"- run {run.id}, {design.plain(run.name)}" for run in runs))
        st.button(
            "Yes, delete", key="runs.delete", on_click=delete, args=([run.id for run in runs],)
        )


def delete(ids: list[int]) -> None:
    """Delete the runs that a confirmation named, and no other; say which of them were gone or have
    begun again."""
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


def compare(runs: list[Run]) -> None:
    """Differences first, then curves and maps."""
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
        chart.show(figures.generation(measured), "runs-generation")
        chart.show(figures.live_cache(measured), "runs-cache")
    maps = figures.retrieval_charts(runs)
    for index, (place, figure) in enumerate(
        zip(layout.cells(len(maps), layout.WIDE), maps, strict=True)
    ):
        with place:
            chart.show(figure, f"runs-retrieval-{index}")


def history() -> None:
    """All runs, and what can be done with the chosen ones."""
    runs = open_store().list(with_parts=False)
    if not runs:
        st.info(
            "No runs yet. Compose a design and press “Profile this design” or “Test retrieval”."
        )
        return
    st.caption("Select rows to compare them, to save a report, or to delete them.")
    chosen = [open_store().get(run_id) for run_id in pick(runs)]
    if not chosen:
        return
    actions(chosen)
    for run in chosen:
        jobs.warn_if_foreign(run)
    readable = [run for run in chosen if not run.foreign]
    if readable:
        with jobs.results(*readable):
            compare(readable)


st.title("Runs")
design.view()
refused = st.session_state.pop("runs.refused", None)
if refused:
    st.warning(design.plain(refused))
jobs.strip(say=False)
with jobs.needs_runs():
    history()
