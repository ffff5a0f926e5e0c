"""Reports: one HTML file that opens offline, of runs or of designs that were not measured."""

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from plotly.io import to_html

from hybrid_core import __version__
from hybrid_core.costs.model import model_costs, same_size_llama
from hybrid_core.data import WEB
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines
from hybrid_core.evidence.advice.advise import advise
from hybrid_core.evidence.quality.estimator import Estimate, estimate
from hybrid_core.evidence.quality.quoted import quoted
from hybrid_core.evidence.throughput import generated
from hybrid_core.interop import link
from hybrid_core.options import command_line
from hybrid_core.report import units
from hybrid_core.report.compare import design_facts, differences, named, parted
from hybrid_core.report.figures import style, words
from hybrid_core.report.figures.designs import (
    beside_each_other,
    cache_by_context,
    longest_context,
    memory_by_part,
)
from hybrid_core.report.figures.measured import generation_chart, live_cache_chart
from hybrid_core.report.figures.retrieval import retrieval_charts
from hybrid_core.report.figures.stack import stack_chart
from hybrid_core.report.numbers import Number, how_measured, in_chunks, numbers, of_name
from hybrid_core.report.retrieval import not_whole, reading
from hybrid_core.report.text.runs import kept_in, slow_dtype
from hybrid_core.results.environment import Environment
from hybrid_core.results.profile import Ceilings, Decode, Energy, Generation, PeakMemory, Prefill
from hybrid_core.results.retrieval import Proxy
from hybrid_core.runs.kinds import KINDS
from hybrid_core.runs.store import Run
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import Cost, FitVerdict, cost
from hybrid_core.workload import Workload

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "n_bytes": units.n_bytes,
    "flops": units.flops,
    "rate": units.rate,
    "length": units.length,
}
# A reference device for the closed forms of the report, beside the device that was measured.
REFERENCE = "h100_sxm"
TITLES = {
    "profile": "Profile",
    "niah": "Retrieval",
    "probes": "Recall and state",
    "checkpoint": "Retrieval",
}


# The part of plotly that the charts need, a third of the whole; pages load the same file.
PLOTLY = WEB / "static" / "plotly-cartesian-4.1.1.min.js"
HOME = "http://localhost:8501"  # where `make app` serves the explorer


def report(runs: Sequence[Run], home: str = HOME) -> str:
    """The file's text. Everything that came from a user is escaped; plotly's script stands inside
    the file; links lead to `home`."""
    workload = Workload()
    reference = hardware.get(REFERENCE)
    title = f"{len(runs)} designs compared"
    if len(runs) == 1:
        title = f"{TITLES[runs[0].kind]} of {runs[0].name}"
    return _TEMPLATES.get_template("report.html.jinja").render(
        title=title,
        one_run=len(runs) == 1,
        shown=[_shown(run, workload, reference, home) for run in runs],
        table=differences(runs),
        charts=_drawn(_charts(runs, workload, reference)),
        reference=reference,
        workload=workload,
        **_frame(),
    )


class Shown(NamedTuple):
    """What the report says of one run. `parts`: those that it words itself; `cards`: its numbers at
    a glance."""

    run: Run
    short: list[str]
    cards: list["Card"]
    environment: Environment | None
    kept: str
    energy: str
    slow: str | None
    reading: str | None
    proxy: Proxy | None
    not_whole: list[str]
    stack: "Chart"
    generation: Generation | None
    ceilings: Ceilings | None
    nearest: list[dict[Any, Any]]
    command: str
    link: str


def _shown(
    run: Run,
    workload: Workload,
    reference: hardware.Hardware,
    home: str,
) -> Shown:
    costs = cost(run.spec, workload, reference)
    metered = run.part(Energy)
    energy = ""
    if metered and metered.meter:
        energy = how_measured(metered)
    return Shown(
        run=run,
        short=in_short(run, costs),
        cards=[*_design_cards(costs), *_run_cards(run)],
        environment=run.part(Environment),
        kept=kept_in(run),
        energy=energy,
        slow=slow_dtype(run),
        reading=reading(run),
        proxy=run.part(Proxy),
        not_whole=not_whole(run),
        stack=_chart(stack_chart(run.spec, workload), f"stack-{run.id}"),
        generation=run.part(Generation),
        ceilings=run.part(Ceilings),
        nearest=_nearest(run.spec),
        command=command(run),
        link=link.address(link.View(design=run.spec), home),
    )


def _nearest(spec: ArchSpec) -> list[dict[Any, Any]]:
    rows: list[dict[Any, Any]] = baselines.nearest(spec, 3).to_dict("records")
    return rows


def _charts(
    runs: Sequence[Run], workload: Workload, reference: hardware.Hardware
) -> list[style.Figure]:
    """What was measured, then the closed forms of all designs."""
    designs = [style.Named(style.label(run), run.spec) for run in runs]
    measured = [run for run in runs if Generation.part in run.parts]
    charts = []
    if measured:
        charts += [generation_chart(measured), live_cache_chart(measured)]
    return [
        *charts,
        *retrieval_charts(runs),
        cache_by_context(designs, workload),
        memory_by_part(designs, workload, reference),
    ]


# ---------------------------------------------------------------- cards


class Card(NamedTuple):
    """A number at a glance: what it is, the value, and its convention with what stands beside
    it."""

    name: str
    value: str
    convention: str


def _design_cards(costs: Cost) -> list[Card]:
    """What the closed forms say of a design."""
    params = costs.params
    train = costs.train_flops
    cache = costs.cache_bytes
    return [
        Card(
            "parameters, without embedding",
            units.count(params.non_embedding),
            f"exact; {units.count(params.total)} in all",
        ),
        Card(
            "training FLOPs per token, 8K",
            units.flops(train.paper.per_token),
            f"paper; exact, head included: {units.flops(train.exact.per_token)}",
        ),
        Card(
            "cache per sequence, 8K",
            units.n_bytes(cache.exact),
            f"exact; paper, bf16: {units.n_bytes(cache.paper)}",
        ),
    ]


def _run_cards(run: Run) -> Iterator[Card]:
    """What was measured."""
    found = numbers(run)
    prefill = run.part(Prefill)
    if prefill:
        beside = f"{prefill.repeats} repeats"
        if prefill.shortened:
            beside += ", shortened for the budget"
        size = f"{prefill.batch_size} x {prefill.prompt_len}"
        name = f"prefill, batch {size}{in_chunks(prefill)}"
        yield _speed_card(name, of_name(found, "prefill"), beside)
    decode = run.part(Decode)
    if decode:
        first = decode.rows[0]
        slowest = units.seconds(first.max_s)
        beside = f"{first.repeats} steps, {units.seconds(first.min_s)} to {slowest} a step"
        name = f"decode at {units.length(first.context_len)}, batch {decode.batch_size}"
        speeds = of_name(found, f"decode at {first.context_len:,} tokens")
        yield _speed_card(name, speeds, beside)
    memory = run.part(PeakMemory)
    if memory:
        peak = of_name(found, "peak memory")["measured"]
        yield Card("peak memory", peak.said, _memory_beside(memory))
    for number in found:
        if number.source in ("energy", "idle_power"):
            yield Card(number.name, number.said, number.convention)


def _speed_card(name: str, speeds: dict[str, Number], beside: str) -> Card:
    predicted = speeds["predicted"].said
    return Card(name, speeds["measured"].said, f"measured, {beside}; predicted {predicted}")


def _memory_beside(found: PeakMemory) -> str:
    """Which memory was watched, and the closed forms beside it."""
    predicted = found.predicted_bytes
    said = f"measured, {found.what}; {units.n_bytes(predicted.total)} by the closed forms"
    at_once = found.one_shot_activations
    if at_once is None:
        return said
    said += f", {units.n_bytes(predicted.activations)} of it activations of the prefill"
    if at_once != predicted.activations:
        said += f" ({units.n_bytes(at_once)} if done at once)"
    return said


# ---------------------------------------------------------------- designs


def design_report(view: link.View, home: str = HOME) -> str:
    """The same for a view's design beside those that it is compared with, else beside its
    reference: what they cost, nothing measured."""
    workload = view.workload
    device = hardware.get(view.hardware)
    own = named([view.design, *view.others])
    title = view.design.name
    page = ""
    beside = own
    if view.others:
        title = f"{len(own)} designs compared"
        page = "compare"
    else:
        reference = view.reference or same_size_llama(view.design)
        beside = named([view.design, reference])
    names = [design.label for design in beside]
    columns = [design_facts(design.spec, workload, device) for design in beside]
    differ, alike = parted(names, columns)
    charts = [
        *beside_each_other(beside, workload, device).values(),
        longest_context(beside, workload),
    ]
    return _TEMPLATES.get_template("design.html.jinja").render(
        title=title,
        designs=[_design(design, index, workload, device) for index, design in enumerate(own)],
        address=link.address(view, home, page),
        use=_use(workload, device),
        differ=differ,
        alike=alike,
        charts=_drawn(charts),
        **_frame(),
    )


def _design(
    design: style.Named, index: int, workload: Workload, device: hardware.Hardware
) -> dict[str, Any]:
    """What the template says of one design."""
    spec = design.spec
    return {
        "name": design.label,
        "yaml": spec.to_yaml(),
        "short": _in_short(spec, workload, device),
        "stack": _chart(stack_chart(spec, workload), f"stack-{index}"),
        "advice": advise(spec, workload.context_len),
        "nearest": _nearest(spec),
    }


def _in_short(
    spec: ArchSpec,
    workload: Workload,
    device: hardware.Hardware,
) -> list[str]:
    """What should be known of a design on a device: what it is, whether it fits, how fast it could
    be."""
    costs = cost(spec, workload, device)
    return [
        *about(spec, costs),
        _verdict(costs.fit, device.name),
        *_speed(spec, workload, device, costs),
    ]


def _verdict(verdict: FitVerdict, device: str) -> str:
    """Whether a design fits, in a sentence."""
    problem = verdict.problem
    if problem:
        return f"{problem[:1].upper()}{problem[1:]}."
    used = verdict.weights + verdict.cache + verdict.activations
    needed = f"{units.n_bytes(used)} of weights, cache and one chunk's activations"
    usable = units.n_bytes(verdict.usable)
    return f"Fits {device}: {needed}, of {usable} that an engine uses (exact)."


def _use(workload: Workload, device: hardware.Hardware) -> str:
    """The workload of a report, in a sentence."""
    weights = workload.weight_dtype or "as stored"
    state = workload.state_dtype or "as the design has it"
    asked = f"{units.length(workload.context_len)} tokens, batch {workload.batch_size}"
    kept = f"weights {weights}, cache {workload.kv_cache_dtype}, scan state {state}"
    return f"{asked}, {kept}, on {device.name}. Nothing was measured."


def _speed(
    spec: ArchSpec,
    workload: Workload,
    device: hardware.Hardware,
    costs: Cost,
) -> list[str]:
    """How fast a design could decode on a device, and how fast the paper's code did."""
    rate = units.rate(costs.predicted.decode_tokens_per_s / workload.batch_size)
    basis = f"predicted ceiling, batch {workload.batch_size}"
    said = [f"Decodes at most {rate} a sequence on {device.name} ({basis})."]
    printed = generated(spec, workload.context_len)
    if printed:
        said.append(f"The paper's own code reached {printed}.")
    return said


def _frame() -> dict[str, str]:
    """What every report is framed by."""
    made = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {
        "plotly": PLOTLY.read_text("utf-8"),
        "made": made,
        "version": __version__,
        "citation": baselines.CITATION,
    }


def in_short(run: Run, costs: Cost) -> list[str]:
    """What a colleague should know of a run after half a minute, a sentence each with its
    convention."""
    said = about(run.spec, costs)
    found = run.part(Generation)
    if found and found.rows:
        row = found.rows[-1]
        speed = f"{units.rate(row.tokens_per_s)} up to {units.length(row.total_len)} (measured)"
        share = row.tokens_per_s / row.predicted_tokens_per_s
        said.append(f"On {run.device} it generated {speed}, {share:.0%} of what was predicted.")
    return said


def about(spec: ArchSpec, costs: Cost) -> list[str]:
    """What should be known of a design: its layers, its cache beside a Llama's, its loss."""
    kinds = Counter(layer.mixer.entry.label for layer in spec.stack)
    made = " and ".join(f"{n} {kind}" for kind, n in kinds.items())
    params = units.count(costs.params.non_embedding)
    said = [f"{made} layers, {params} parameters without embedding (exact)."]
    if spec.attention:
        said.append(_cache_beside_llama(spec, costs))
    printed = quoted(spec)
    found = estimate(spec)
    if printed:
        said.append(f"NLL on DCLM as the paper trained this stack: {printed}.")
    elif isinstance(found, Estimate):
        interval = f"{found.nll:.3f}, {found.low:.3f} to {found.high:.3f}"
        said.append(f"NLL on DCLM at 60B tokens: {interval} (estimated from the paper's rows).")
    return said


def _cache_beside_llama(spec: ArchSpec, costs: Cost) -> str:
    """The cache of a sequence, and how it compares with a Llama's."""
    work = costs.workload
    context = work.context_len
    kept = Workload.make(kv_cache_dtype=work.kv_cache_dtype, state_dtype=work.state_dtype)
    base = int(model_costs(same_size_llama(spec)).cache_bytes(context, "exact", kept))
    own = costs.cache_bytes.exact
    keeps = f"At {units.length(context)} a sequence keeps {units.n_bytes(own)} of cache"
    return f"{keeps}, {100 * (own / base - 1):+.0f} % beside a Llama of the same size (exact)."


class Chart(NamedTuple):
    """What the template writes of a chart."""

    title: str
    told: str
    plot: str
    source: str


def _drawn(charts: Sequence[style.Figure]) -> list[Chart]:
    return [_chart(figure, f"chart-{index}") for index, figure in enumerate(charts)]


def _chart(figure: style.Figure, name: str) -> Chart:
    """The plot as HTML; plotly writes its data as JSON in which no tag can end the script."""
    plot = {"data": figure["data"], "layout": figure["layout"] | WHITE | _legend(figure)}
    html = to_html(
        plot, full_html=False, include_plotlyjs=False, div_id=name, config=CONFIG, validate=False
    )
    return Chart(
        style.title(figure),
        words.told(figure),
        str(html),
        style.source(figure),
    )


_AXIS = {"gridcolor": "#E4E4E4", "zerolinecolor": "#E4E4E4", "automargin": True}
WHITE = {"template": {"layout": {"xaxis": _AXIS, "yaxis": _AXIS, "font": {"color": "#1A1A1A"}}}}
CONFIG = {"displayModeBar": False, "responsive": True}
PHONE = 280  # pixels that a legend has there


def _legend(figure: style.Figure) -> dict[str, Any]:
    """Whether a legend is needed, and room above the plot for as many rows as its names need on a
    phone."""
    layout = figure["layout"]
    named = [trace for trace in figure["data"] if trace.get("name")]
    names = [trace["name"] for trace in named if trace.get("showlegend") is not False]
    if layout.get("showlegend") is False or len(names) < 2:
        return {"showlegend": False}
    per_row = max(1, PHONE // (7 * max(map(len, names)) + 44))
    rows = 20 * -(-len(names) // per_row)
    margin = layout["margin"] | {"t": layout["margin"]["t"] + rows}
    return {
        "showlegend": True,
        "margin": margin,
        "height": layout["height"] + rows,
    }


def command(run: Run) -> str:
    """The command that repeats a run, given the design's YAML as design.yaml."""
    verb = f"{run.kind} design.yaml"
    if run.kind == "checkpoint":
        verb = "niah"
    return f"python -m hybrid_core {verb} {command_line(KINDS[run.kind].options, run.options)}"
