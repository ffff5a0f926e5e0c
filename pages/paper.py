"""Paper: the stored tables of Bae et al., the figures made from them, and the user's own runs drawn
over them."""

import pandas as pd
import streamlit as st

from hybrid_core.design import presets
from hybrid_core.evidence import baselines, throughput
from hybrid_core.report import units
from hybrid_core.report.figures import style
from hybrid_core.report.figures.ablations import QUESTIONS
from hybrid_core.report.figures.paper import paper_cache, paper_throughput, quality_throughput
from hybrid_core.runs.store import Run
from pages.parts import chart, design, jobs, layout


def _runs_to_draw() -> list[Run]:
    """The user's profiles to draw into the paper's charts, by default the five newest."""
    done = {run.id: run for run in jobs.finished("profile")}
    labels = {run.id: f"#{run.id} {run.name} on {run.device}" for run in done.values()}
    chosen = st.multiselect(
        "Your runs to draw over the charts",
        list(done),
        default=list(done)[:5],
        format_func=labels.__getitem__,
    )
    return [run for run in done.values() if run.id in chosen]


def _five_designs() -> None:
    """Table 2, one design per row, with the speed of Table 13."""
    st.subheader("Table 2: five designs at 1B, 60B tokens")
    rows = {}
    for name in presets.TABLE2:
        spec = presets.get(name).spec
        row = baselines.matching(spec, "table09_1b").query("budget == 'data'").iloc[0]
        speed = throughput.throughput(spec)
        assert speed
        rows[style.MODEL_LABEL[row["model"]]] = {
            "parameters": f"{row['n_emb_b']:.2f}B",
            "training FLOPs": f"{row['train_flops']:.1e}",
            "cache at 8K (MiB)": f"{row['cache_mib']:.0f}",
            "NLL DCLM (nats)": f"{row['nll_dclm']:.3f}",
            "NLL PG19 (nats)": f"{row['nll_pg19']:.3f}",
            "accuracy (%)": f"{row['avg']:.1f}",
            "tokens/s at 8K, batch 4": f"{speed.tokens_per_s[2]:,.0f}",
        }
    layout.table(pd.DataFrame(rows).T)
    st.caption(f"quoted: {baselines.CITATION}, Tables 2, 9 and 13; parameters without embedding")


def _speed_and_cache(runs: list[Run]) -> None:
    """Figures 1b, 3a and 3b."""
    total = st.segmented_control(
        "Total length of Figure 1b",
        list(throughput.TOTALS.values()),
        default=8192,
        format_func=units.length,
    )
    chart.show(quality_throughput(total or 8192, runs), "figure1b")
    chart.show(paper_throughput(runs), "figure3a")
    chart.show(paper_cache(runs), "figure3b")


def _what_changes_the_loss() -> None:
    """A chart for the question and the model size that are picked."""
    st.subheader("What changes the loss")
    questions = {question.title: question for question in QUESTIONS}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        title = st.segmented_control(
            "Question",
            list(questions),
            default="Ratio",
            required=True,
            key="paper.question",
        )
        question = questions[title]
        scales = list(question.scales)
        if len(scales) > 1:
            scale = st.segmented_control(
                "Model size",
                question.scales,
                default="1B",
                required=True,
                key="paper.scale",
            )
            scales = [scale]
    chart.show(question.draw(*scales), f"loss-{question.title}")


def _speed_beside_ceiling() -> None:
    """Table 13, each cell as a share of what the device could do."""
    st.subheader("Table 13 against the ceiling of its device")
    designs: dict[str, dict[str, str]] = {}
    for row in throughput.throughput_ratios():
        reached = row["paper_tokens_per_s"]
        ceiling = row["predicted_tokens_per_s"]
        cells = designs.setdefault(row["name"], {})
        length = f"to {units.length(row['total_len'])}"
        cells[length] = f"{reached:,.0f} of {ceiling:,.0f} ({row['ratio']:.0%})"
    layout.table(pd.DataFrame(designs).T)
    st.caption(
        "tokens/s of all four sequences. quoted: Table 13, one H200, batch 4, prompt 512. "
        "predicted: the roofline of an H200 SXM, where each step reads weights and cache once. "
        "The paper measured its own code, not ours, so nothing is fitted to it. The share says how "
        "far that code was from the ceiling."
    )


def _title(name: str) -> str:
    """The title of a table: "Table 4: Mixture of experts"."""
    number, title = baselines.TABLES[name]
    return f"Table {number}: {title}"


def _stored_tables() -> None:
    """Any table as printed, to read and to download."""
    st.subheader("Every stored table")
    name = st.selectbox("Table", list(baselines.TABLES), format_func=_title)
    frame = baselines.table(name)
    flops = st.column_config.NumberColumn(format="scientific")
    st.dataframe(
        frame.rename(columns=baselines.heading),
        hide_index=True,
        column_config={baselines.heading("train_flops"): flops},
    )
    st.download_button(
        "Download as CSV",
        frame.to_csv(index=False),
        f"{name}.csv",
        "text/csv",
    )
    number, _ = baselines.TABLES[name]
    st.caption(f"quoted: {baselines.CITATION}, Table {number}")


design.view()
st.title("The paper")
jobs.strip()
st.markdown(
    "The tables and their charts are **quoted** from "
    "[Bae et al., arXiv 2510.04800v3](https://arxiv.org/abs/2510.04800v3) (CC BY 4.0), as printed. "
    "Table 13 is next to our **predicted** ceilings. Labels such as 3+10 count layers, in the "
    "order attention, window, Mamba, intra-hybrid. You can draw your own runs over the charts. "
    "Each ran on its own device by its own protocol, so compare shapes, not heights."
)
own_runs = _runs_to_draw()
_five_designs()
_speed_and_cache(own_runs)
_what_changes_the_loss()
_speed_beside_ceiling()
_stored_tables()
