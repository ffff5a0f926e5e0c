"""Retrieval: what a design can find in its context, as a small proxy of it shows, or a trained
checkpoint."""

from typing import Any

import pandas as pd
import streamlit as st

from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.retrieval import finding, texts
from hybrid_core.live.retrieval.options import (
    NOTE,
    PAPER_LENGTHS,
    CheckpointOptions,
    NiahOptions,
    ProbeOptions,
    least_text_bytes,
)
from hybrid_core.report import units
from hybrid_core.report.figures import style
from hybrid_core.report.figures.retrieval import retrieval_charts, retrieval_map, training_curve
from hybrid_core.report.numbers import score_numbers
from hybrid_core.report.retrieval import (
    latest_of_each,
    learnt,
    map_facts,
    not_whole,
    reading,
    unlike,
)
from hybrid_core.report.sources import explained
from hybrid_core.results.checkpoint import Checkpoint
from hybrid_core.results.retrieval import Map, Proxy, Training
from hybrid_core.runs.store import Run, open_store
from pages.parts import chart, design, jobs, layout

FIELD = 180
TASKS = {"niah_single": "one needle", "niah_multikey": "one needle among three others"}


def proxy_controls(kind: str) -> dict[str, Any]:
    """Device, budget and seed of a proxy's training; the rest follows the device unless it is
    changed."""
    columns = list(layout.cells(3, FIELD))
    device = jobs.device_choice(columns[0], f"{kind}.device")
    help_budget = (
        "For training and questions together. 300 s let most designs learn on two CPU cores"
    )
    budget = columns[1].number_input(
        "Time budget (s)", value=300, step=60, key=f"{kind}.budget", help=help_budget
    )
    seed = columns[2].number_input(
        "Seed",
        value=0,
        key=f"{kind}.seed",
        help="Of weights and data",
    )
    usual = NiahOptions().scale(device.split(":")[0])
    with st.expander("Size of the proxy, trials"):
        columns = list(layout.cells(3, FIELD))
        key = f"{kind}.{device}"
        width = columns[0].number_input(
            "d_model of the proxy", value=usual.d_model, step=32, key=f"{key}.width"
        )
        length = columns[1].number_input(
            "Trained length (tokens)", value=usual.trained_len, step=128, key=f"{key}.length"
        )
        trials = columns[2].number_input(
            "Trials a cell", value=usual.trials, step=50, key=f"{key}.trials"
        )
        st.caption("Compare designs at the same size, budget and seed.")
    return {
        "device": device,
        "budget_s": float(budget),
        "seed": seed,
        "d_model": width,
        "trained_len": length,
        "trials": trials,
    }


# ---------------------------------------------------------------- needles


def needles() -> None:
    """The quick needle-in-a-haystack run: ask, watch, read, compare."""
    spec = design.current()
    st.markdown(
        f"A small proxy of **{design.plain(spec.name)}** `{spec.pattern}` is trained to look up "
        f"needles in noise. Then it is asked for them at every depth and context. {NOTE}"
    )
    asked = proxy_controls("niah")
    if st.button("Start needle test", type="primary", icon=":material/play_arrow:"):
        jobs.start(lambda: (spec, NiahOptions.make(**asked)))
    jobs.queue()
    none_yet = (
        "No needle test yet. Start one above: with the default budget it takes two to four minutes "
        "on two CPU cores."
    )
    jobs.show("niah", needle_result, none_yet)
    with jobs.needs_runs(say=False), jobs.results():
        side_by_side()


def needle_result(run: Run) -> None:
    """Verdict and scores, the map, and beside it what it may be taken for."""
    jobs.headline(run)
    text = reading(run)
    if text and learnt(run):
        st.success(design.plain(text))
    elif text:
        st.warning(design.plain(text))
    what_is_missing(run)
    has_map = run.part(Map) is not None
    if has_map:
        scores(run)
    left, right = layout.cells(2, layout.WIDE)
    curve = left
    with right:
        beside_the_map(run)
    if has_map:
        curve = right
        with left:
            chart.show(retrieval_map(run), f"map-{run.id}")
    elif run.active:
        left.info("The map fills in here once the proxy is trained.")
    if run.part(Training):
        with curve:
            chart.show(training_curve(run), f"training-{run.id}")


def what_is_missing(run: Run) -> None:
    """So that nobody takes a result that is not whole for one that is."""
    for line in not_whole(run):
        st.warning(design.plain(f"{line}."))


def scores(run: Run) -> None:
    """The numbers that compare designs."""
    found = score_numbers(run)
    trained = map_facts(run).trained_len
    beyond = trained * 3 // 2
    columns = list(layout.cells(4, layout.CARD + 30))
    recalled = explained("needles_recalled")
    columns[0].metric(
        f"Recalled at {trained:,} tokens",
        found.at_trained_len.said,
        help=recalled,
    )
    columns[0].caption("measured, proxy; the trained length, mean over all depths")
    columns[1].metric(
        f"Recalled at {beyond:,} tokens",
        found.at_1_5x.said,
        help=recalled,
    )
    columns[1].caption("measured, proxy; 1.5 times the trained length")
    columns[2].metric(
        "Effective context (tokens)",
        found.effective_context.said,
        help=explained("effective_context"),
    )
    columns[2].caption(
        "measured, proxy; up to here at least 90 % recalled, 95 % interval; "
        "≥: no longer context was asked"
    )
    columns[3].metric(
        "Training tokens to 90 %",
        found.tokens_to_learn.said,
        help=explained("tokens_to_learn"),
    )
    columns[3].caption("measured, proxy; fewer: learns sooner")


def beside_the_map(run: Run) -> None:
    """What was trained, and what the paper found for such designs."""
    proxy = run.part(Proxy)
    if proxy:
        made = f"layers `{proxy.pattern}` for the design's `{proxy.design_pattern}`"
        size = f"{units.count(proxy.params)} parameters, trained at {proxy.trained_len:,} tokens"
        needles = f"{proxy.n_needles} needles a context"
        st.markdown(f"**{proxy.note}** The proxy: {made}, {size}, {needles}.")
    st.markdown(f"**The paper:** {finding.finding(run.spec)} *{finding.SOURCE}*")


def side_by_side() -> None:
    """Maps of several designs on one colour scale, and a row of scores each."""
    runs = [run for run in open_store().list(kind="niah") if has_cells(run)]
    if len(runs) < 2:
        return
    st.subheader("Designs side by side")
    labels = {run.id: f"{run.id}: {run.name}, seed {run.options['seed']}" for run in runs}
    default = [run.id for run in latest_of_each(runs)][:6]
    chosen = st.multiselect(
        "Needle tests",
        list(labels),
        default=default,
        format_func=labels.__getitem__,
        key="niah.compared",
    )
    by_id = {run.id: run for run in runs}
    compared = [by_id[run_id] for run_id in chosen]
    differing = unlike(compared)
    if differing:
        listed = design.plain("; ".join(differing))
        st.warning(f"These runs were not asked alike: {listed}.")
    score_table(compared)
    for place, run in zip(layout.cells(len(compared), layout.MAP), compared, strict=True):
        with place:
            chart.show(retrieval_map(run, small=True), f"compared-{run.id}")


def has_cells(run: Run) -> bool:
    """Whether a run can be shown and has a map that has begun."""
    if run.foreign:
        return False
    found = run.part(Map)
    return found is not None and bool(found.cells)


def score_table(runs: list[Run]) -> None:
    """One row a run; shares are means over all depths, measured on the proxy."""
    told = {}
    for run in runs:
        row = map_facts(run)
        found = score_numbers(run)
        has_learnt = "no"
        if row.learnt:
            has_learnt = "yes"
        told[style.label(run)] = {
            "layers of the proxy": row.proxy or "unknown",
            "learnt": has_learnt,
            "lengths with all trials": row.whole_lengths,
            "trained length (tokens)": f"{row.trained_len:,}",
            "recalled there": found.at_trained_len.said,
            "at 1.5 times": found.at_1_5x.said,
            "effective context (tokens, 95 % interval)": found.effective_context.said,
            "training tokens to 90 %": found.tokens_to_learn.said,
            "seed": str(row.seed),
        }
    if told:
        layout.table(pd.DataFrame(told).T)


# ---------------------------------------------------------------- probes


def probes() -> None:
    """Associative recall, selective copying, loss by position."""
    spec = design.current()
    st.markdown(
        f"Three more tests of small proxies of **{design.plain(spec.name)}** `{spec.pattern}`: how "
        "many pairs of key and value it keeps (associative recall), whether it picks symbols out "
        "of noise (selective copying), and how its loss falls along a text of yours. "
        f"{NOTE}"
    )
    asked = proxy_controls("probes")
    with st.expander("A text for the loss by position (without one that probe is left out)"):
        upload = st.file_uploader(
            "A text file",
            type=["txt", "md"],
            key="probes.upload",
        )
        pasted = st.text_area("or paste a text", key="probes.pasted")
        least = least_text_bytes(asked["trained_len"])
        st.caption(
            f"At least {least:,} bytes for this trained length. It stays in your data folder."
        )
    if st.button("Start probes", type="primary", icon=":material/play_arrow:"):
        text = pasted.encode()
        if upload:
            text = upload.getvalue()
        jobs.start(lambda: (spec, probe_options(text, asked)))
    jobs.queue()
    jobs.show(
        "probes",
        probe_result,
        "No probes yet. Start them above: the budget is shared out among them.",
    )


def probe_result(run: Run) -> None:
    """What it says in words, what it left out, and the charts."""
    jobs.headline(run)
    text = reading(run)
    if text:
        st.warning(design.plain(text))
    what_is_missing(run)
    charts(run)


def probe_options(text: bytes, asked: dict[str, Any]) -> ProbeOptions:
    """The options, with the text kept in the data folder."""
    path = None
    if text:
        path = str(texts.keep(text, least_text_bytes(asked["trained_len"])))
    return ProbeOptions.make(text_path=path, **asked)


def charts(run: Run) -> None:
    """A chart for each probe that has begun."""
    drawn = retrieval_charts([run])
    for index, (place, figure) in enumerate(
        zip(layout.cells(len(drawn), layout.WIDE), drawn, strict=True)
    ):
        with place:
            chart.show(figure, f"probe-{run.id}-{index}")


# ---------------------------------------------------------------- checkpoints


def checkpoints() -> None:
    """The paper's own protocol on a trained model."""
    st.markdown(
        "The paper's protocol (Appendix K) on a trained model: a folder on this machine in Hugging "
        "Face format, with its tokenizer. A magic number is hidden in a text at eleven depths, and "
        "the model is asked for it."
    )
    columns = list(layout.cells(3, FIELD + 60))
    device = jobs.device_choice(columns[0], "checkpoint.device")
    task = columns[1].selectbox(
        "Task", list(TASKS), format_func=lambda name: f"{name}: {TASKS[name]}"
    )
    trials = columns[2].number_input(
        "Trials a cell", value=100, step=50, key="checkpoint.trials", help="100 in the paper"
    )
    path = st.text_input("Folder of the checkpoint", placeholder="/home/me/models/my-hybrid-1b")
    lengths = st.multiselect(
        "Contexts (tokens)",
        PAPER_LENGTHS,
        default=PAPER_LENGTHS,
        help="The paper's; longer ones take longer",
    )
    if st.button(
        "Start checkpoint test", type="primary", icon=":material/play_arrow:", disabled=not path
    ):
        jobs.start(
            lambda: checkpoint_job(
                path=path, device=device, task=task, trials=trials, lengths=sorted(lengths)
            )
        )
    jobs.queue()
    jobs.show("checkpoint", checkpoint_result, "No checkpoint tested yet.")


def checkpoint_result(run: Run) -> None:
    """The map, and what is not in it."""
    jobs.headline(run)
    found = run.part(Checkpoint)
    if found:
        for row in found.not_run:
            st.warning(f"{row.context_len:,} tokens not run: {row.why}")
    if found and found.dropped:
        st.caption(design.plain(found.dropped))
    if run.part(Map):
        chart.show(retrieval_map(run), f"map-{run.id}")


def checkpoint_job(**asked: Any) -> tuple[ArchSpec, CheckpointOptions]:
    """The design that the folder describes, and what to ask. Raises SpecError with one line."""
    options = CheckpointOptions.make(**asked)
    return options.design(), options


st.title("Retrieval")
views = {"Needle in a haystack": needles, "Probes": probes, "Checkpoint": checkpoints}
for tab, draw in zip(
    st.tabs(list(views), key="retrieval.tab", on_change="rerun"), views.values(), strict=True
):
    if tab.open:
        with tab:
            draw()
