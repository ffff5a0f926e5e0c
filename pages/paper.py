"""Paper: the stored tables of Bae et al., the figures made from them, and the user's runs laid
over."""

import pandas as pd
import streamlit as st

from hybrid_core.design import presets
from hybrid_core.evidence import baselines
from hybrid_core.evidence.paper_check import throughput_ratios
from hybrid_core.report import figures, units
from pages.parts import chart, design, jobs, layout

design.view()
st.title("The paper")
jobs.strip()
st.markdown(
    "The tables and their charts are **quoted** from [Bae et al., arXiv 2510.04800v3](https://arxiv.org/abs/2510.04800v3) (CC BY 4.0), as "
    "printed; beside Table 13 stand our **predicted** ceilings. Points such as 3+10 count layers, in the order attention, window, Mamba, "
    "intra-hybrid. Your own runs can be laid over; each on its own device by its own protocol, so compare shapes, not heights."
)
done = jobs.finished("profile")
chosen = st.multiselect(
    "Your runs to lay over",
    [run.id for run in done],
    default=[run.id for run in done[:5]],
    format_func=lambda i: next(f"#{r.id} {r.name} on {r.device}" for r in done if r.id == i),
)
runs = [run for run in done if run.id in chosen]

st.subheader("Table 2: five designs at 1B, 60B tokens")
rows = [
    baselines.matching(presets.get(name).spec, "table09_1b").query("budget == 'data'").iloc[0]
    for name in presets.TABLE2
]
columns = {
    figures.MODEL_LABEL[row["model"]]: {
        "parameters": f"{row['n_emb_b']:.2f}B",
        "training FLOPs": f"{row['train_flops']:.1e}",
        "cache at 8K (MiB)": f"{row['cache_mib']:.0f}",
        "NLL DCLM (nats)": f"{row['nll_dclm']:.3f}",
        "NLL PG19 (nats)": f"{row['nll_pg19']:.3f}",
        "accuracy (%)": f"{row['avg']:.1f}",
        "tokens/s at 8K, batch 4": f"{baselines.throughput(presets.get(name).spec).tokens_per_s[2]:,.0f}",
    }
    for name, row in zip(presets.TABLE2, rows, strict=True)
}
layout.table(pd.DataFrame(columns).T)
st.caption(f"quoted: {baselines.CITATION}, Tables 2, 9 and 13; parameters without embedding")

total = (
    st.segmented_control(
        "Total length of Figure 1b",
        list(baselines.TOTALS.values()),
        default=8192,
        format_func=units.length,
    )
    or 8192
)
chart.show(figures.quality_throughput(total, runs), "figure1b")
chart.show(figures.paper_throughput(runs), "figure3a")
chart.show(figures.paper_cache(runs), "figure3b")

st.subheader("What changes the loss")
with st.container(horizontal=True, vertical_alignment="bottom"):
    asked = {question.title: question for question in figures.QUESTIONS}
    question = asked[
        st.segmented_control(
            "Question", list(asked), default="Ratio", required=True, key="paper.question"
        )
    ]
    if len(question.scales) > 1:
        scales = [
            st.segmented_control(
                "Size of the models",
                question.scales,
                default="1B",
                required=True,
                key="paper.scale",
            )
        ]
    else:
        scales = list(question.scales)
chart.show(question.draw(*scales), f"loss-{question.title}")

st.subheader("Table 13 beside the ceiling of its device")
beside: dict[str, dict[str, str]] = {}
for row in throughput_ratios():
    cell = f"{row['paper_tokens_per_s']:,.0f} of {row['predicted_tokens_per_s']:,.0f} ({row['ratio']:.0%})"
    beside.setdefault(row["name"], {})[f"to {units.length(row['total_len'])}"] = cell
layout.table(pd.DataFrame(beside).T)
st.caption(
    "tokens/s of all four sequences. quoted: Table 13, one H200, batch 4, prompt 512; predicted: the roofline of an H200 SXM, each step "
    "reading weights and cache once. Another code base was measured, so nothing is fitted to it: the share says how far it ran from the "
    "ceiling."
)

st.subheader("Every stored table")
name = st.selectbox(
    "Table",
    list(baselines.TABLES),
    format_func=lambda key: f"Table {baselines.TABLES[key][0]}: {baselines.TABLES[key][1]}",
)
frame = baselines.table(name)
st.dataframe(
    frame.rename(columns=baselines.heading),
    hide_index=True,
    column_config={
        baselines.heading("train_flops"): st.column_config.NumberColumn(format="scientific")
    },
)
st.download_button("Download as CSV", frame.to_csv(index=False), f"{name}.csv", "text/csv")
st.caption(f"quoted: {baselines.CITATION}, Table {baselines.TABLES[name][0]}")
