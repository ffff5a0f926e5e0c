"""The needle-in-a-haystack test of a proxy: start, watch, read, compare."""

import pandas as pd
import streamlit as st

from hybrid_core.live.retrieval import finding
from hybrid_core.live.retrieval.options import NOTE, NiahOptions
from hybrid_core.report import units
from hybrid_core.report.figures import style
from hybrid_core.report.figures.retrieval import retrieval_map, training_curve
from hybrid_core.report.numbers import score_numbers
from hybrid_core.report.retrieval import (
    latest_of_each,
    learnt,
    map_facts,
    reading,
    unlike,
)
from hybrid_core.report.sources import explained
from hybrid_core.results.retrieval import Map, Proxy, Training
from hybrid_core.runs.store import Run, open_store
from pages.parts import chart, design, jobs, layout, proxies


def draw() -> None:
    """Draw the tab."""
    spec = design.current()
    st.markdown(
        f"A small proxy of **{design.plain(spec.name)}** `{spec.pattern}` is trained to look up "
        f"needles in noise. Then it is asked for them at every depth and context. {NOTE}"
    )
    options = proxies.controls("niah")
    if st.button("Start needle test", type="primary", icon=":material/play_arrow:"):
        jobs.start(lambda: (spec, NiahOptions.make(**options)))
    jobs.queue()
    jobs.show(
        "niah",
        _result,
        "No needle test yet. Start one above: with the default budget it takes two to four minutes "
        "on two CPU cores.",
    )
    with jobs.needs_runs(say=False), jobs.results():
        _side_by_side()


def _result(run: Run) -> None:
    """The verdict, the scores, the map, and what to make of them."""
    jobs.headline(run)
    _verdict(run)
    jobs.warn_of_gaps(run)
    if run.part(Map):
        _scores(run)
        _map_and_curve(run)
    else:
        _curve_before_the_map(run)


def _verdict(run: Run) -> None:
    text = reading(run)
    if text and learnt(run):
        st.success(design.plain(text))
    elif text:
        st.warning(design.plain(text))


def _map_and_curve(run: Run) -> None:
    left, right = layout.cells(2, layout.WIDE)
    with left:
        chart.show(retrieval_map(run), f"map-{run.id}")
    with right:
        _proxy_and_paper(run)
        _training_curve(run)


def _curve_before_the_map(run: Run) -> None:
    left, right = layout.cells(2, layout.WIDE)
    with right:
        _proxy_and_paper(run)
    with left:
        if run.active:
            st.info("The map fills in here once the proxy is trained.")
        _training_curve(run)


def _training_curve(run: Run) -> None:
    if run.part(Training):
        chart.show(training_curve(run), f"training-{run.id}")


def _scores(run: Run) -> None:
    """The numbers that compare designs."""
    found = score_numbers(run)
    trained = map_facts(run).trained_len
    beyond = trained * 3 // 2
    at_trained, at_beyond, reach, tokens = layout.cells(4, layout.CARD + 30)
    recalled = explained("needles_recalled")
    at_trained.metric(
        f"Recalled at {trained:,} tokens",
        found.at_trained_len.said,
        help=recalled,
    )
    at_trained.caption("measured, proxy; the trained length, mean over all depths")
    at_beyond.metric(
        f"Recalled at {beyond:,} tokens",
        found.at_1_5x.said,
        help=recalled,
    )
    at_beyond.caption("measured, proxy; 1.5 times the trained length")
    reach.metric(
        "Effective context (tokens)",
        found.effective_context.said,
        help=explained("effective_context"),
    )
    reach.caption(
        "measured, proxy; up to here at least 90 % recalled, 95 % interval; "
        "≥: no longer context was tested"
    )
    tokens.metric(
        "Training tokens to 90 %",
        found.tokens_to_learn.said,
        help=explained("tokens_to_learn"),
    )
    tokens.caption("measured, proxy; fewer means it learns sooner")


def _proxy_and_paper(run: Run) -> None:
    """What was trained, and what the paper found for such designs."""
    proxy = run.part(Proxy)
    if proxy:
        made = f"layers `{proxy.pattern}` for the design's `{proxy.design_pattern}`"
        size = f"{units.count(proxy.params)} parameters, trained at {proxy.trained_len:,} tokens"
        needles = f"{proxy.n_needles} needles per context"
        st.markdown(f"**{proxy.note}** The proxy: {made}, {size}, {needles}.")
    st.markdown(f"**The paper:** {finding.finding(run.spec)} *{finding.SOURCE}*")


def _side_by_side() -> None:
    """Several designs: a row of scores each, and their maps on one colour scale."""
    runs = [run for run in open_store().list(kind="niah") if _has_cells(run)]
    if len(runs) < 2:
        return
    st.subheader("Designs side by side")
    compared = _choose_runs(runs)
    differing = unlike(compared)
    if differing:
        listed = design.plain("; ".join(differing))
        st.warning(f"These runs had different options: {listed}.")
    _score_table(compared)
    maps = {f"compared-{run.id}": retrieval_map(run, small=True) for run in compared}
    chart.row(maps, layout.MAP)


def _choose_runs(runs: list[Run]) -> list[Run]:
    """The runs to compare; at first the latest of each design."""
    by_id = {run.id: run for run in runs}
    labels = {run.id: f"{run.id}: {run.name}, seed {run.options['seed']}" for run in runs}
    chosen = st.multiselect(
        "Needle tests",
        list(labels),
        default=[run.id for run in latest_of_each(runs)][:6],
        format_func=labels.__getitem__,
        key="niah.compared",
    )
    return [by_id[run_id] for run_id in chosen]


def _has_cells(run: Run) -> bool:
    """Whether a run can be shown and its map has begun."""
    if run.foreign:
        return False
    found = run.part(Map)
    return found is not None and bool(found.cells)


def _score_table(runs: list[Run]) -> None:
    """One row per run. Shares are means over all depths, measured on the proxy."""
    rows = {}
    for run in runs:
        row = map_facts(run)
        found = score_numbers(run)
        has_learnt = "no"
        if row.learnt:
            has_learnt = "yes"
        rows[style.label(run)] = {
            "layers of the proxy": row.proxy or "unknown",
            "learnt": has_learnt,
            "lengths with all trials": row.whole_lengths,
            "trained length (tokens)": f"{row.trained_len:,}",
            "recalled at trained length": found.at_trained_len.said,
            "recalled at 1.5 times": found.at_1_5x.said,
            "effective context (tokens, 95 % interval)": found.effective_context.said,
            "training tokens to 90 %": found.tokens_to_learn.said,
            "seed": str(row.seed),
        }
    if rows:
        layout.table(pd.DataFrame(rows).T)
