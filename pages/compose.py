"""Compose: the design, its costs beside a reference, and where they come from."""

import streamlit as st

from hybrid_core import baselines, hardware, presets, quality
from hybrid_core.advice import SCENARIOS, advise, scenario
from hybrid_core.costs.memory import refusal
from hybrid_core.costs.model import fit_depth, model_costs
from hybrid_core.costs.summary import summary
from hybrid_core.profiling.options import ProfileOptions
from hybrid_core.report import figures, units
from hybrid_core.retrieval.options import NiahOptions
from hybrid_core.runs import submit
from hybrid_core.spec import ArchSpec, LayersSection, SpecError
from hybrid_core.workload import DTYPE_BYTES, Workload
from pages.parts import design, form, layout

SAME_SIZE = "Llama of the same size"


def workload_controls() -> tuple[Workload, hardware.Hardware]:
    """Context, batch, dtypes and device."""
    st.subheader("Workload and hardware")
    context = st.select_slider("Context (tokens)", [2**k for k in range(10, 21)], value=8192, format_func=units.length, key="work.context")
    batch = st.number_input("Batch size", min_value=1, max_value=65536, value=1, key="work.batch")
    left, right = st.columns(2)
    weights = left.selectbox("Weights", ["bf16", "fp16", "fp32"], key="work.weights")
    cache = right.selectbox("KV cache", list(DTYPE_BYTES), index=1, key="work.cache")
    state = left.selectbox("Scan state", ["fp32", "bf16", "fp16"], key="work.state")
    known = hardware.devices()
    device = st.selectbox(
        "Accelerator",
        list(known),
        index=list(known).index("h100_sxm"),
        format_func=lambda key: known[key].name,
        key="work.hardware",
    )
    return Workload(batch_size=batch, context_len=context, weight_dtype=weights, kv_cache_dtype=cache, state_dtype=state), known[device]


def reference(spec: ArchSpec) -> ArchSpec:
    """The design that the differences are taken against."""
    chosen = st.selectbox("Differences against", [SAME_SIZE, *presets.ordered()], key="work.reference")
    if chosen != SAME_SIZE:
        return presets.get(chosen).spec
    if spec.attention is None:
        return presets.get("llama-1b").spec
    llama = spec.replace(name=SAME_SIZE, layers=LayersSection(strategy="transformer"))
    return fit_depth(llama, model_costs(spec).params().non_embedding)


def metrics(now: dict, before: dict, device: hardware.Hardware) -> None:
    """The key numbers, each with its convention and its difference to the reference."""
    batch = now["workload"]["batch_size"]
    shown = [
        ("Parameters without embedding", ("params", "non_embedding"), units.count, "exact: every parameter of the layers and norms", "off"),
        ("Parameters in all", ("params", "total"), units.count, "exact: embedding included", "off"),
        (
            "Training FLOPs per token",
            ("train_flops", "paper", "per_token"),
            units.flops,
            "paper: 6 N + mixer terms (Table 1, Appendix C); without the vocabulary head",
            "inverse",
        ),
        (
            "Decode FLOPs per token",
            ("decode_flops_per_token",),
            units.flops,
            "exact: every matrix product and scan, the head included",
            "inverse",
        ),
        (
            "Cache per sequence",
            ("cache_bytes", "exact"),
            units.n_bytes,
            f"exact: real shapes and dtypes. paper: {units.n_bytes(now['cache_bytes']['paper'])} (bf16)",
            "inverse",
        ),
        (
            f"Memory, batch {batch}",
            ("memory_bytes", "total"),
            units.n_bytes,
            "exact: weights, cache, and the tensors alive at the widest moment of the prefill through torch's eager operations",
            "inverse",
        ),
        ("Prefill speed", ("predicted", "prefill_tokens_per_s"), units.rate, f"predicted: {device.basis}", "normal"),
        ("Decode speed", ("predicted", "decode_tokens_per_s"), units.rate, f"predicted: {device.basis}", "normal"),
    ]
    for cell, (label, path, unit, convention, colour) in zip(layout.cells(len(shown), layout.CARD), shown, strict=True):
        value, base = _at(now, path), _at(before, path)
        change = f"{100 * (value / base - 1):+.1f} %" if base else None
        cell.metric(label, unit(value), change, delta_color=colour, help=convention)
        cell.caption(convention.split(":")[0].split(" weights")[0])


def _at(record: dict, path: tuple[str, ...]) -> float:
    for key in path:
        record = record[key]
    return float(record)


def charts(spec: ArchSpec, other: ArchSpec, workload: Workload, device: hardware.Hardware) -> None:
    """Stack, FLOPs, memory, cache and decode speed."""
    pair = [figures.Named(spec.name, spec), figures.Named(other.name, other)]
    left, right = layout.cells(2, layout.CHART)
    left.plotly_chart(figures.stack(spec, workload), key="stack")
    right.plotly_chart(figures.memory_by_part(pair, workload, device), key="memory")
    right.plotly_chart(figures.flops_by_part(spec, workload), key="flops")
    left, right = layout.cells(2, layout.CHART)
    left.plotly_chart(figures.cache_by_context(pair, workload), key="cache")
    right.plotly_chart(figures.decode_by_context(pair, workload, device), key="decode")


def findings(spec: ArchSpec, context_len: int) -> None:
    """The loss that the paper's rows suggest, its advice for this context, and the rows closest to the design."""
    st.subheader("What the paper says")
    found = quality.record(spec)
    if estimate := found["estimate"]:
        interval = f"{estimate['low']:.3f} to {estimate['high']:.3f} in {estimate['coverage']:.0%} of cases"
        st.markdown(f"NLL on DCLM **{estimate['nll']:.3f}** nats per token at 60B tokens ({interval}): estimated from {estimate['basis']}.")
    else:
        st.markdown(f"No estimate of the loss, outside the paper's range: {design.plain(found['outside_the_papers_range'])}.")
    given = scenario(context_len)
    use = st.segmented_control(
        "Advice for a context",
        list(SCENARIOS),
        default=given,
        format_func=SCENARIOS.__getitem__,
        key=f"scenario-{given}",
        help="What comes first depends on it. It follows the context length above until another is picked.",
    )
    for advice in advise(spec, context_len, use=use):
        st.markdown(f"- **{advice.rule.control}** ({advice.rule.kind}): {design.plain(advice.rule.text)} *{advice.rule.sources}*")
    st.markdown("**Nearest rows**")
    rows = baselines.nearest(spec)
    st.dataframe(
        rows[["model", "scale", *baselines.COUNTS, "nll_dclm", "nll_pg19", "avg", "cache_mib", "distance", "table"]],
        hide_index=True,
        column_config={
            "n_attn": "attention",
            "n_swa": "window",
            "n_ssm": "Mamba",
            "n_hyb": "intra",
            "nll_dclm": st.column_config.NumberColumn("NLL DCLM (nats)", format="%.3f"),
            "nll_pg19": st.column_config.NumberColumn("NLL PG19 (nats)", format="%.3f"),
            "avg": st.column_config.NumberColumn("accuracy (%)", format="%.1f", help="mean of five few-shot tasks"),
            "cache_mib": "cache at 8K (MiB)",
            "distance": st.column_config.NumberColumn("layers that differ", format="percent"),
        },
    )
    st.caption(f"quoted: {baselines.CITATION}, Tables 9 and 10, 60B tokens")


def buttons(spec: ArchSpec) -> None:
    """Profile, retrieval and YAML; the link is the page's own address."""
    row = st.container(horizontal=True)
    if row.button("Profile this design", type="primary", icon=":material/speed:"):
        st.session_state["profile.run"] = submit(spec, ProfileOptions())
        st.switch_page("pages/profile.py")
    if row.button("Test retrieval", icon=":material/search:", help="Trains a small proxy for about five minutes and asks it for needles"):
        st.session_state["niah.run"] = submit(spec, NiahOptions())
        st.switch_page("pages/retrieval.py")
    row.download_button("Download YAML", spec.to_yaml(), "design.yaml", "application/yaml", icon=":material/download:")


spec = design.current()
if "form.name" not in st.session_state:
    form.load(spec)
with st.sidebar:
    form.draw()
    workload, device = workload_controls()
    problem = st.session_state.pop("form.problem", None)
try:
    spec = form.draft()
    design.keep(spec)
except SpecError as error:
    problem = problem or str(error)

st.title(design.plain(spec.name))
if problem:
    st.error(f"{design.plain(problem)}  \nThe last valid design is shown.")
buttons(spec)
with st.container(horizontal=True, vertical_alignment="bottom"):
    other = reference(spec)
metrics(summary(spec, workload, device), summary(other, workload, device), device)
if too_big := refusal(spec, workload, device.memory_bytes):
    st.warning(f"Does not fit {device.name}: {too_big}.")
charts(spec, other, workload, device)
findings(spec, workload.context_len)
with st.expander("YAML"):
    st.code(spec.to_yaml(), language="yaml")
