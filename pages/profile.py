"""Profile: build the design for real, measure it, and hold the result beside prediction and
paper."""

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from hybrid_core.live.profiling.options import DECODE_PATHS, ProfileOptions
from hybrid_core.report import figures, units
from hybrid_core.report.energy import energy_lines, how_measured
from hybrid_core.report.text import in_chunks, kept_in, slow_dtype
from hybrid_core.runs import Run
from hybrid_core.speed.cost import layers
from hybrid_core.workload import PAPER_BATCH, PAPER_PROMPT
from pages.parts import chart, design, jobs, layout, work

DECODE_HELP = (
    "Auto: one captured graph per step on CUDA, eager calls on a CPU. Compiled: torch compiles the step first, about a second per layer, "
    "and needs a C++ compiler; small models gain most."
)


def start() -> None:
    """The design on screen, what to measure, and the button."""
    spec = design.current()
    st.markdown(
        f"**{design.plain(spec.name)}** `{spec.pattern}` is built in a process of its own and measured. Change it on the Compose page."
    )
    columns = list(layout.cells(6, 180))
    device = jobs.device_choice(columns[0], "profile.device")
    budget = columns[1].number_input(
        "Time budget (s)", value=60, step=30, help="Shorter budgets mean fewer repeats"
    )
    dtype = columns[2].selectbox("Weights", ["bf16", "fp16", "fp32"])
    batch = columns[3].number_input(
        "Batch size", value=PAPER_BATCH, help="4 in the paper's protocol"
    )
    prompt = columns[4].number_input(
        "Prompt (tokens)", value=PAPER_PROMPT, step=128, help="512 in the paper's protocol"
    )
    decode = columns[5].selectbox(
        "Decode steps", DECODE_PATHS, format_func=str.capitalize, help=DECODE_HELP
    )
    if st.button("Start profile", type="primary", icon=":material/play_arrow:"):
        asked = {
            "device": device,
            "budget_s": float(budget),
            "dtype": dtype,
            "batch_size": int(batch),
            "prompt_len": int(prompt),
        }
        asked["decode"] = decode
        jobs.start(lambda: (spec, ProfileOptions.make(**asked)))
    work.calibrations_left_out()


def result(run: Run) -> None:
    """Everything that is known of one run."""
    jobs.headline(run)
    if slow := slow_dtype(run):
        st.warning(f"{slow}.")
    if dtypes := kept_in(run):
        st.caption(dtypes[0].upper() + dtypes[1:])
    parts = run.parts
    speeds(parts)
    if "generation" in parts:
        chart.show(figures.generation([run]), f"generation-{run.id}")
        for row in parts["generation"]["not_measured"]:
            st.warning(f"{row['total_len']:,} tokens not measured: {row['why']}")
    left, right = layout.cells(2, layout.CHART + 80)
    if "cache" in parts:
        with left:
            chart.show(figures.live_cache([run]), f"cache-{run.id}")
    with right:
        traced(parts)
        layer_table(run)


def speeds(parts: dict) -> None:
    """The four headline figures."""
    columns = list(layout.cells(4, layout.CARD + 30))
    if found := parts.get("prefill"):
        share = found["tokens_per_s"] / found["predicted_tokens_per_s"]
        columns[0].metric(
            "Prefill",
            units.rate(found["tokens_per_s"]),
            help=f"measured: batch {found['batch_size']}, prompt {found['prompt_len']}{in_chunks(found)}, median of {found['repeats']}",
        )
        columns[0].caption(f"measured{in_chunks(found)}; {share:.0%} of the prediction")
    if rows := parts.get("decode", {}).get("rows"):
        columns[1].metric(
            f"Decode at {units.length(rows[0]['context_len'])}",
            units.rate(rows[0]["tokens_per_s"]),
            help=f"measured: median of {rows[0]['repeats']} steps",
        )
        columns[1].caption(
            f"measured; {rows[0]['tokens_per_s'] / rows[0]['predicted_tokens_per_s']:.0%} of the prediction"
        )
    if found := parts.get("memory"):
        columns[2].metric("Peak memory", units.n_bytes(found["peak_bytes"]), help=found["what"])
        columns[2].caption(
            f"measured; {units.n_bytes(found['predicted_bytes']['total'])} by the closed forms"
        )
        if found.get("one_shot_activations", 0) > found["predicted_bytes"]["activations"]:
            columns[2].caption(
                f"a prefill at once would hold {units.n_bytes(found['one_shot_activations'])} of activations"
            )
    if found := parts.get("energy"):
        energy(found, columns[3])


def energy(part: dict, column: DeltaGenerator) -> None:
    """Joules a token of the last stretch that has a figure, decode at the longest context, and the
    other lines below it."""
    lines = energy_lines(part)
    measured = [line for line in lines if line.convention and line.name.startswith("energy")]
    if not measured:
        column.metric("Energy", "not measured")
        column.caption(lines[-1].figure)
        return
    shown = measured[-1]
    column.metric("Energy", shown.figure, help=how_measured(part) if "rows" in part else None)
    column.caption(shown.name.removeprefix("energy, "))
    for line in lines:
        if line != shown:
            column.caption(f"{line.name}: {line.figure}")


def traced(parts: dict) -> None:
    """Both counters beside the closed form."""
    if found := parts.get("trace"):
        st.markdown(f"**FLOPs at {found['seq_len']:,} tokens** (traced on the instantiated model)")
        rows = {
            what: {name: units.flops(value) for name, value in found[what].items()}
            for what in ("forward", "decode")
        }
        st.dataframe(pd.DataFrame(rows).T.rename(columns={"torch": "FlopCounterMode"}))
        equal = all(len(set(found[what].values())) == 1 for what in ("forward", "decode"))
        st.caption(
            "traced and exact agree to the last FLOP"
            if equal
            else "traced and exact DISAGREE: please report this design"
        )


def layer_table(run: Run) -> None:
    """Parameters, FLOPs and cache per layer."""
    st.markdown("**Per layer** (exact, 8,192 tokens)")
    workload = ProfileOptions.make(**run.options).workload(8192)
    rows = layers(run.spec, workload.of(run.spec))
    frame = pd.DataFrame([row.model_dump() for row in rows])
    frame["cache_bytes"] /= 2**20
    frame["flops"] /= 1e9
    frame["params"] /= 1e6
    st.dataframe(
        frame,
        hide_index=True,
        height=260,
        column_config={
            "params": st.column_config.NumberColumn("parameters (M)", format="%.1f"),
            "flops": st.column_config.NumberColumn("GFLOPs", format="%.0f"),
            "cache_bytes": st.column_config.NumberColumn("cache (MiB)", format="%.2f"),
        },
    )


st.title("Profile")
start()
jobs.queue()
jobs.show(
    "profile",
    result,
    "No profile yet. Start one above: a 1B design takes one to three minutes on two CPU cores.",
)
