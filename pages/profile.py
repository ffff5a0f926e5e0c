"""Profile: build the design, measure it, and show what was measured next to what was predicted."""

from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.report import units
from hybrid_core.report.figures.measured import generation_chart, live_cache_chart
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
    Counts,
    Decode,
    Energy,
    Generation,
    LiveCache,
    PeakMemory,
    Prefill,
    Trace,
)
from hybrid_core.runs.store import Run
from hybrid_core.speed.cost import layers
from pages.parts import asked, chart, design, jobs, layout, work

LAYER_CONTEXT = 8192  # context of the table of layers, in tokens


# ---------------------------------------------------------------- start


def _start() -> None:
    """The design on screen, what to measure, and the button."""
    spec = design.current()
    st.markdown(
        f"**{design.plain(spec.name)}** `{spec.pattern}` is built in its own process and "
        "measured. Change it on the Compose page."
    )
    options = _options()
    if st.button("Start profile", type="primary", icon=":material/play_arrow:"):
        jobs.start(lambda: (spec, ProfileOptions.make(**options)))
    work.warn_of_calibrations()


def _options() -> dict[str, Any]:
    """What to measure."""
    device, budget, dtype, batch, prompt, decode = layout.cells(6, 180)
    return {
        "device": jobs.device_choice(device, "profile.device"),
        "budget_s": asked.number(budget, "Time budget (s)", ProfileOptions, "budget_s", step=30),
        "dtype": asked.choice(dtype, "Weights", ProfileOptions, "dtype"),
        "batch_size": asked.number(batch, "Batch size", ProfileOptions, "batch_size"),
        "prompt_len": asked.number(
            prompt, "Prompt (tokens)", ProfileOptions, "prompt_len", step=128
        ),
        "decode": asked.choice(
            decode, "Decode steps", ProfileOptions, "decode", written=str.capitalize
        ),
    }


# ---------------------------------------------------------------- result


def _result(run: Run) -> None:
    """Everything that is known about one run."""
    jobs.headline(run)
    _dtypes(run)
    _headline_numbers(run)
    _generation(run)
    left, right = layout.cells(2, layout.CHART + 80)
    if run.part(LiveCache):
        with left:
            chart.show(live_cache_chart([run]), f"cache-{run.id}")
    with right:
        _traced(run)
        _layers(run)


def _dtypes(run: Run) -> None:
    """The number formats of the run, and a warning if the device is slow in them."""
    slow = slow_dtype(run)
    if slow:
        st.warning(f"{slow}.")
    dtypes = kept_in(run)
    if dtypes:
        st.caption(dtypes[0].upper() + dtypes[1:])


def _headline_numbers(run: Run) -> None:
    """Prefill, decode, peak memory, energy."""
    found = numbers(run)
    prefill_place, decode_place, memory_place, energy_place = layout.cells(4, layout.CARD + 30)
    prefill = run.part(Prefill)
    if prefill:
        _prefill(prefill, found, prefill_place)
    decode = run.part(Decode)
    if decode:
        _decode(decode, found, decode_place)
    memory = run.part(PeakMemory)
    if memory:
        _peak_memory(memory, found, memory_place)
    metered = run.part(Energy)
    if metered:
        _energy(metered, found, energy_place)


def _prefill(part: Prefill, found: list[Number], place: DeltaGenerator) -> None:
    speeds = of_name(found, "prefill")
    measured = speeds["measured"]
    how = f"{measured.at}, median of {part.repeats}"
    place.metric("Prefill", measured.said, help=explained("prefill", how))
    place.caption(f"measured{in_chunks(part)}; {_of_the_prediction(speeds)}")


def _decode(part: Decode, found: list[Number], place: DeltaGenerator) -> None:
    """The speed of a step at the shortest context that was measured."""
    first = part.rows[0]
    speeds = of_name(found, f"decode at {first.context_len:,} tokens")
    measured = speeds["measured"]
    how = f"{measured.at}, median of {first.repeats} steps"
    name = f"Decode at {units.length(first.context_len)}"
    place.metric(name, measured.said, help=explained("decode", how))
    place.caption(f"measured; {_of_the_prediction(speeds)}")


def _of_the_prediction(speeds: dict[str, Number]) -> str:
    """A measured speed as a share of the predicted one."""
    measured = float(speeds["measured"].value or 0)
    predicted = float(speeds["predicted"].value or 0)
    return f"{measured / predicted:.0%} of the prediction"


def _peak_memory(
    memory: PeakMemory,
    found: list[Number],
    place: DeltaGenerator,
) -> None:
    """The peak, and what the closed forms give for it."""
    peak = of_name(found, "peak memory")["measured"]
    exact = of_name(found, "weights, cache, activations")["exact"]
    place.metric("Peak memory", peak.said, help=explained("peak_memory", peak.at))
    place.caption(f"measured; {exact.said} by the closed forms")
    at_once = memory.one_shot_activations or 0
    if at_once > memory.predicted_bytes.activations:
        place.caption(f"a prefill in one pass would hold {units.n_bytes(at_once)} of activations")


def _energy(part: Energy, found: list[Number], place: DeltaGenerator) -> None:
    """Joules per token of the last line that has a figure, which is decode at the longest context.
    The other lines are below it."""
    lines = [number for number in found if number.source in ("energy", "idle_power")]
    measured = [line for line in lines if line.convention and line.source == "energy"]
    if not measured:
        place.metric("Energy", "not measured", help=explained("energy"))
        place.caption(lines[-1].said)
        return
    shown = measured[-1]
    how = ""
    if shown.name != WHOLE_STRETCH:
        how = how_measured(part)
    place.metric("Energy", shown.said, help=explained("energy", how))
    place.caption(shown.name.removeprefix("energy, "))
    for line in lines:
        if line != shown:
            place.caption(f"{line.name}: {line.said}")


def _generation(run: Run) -> None:
    """Generation speed against total length, and which lengths were not measured."""
    found = run.part(Generation)
    if found is None:
        return
    chart.show(generation_chart([run]), f"generation-{run.id}")
    for row in found.not_measured:
        st.warning(f"{row.total_len:,} tokens not measured: {row.why}")


def _traced(run: Run) -> None:
    """The FLOPs that two counters traced, next to the closed form."""
    found = run.part(Trace)
    if found is None:
        return
    st.markdown(
        f"**FLOPs at {found.seq_len:,} tokens** (traced on the instantiated model)",
        help=explained("traced_flops"),
    )
    rows = {"forward": _counts(found.forward), "decode": _counts(found.decode)}
    st.dataframe(pd.DataFrame(rows).T)
    if found.forward.agree and found.decode.agree:
        st.caption("traced and exact agree to the last FLOP")
    else:
        st.caption("traced and exact DISAGREE: please report this design")


def _counts(found: Counts) -> dict[str, str]:
    return {
        "fvcore": units.flops(found.fvcore),
        "FlopCounterMode": units.flops(found.torch),
        "exact": units.flops(found.exact),
    }


def _layers(run: Run) -> None:
    """Parameters, FLOPs and cache of each layer."""
    st.markdown(f"**Per layer** (exact, {LAYER_CONTEXT:,} tokens)")
    workload = ProfileOptions.make(**run.options).workload(LAYER_CONTEXT)
    rows = [layer.model_dump() for layer in layers(run.spec, workload.of(run.spec))]
    frame = pd.DataFrame(rows)
    frame["cache_bytes"] /= 2**20
    frame["flops"] /= 1e9
    frame["params"] /= 1e6
    columns = {
        "params": _column("parameters (M)", "%.1f", "layer_parameters"),
        "flops": _column("GFLOPs", "%.0f", "layer_flops"),
        "cache_bytes": _column("cache (MiB)", "%.2f", "layer_cache"),
    }
    st.dataframe(frame, hide_index=True, height=260, column_config=columns)


def _column(title: str, format: str, source: str) -> Any:
    """A column of numbers, whose "?" says where they come from."""
    return st.column_config.NumberColumn(title, format=format, help=explained(source))


st.title("Profile")
_start()
jobs.queue()
jobs.show(
    "profile",
    _result,
    "No profile yet. Start one above: a 1B design takes one to three minutes on two CPU cores.",
)
