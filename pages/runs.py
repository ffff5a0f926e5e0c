"""Runs: what was measured so far; compare, report, delete."""

from functools import partial

import pandas as pd
import streamlit as st

from hybrid_core.report import figures
from hybrid_core.report.compare import differences
from hybrid_core.report.html import TITLES, report
from hybrid_core.runs import open_store
from hybrid_core.runs.jobs import bury_the_dead
from pages.parts import chart, design, jobs, layout


def pick(runs: list) -> list[int]:
    """The history as a table; returns the numbers of the selected rows."""
    frame = pd.DataFrame(
        {
            "run": [run.id for run in runs],
            "kind": [TITLES[run.kind] for run in runs],
            "status": [run.status for run in runs],
            "design": [run.name for run in runs],
            "layers": [run.spec.pattern for run in runs],
            "device": [run.device for run in runs],
            "created (UTC)": [run.created_at for run in runs],
            "remark": [run.error or (run.message if run.active else "") for run in runs],
        }
    )
    chosen = st.dataframe(frame, hide_index=True, on_select="rerun", selection_mode="multi-row", key="runs.table")
    return [int(frame["run"][row]) for row in chosen.selection.rows]


def actions(ids: list[int]) -> None:
    """What can be done with the selected runs."""
    store = open_store()
    selected = [store.get(run_id) for run_id in ids]
    finished = [run for run in selected if run.parts]
    row = st.container(horizontal=True)
    if finished:
        name = f"report-{'-'.join(str(run.id) for run in finished[:6])}.html"
        made = partial(report, finished, design.home())
        row.download_button("Save report", made, name, "text/html", type="primary", icon=":material/description:")
    if len(selected) == 1 and row.button("Open in Compose", icon=":material/stacks:"):
        design.open_in_compose(selected[0].spec)
        layout.go("compose")
    with row.popover("Delete", icon=":material/delete:", disabled=any(run.active for run in selected)):
        st.write(f"Delete {len(selected)} run{'s' if len(selected) > 1 else ''} for good?")
        if st.button("Yes, delete", key="runs.delete"):
            for run in selected:
                store.delete(run.id)
            st.rerun()


def compare(ids: list[int]) -> None:
    """Differences first, then curves and maps."""
    runs = [open_store().get(run_id) for run_id in ids]
    st.subheader("Comparison" if len(runs) > 1 else f"Run {runs[0].id}")
    for run in runs:
        if run.error:
            st.warning(f"Run {run.id}, {design.plain(run.name)}: {design.plain(run.error)}")
    layout.table(differences(runs))
    measured = [run for run in runs if "generation" in run.parts]
    if measured:
        chart.show(figures.generation(measured), "runs-generation")
        chart.show(figures.live_cache(measured), "runs-cache")
    maps = figures.retrieval_charts(runs)
    for index, (place, figure) in enumerate(zip(layout.cells(len(maps), layout.WIDE), maps, strict=True)):
        with place:
            chart.show(figure, f"runs-retrieval-{index}")


st.title("Runs")
design.view()
jobs.strip()
bury_the_dead(open_store())
runs = open_store().list(with_parts=False)
if not runs:
    st.info("No runs yet. Compose a design and press “Profile this design” or “Test retrieval”.")
    st.stop()
st.caption("Select rows to compare them, to save a report, or to delete them.")
ids = pick(runs)
if ids:
    actions(ids)
    compare(ids)
