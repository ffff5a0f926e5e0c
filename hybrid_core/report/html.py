"""Reports: one HTML file that opens offline, of runs or of designs that were not measured."""

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.io import to_html

from hybrid_core import __version__
from hybrid_core.costs.model import model_costs, same_size_llama
from hybrid_core.data import WEB
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines, quality
from hybrid_core.evidence.advice import advise
from hybrid_core.interop import link
from hybrid_core.options import command_line
from hybrid_core.report import figures, units
from hybrid_core.report.compare import design_facts, differences, named, parted
from hybrid_core.report.energy import energy_lines, how_measured
from hybrid_core.report.retrieval import not_whole, reading
from hybrid_core.report.text import in_chunks, kept_in, slow_dtype
from hybrid_core.runs.kinds import KINDS
from hybrid_core.runs.store import Run
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import Cost, FitVerdict, cost
from hybrid_core.workload import Workload

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    name: getattr(units, name)
    for name in ("count", "n_bytes", "flops", "rate", "seconds", "length")
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
    costs = {run.id: cost(run.spec, workload, hardware.get(REFERENCE)) for run in runs}
    measured = [run for run in runs if "generation" in run.parts]
    charts = [figures.generation(measured), figures.live_cache(measured)] if measured else []
    charts += figures.retrieval_charts(runs)
    designs = [figures.Named(figures.label(run), run.spec) for run in runs]
    charts += [
        figures.cache_by_context(designs, workload),
        figures.memory_by_part(designs, workload, hardware.get(REFERENCE)),
    ]
    return _TEMPLATES.get_template("report.html.jinja").render(
        title=f"{TITLES[runs[0].kind]} of {runs[0].name}"
        if len(runs) == 1
        else f"{len(runs)} designs compared",
        runs=runs,
        one_run=len(runs) == 1,
        costs=costs,
        table=differences(runs),
        nearest={run.id: baselines.nearest(run.spec, 3).to_dict("records") for run in runs},
        charts=[_chart(chart, f"chart-{index}") for index, chart in enumerate(charts)],
        stacks={
            run.id: _chart(figures.stack(run.spec, workload), f"stack-{run.id}") for run in runs
        },
        readings={run.id: reading(run) for run in runs},
        not_whole={run.id: not_whole(run) for run in runs},
        slow={run.id: slow_dtype(run) for run in runs},
        energy={run.id: energy_lines(run.parts.get("energy")) for run in runs},
        how_measured=how_measured,
        in_chunks=in_chunks,
        kept={run.id: kept_in(run) for run in runs},
        commands={run.id: command(run) for run in runs},
        links={run.id: link.address(link.View(design=run.spec), home) for run in runs},
        short={run.id: in_short(run, costs[run.id]) for run in runs},
        reference=hardware.get(REFERENCE),
        workload=workload,
        **_frame(),
    )


def design_report(view: link.View, home: str = HOME) -> str:
    """The same for a view's design beside those that it is compared with, else beside its
    reference: what they cost, nothing measured."""
    workload, device = view.workload, hardware.get(view.hardware)
    own = named([view.design, *view.others])
    beside = (
        own if view.others else named([view.design, view.reference or same_size_llama(view.design)])
    )
    differ, alike = parted(
        [design.label for design in beside],
        [design_facts(design.spec, workload, device) for design in beside],
    )
    charts = [
        *figures.beside_each_other(beside, workload, device).values(),
        figures.longest_context(beside, workload),
    ]
    return _TEMPLATES.get_template("design.html.jinja").render(
        title=f"{len(own)} designs compared" if view.others else view.design.name,
        designs=[
            {
                "name": label,
                "yaml": spec.to_yaml(),
                "short": _in_short(spec, workload, device),
                "stack": _chart(figures.stack(spec, workload), f"stack-{index}"),
                "advice": advise(spec, workload.context_len),
                "nearest": baselines.nearest(spec, 3).to_dict("records"),
            }
            for index, (label, spec) in enumerate(own)
        ],
        address=link.address(view, home, "compare" if view.others else ""),
        use=_use(workload, device),
        differ=differ,
        alike=alike,
        charts=[_chart(chart, f"chart-{index}") for index, chart in enumerate(charts)],
        **_frame(),
    )


def _in_short(spec: ArchSpec, workload: Workload, device: hardware.Hardware) -> list[str]:
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
    if problem := verdict.problem:
        return f"{problem[:1].upper()}{problem[1:]}."
    used = verdict.weights + verdict.cache + verdict.activations
    usable = units.n_bytes(verdict.usable)
    return f"Fits {device}: {units.n_bytes(used)} of weights, cache and one chunk's activations, of {usable} that an engine uses (exact)."


def _use(workload: Workload, device: hardware.Hardware) -> str:
    """What the costs of a report are asked for, in a sentence."""
    weights, state = (
        workload.weight_dtype or "as stored",
        workload.state_dtype or "as the design has it",
    )
    asked = f"{units.length(workload.context_len)} tokens, batch {workload.batch_size}"
    return f"{asked}, weights {weights}, cache {workload.kv_cache_dtype}, scan state {state}, on {device.name}. Nothing was measured."


def _speed(spec: ArchSpec, workload: Workload, device: hardware.Hardware, costs: Cost) -> list[str]:
    """How fast a design could decode on a device, and how fast the paper's code did."""
    rate = units.rate(costs.predicted.decode_tokens_per_s / workload.batch_size)
    said = [
        f"Decodes at most {rate} a sequence on {device.name} (predicted ceiling, batch {workload.batch_size})."
    ]
    printed = baselines.generated(spec, workload.context_len)
    return said + ([f"The paper's own code reached {printed}."] if printed else [])


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
    if rows := run.parts.get("generation", {}).get("rows"):
        row = rows[-1]
        said.append(
            f"On {run.device} it generated {units.rate(row['tokens_per_s'])} up to {units.length(row['total_len'])} (measured), "
            f"{row['tokens_per_s'] / row['predicted_tokens_per_s']:.0%} of what was predicted."
        )
    return said


def about(spec: ArchSpec, costs: Cost) -> list[str]:
    """What should be known of a design: its layers, its cache beside a Llama's, its loss."""
    kinds = Counter(layer.mixer.entry.label for layer in spec.stack)
    made = " and ".join(f"{n} {kind}" for kind, n in kinds.items())
    said = [
        f"{made} layers, {units.count(costs.params.non_embedding)} parameters without embedding (exact)."
    ]
    if spec.attention:
        context = costs.workload.context_len
        work = costs.workload
        kept = {"kv_cache_dtype": work.kv_cache_dtype, "state_dtype": work.state_dtype}
        base = int(
            model_costs(same_size_llama(spec)).cache_bytes(context, "exact", Workload.make(**kept))
        )
        own = costs.cache_bytes.exact
        said.append(
            f"At {units.length(context)} a sequence keeps {units.n_bytes(own)} of cache, "
            f"{100 * (own / base - 1):+.0f} % beside a Llama of the same size (exact)."
        )
    if printed := quality.quoted(spec):
        said.append(f"NLL on DCLM as the paper trained this stack: {printed}.")
    elif isinstance(found := quality.estimate(spec), quality.Estimate):
        said.append(
            f"NLL on DCLM at 60B tokens: {found.nll:.3f}, {found.low:.3f} to {found.high:.3f} (estimated from the paper's rows)."
        )
    return said


class Chart(NamedTuple):
    """What the template writes of a chart."""

    title: str
    told: str
    plot: str
    source: str


def _chart(figure: figures.Figure, name: str) -> Chart:
    """The plot as HTML; plotly writes its data as JSON in which no tag can end the script."""
    plot = {"data": figure["data"], "layout": figure["layout"] | WHITE | _legend(figure)}
    html = to_html(
        plot, full_html=False, include_plotlyjs=False, div_id=name, config=CONFIG, validate=False
    )
    return Chart(figures.title(figure), figures.told(figure), str(html), figures.source(figure))


_AXIS = {"gridcolor": "#E4E4E4", "zerolinecolor": "#E4E4E4", "automargin": True}
WHITE = {"template": {"layout": {"xaxis": _AXIS, "yaxis": _AXIS, "font": {"color": "#1A1A1A"}}}}
CONFIG = {"displayModeBar": False, "responsive": True}
PHONE = 280  # pixels that a legend has there


def _legend(figure: figures.Figure) -> dict[str, Any]:
    """Whether a legend is needed, and room above the plot for as many rows as its names need on a
    phone."""
    layout = figure["layout"]
    names = [
        trace["name"]
        for trace in figure["data"]
        if trace.get("showlegend") is not False and trace.get("name")
    ]
    if layout.get("showlegend") is False or len(names) < 2:
        return {"showlegend": False}
    per_row = max(1, PHONE // (7 * max(map(len, names)) + 44))
    rows = 20 * -(-len(names) // per_row)
    margin = layout["margin"] | {"t": layout["margin"]["t"] + rows}
    return {"showlegend": True, "margin": margin, "height": layout["height"] + rows}


def command(run: Run) -> str:
    """The command that repeats a run, given the design's YAML as design.yaml."""
    verb = "niah" if run.kind == "checkpoint" else f"{run.kind} design.yaml"
    return f"python -m hybrid_core {verb} {command_line(KINDS[run.kind].options, run.options)}"
