"""Profile: build the design for real, measure it, and hold the result beside prediction and
paper."""

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from hybrid_core.live.profiling.options import DECODE_PATHS, ProfileOptions
from hybrid_core.report import figures, units
from hybrid_core.report.numbers import (
    WHOLE_STRETCH,
    Number,
    how_measured,
    in_chunks,
    numbers,
    of_name,
)
from hybrid_core.report.sources import explained
from hybrid_core.report.text.runs import kept_in, slow_dtype
from hybrid_core.results.profile import (
    Decode,
    Energy,
    Generation,
    LiveCache,
    PeakMemory,
    Prefill,
    Trace,
)
from hybrid_core.runs import Run
from hybrid_core.speed.cost import layers
from hybrid_core.workload import PAPER_BATCH, PAPER_PROMPT
from pages.parts import chart, design, jobs, layout, work

DECODE_HELP = (
    "Auto: one captured graph per step on CUDA, eager calls on a CPU. Compiled: torch compiles the "
    "step first. That takes about a second per layer and a C++ compiler; small models gain most."
)


def start() -> None:
    """The design on screen, what to measure, and the button."""
    spec = design.current()
    name = design.plain(spec.name)
    st.markdown(
        f"**{name}** `{spec.pattern}` is built in a process of its own and measured. "
        "Change it on the Compose page."
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
            "decode": decode,
        }
        jobs.start(lambda: (spec, ProfileOptions.make(**asked)))
    work.warn_of_calibrations()


def result(run: Run) -> None:
    """Everything that is known of one run."""
    jobs.headline(run)
    slow = slow_dtype(run)
    if slow:
        st.warning(f"{slow}.")
    dtypes = kept_in(run)
    if dtypes:
        st.caption(dtypes[0].upper() + dtypes[1:])
    headline_numbers(run)
    generation = run.part(Generation)
    if generation:
        chart.show(figures.generation([run]), f"generation-{run.id}")
        for row in generation.not_measured:
            st.warning(f"{row.total_len:,} tokens not measured: {row.why}")
    left, right = layout.cells(2, layout.CHART + 80)
    if run.part(LiveCache):
        with left:
            chart.show(figures.live_cache([run]), f"cache-{run.id}")
    with right:
        traced(run)
        layer_table(run)


def headline_numbers(run: Run) -> None:
    """The four headline figures."""
    found = numbers(run)
    columns = list(layout.cells(4, layout.CARD + 30))
    prefill = run.part(Prefill)
    if prefill:
        speeds = of_name(found, "prefill")
        how = f"{speeds['measured'].at}, median of {prefill.repeats}"
        columns[0].metric(
            "Prefill",
            speeds["measured"].said,
            help=explained("prefill", how),
        )
        columns[0].caption(f"measured{in_chunks(prefill)}; {of_the_prediction(speeds)}")
    decode = run.part(Decode)
    if decode:
        first = decode.rows[0]
        speeds = of_name(found, f"decode at {first.context_len:,} tokens")
        how = f"{speeds['measured'].at}, median of {first.repeats} steps"
        name = f"Decode at {units.length(first.context_len)}"
        columns[1].metric(
            name,
            speeds["measured"].said,
            help=explained("decode", how),
        )
        columns[1].caption(f"measured; {of_the_prediction(speeds)}")
    memory = run.part(PeakMemory)
    if memory:
        peak_memory(memory, found, columns[2])
    metered = run.part(Energy)
    if metered:
        energy(metered, found, columns[3])


def of_the_prediction(speeds: dict[str, Number]) -> str:
    """A measured speed as a share of the predicted one."""
    share = float(speeds["measured"].value or 0) / float(speeds["predicted"].value or 0)
    return f"{share:.0%} of the prediction"


def peak_memory(
    memory: PeakMemory,
    found: list[Number],
    column: DeltaGenerator,
) -> None:
    """The peak, and the closed forms beside it."""
    peak = of_name(found, "peak memory")["measured"]
    exact = of_name(found, "weights, cache, activations")["exact"]
    column.metric("Peak memory", peak.said, help=explained("peak_memory", peak.at))
    column.caption(f"measured; {exact.said} by the closed forms")
    at_once = memory.one_shot_activations or 0
    if at_once > memory.predicted_bytes.activations:
        column.caption(f"a prefill at once would hold {units.n_bytes(at_once)} of activations")


def energy(part: Energy, found: list[Number], column: DeltaGenerator) -> None:
    """Joules a token of the last stretch that has a figure, decode at the longest context, and the
    other lines below it."""
    lines = [number for number in found if number.source in ("energy", "idle_power")]
    measured = [line for line in lines if line.convention and line.source == "energy"]
    if not measured:
        column.metric("Energy", "not measured", help=explained("energy"))
        column.caption(lines[-1].said)
        return
    shown = measured[-1]
    how = ""
    if shown.name != WHOLE_STRETCH:
        how = how_measured(part)
    column.metric("Energy", shown.said, help=explained("energy", how))
    column.caption(shown.name.removeprefix("energy, "))
    for line in lines:
        if line != shown:
            column.caption(f"{line.name}: {line.said}")


def traced(run: Run) -> None:
    """Both counters beside the closed form."""
    found = run.part(Trace)
    if found is None:
        return
    st.markdown(
        f"**FLOPs at {found.seq_len:,} tokens** (traced on the instantiated model)",
        help=explained("traced_flops"),
    )
    rows = {}
    for what, counts in (("forward", found.forward), ("decode", found.decode)):
        rows[what] = {
            "fvcore": units.flops(counts.fvcore),
            "FlopCounterMode": units.flops(counts.torch),
            "exact": units.flops(counts.exact),
        }
    st.dataframe(pd.DataFrame(rows).T)
    if found.forward.agree and found.decode.agree:
        st.caption("traced and exact agree to the last FLOP")
    else:
        st.caption("traced and exact DISAGREE: please report this design")


def layer_table(run: Run) -> None:
    """Parameters, FLOPs and cache per layer."""
    st.markdown("**Per layer** (exact, 8,192 tokens)")
    workload = ProfileOptions.make(**run.options).workload(8192)
    rows = [layer.model_dump() for layer in layers(run.spec, workload.of(run.spec))]
    frame = pd.DataFrame(rows)
    frame["cache_bytes"] /= 2**20
    frame["flops"] /= 1e9
    frame["params"] /= 1e6
    number = st.column_config.NumberColumn
    columns = {
        "params": number("parameters (M)", format="%.1f", help=explained("layer_parameters")),
        "flops": number("GFLOPs", format="%.0f", help=explained("layer_flops")),
        "cache_bytes": number("cache (MiB)", format="%.2f", help=explained("layer_cache")),
    }
    st.dataframe(frame, hide_index=True, height=260, column_config=columns)


st.title("Profile")
start()
jobs.queue()
jobs.show(
    "profile",
    result,
    "No profile yet. Start one above: a 1B design takes one to three minutes on two CPU cores.",
)
