"""Reports on runs, or on designs that were not measured: one HTML file that opens offline."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from hybrid_core import __version__
from hybrid_core.costs.model import same_size_llama
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines
from hybrid_core.evidence.advice.advise import advise
from hybrid_core.interop import link
from hybrid_core.options import command_line
from hybrid_core.report import numbers, sentences, units
from hybrid_core.report.cards import Card, design_cards, run_cards
from hybrid_core.report.charts import PLOTLY, Chart, chart, charts
from hybrid_core.report.compare import (
    design_facts,
    design_sources,
    differences,
    named,
    parted,
    sources_of_rows,
)
from hybrid_core.report.figures import style
from hybrid_core.report.figures.designs import (
    beside_each_other,
    cache_by_context,
    longest_context,
    memory_by_part,
)
from hybrid_core.report.figures.measured import generation_chart, live_cache_chart
from hybrid_core.report.figures.retrieval import retrieval_charts
from hybrid_core.report.figures.stack import stack_chart
from hybrid_core.report.references import References
from hybrid_core.report.retrieval import not_whole, reading
from hybrid_core.report.text.runs import kept_in, slow_dtype
from hybrid_core.results.environment import Environment
from hybrid_core.results.profile import Ceilings, Energy, Generation
from hybrid_core.results.retrieval import Proxy
from hybrid_core.runs.kinds import KINDS
from hybrid_core.runs.store import Run
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import cost
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
# A reference device for the closed forms of the report, in addition to the measured device.
REFERENCE = "h100_sxm"
TITLES = {
    "profile": "Profile",
    "niah": "Retrieval",
    "probes": "Recall and state",
    "checkpoint": "Retrieval",
}
# What the text on a retrieval run mentions: entries of profiles/numbers.yaml, by the run's kind.
READING_SOURCES = {
    "niah": ("needles_recalled", "tokens_to_learn"),
    "probes": ("associative_recall", "selective_copying"),
}
HOME = "http://localhost:8501"  # where `make app` serves the explorer


def report(runs: Sequence[Run], home: str = HOME) -> str:
    """A page on one run, or on several side by side. Everything that came from a user is escaped.
    The file contains plotly's script. Its links lead to `home`."""
    workload = Workload()
    reference = hardware.get(REFERENCE)
    title = f"{len(runs)} designs compared"
    if len(runs) == 1:
        title = f"{TITLES[runs[0].kind]} of {runs[0].name}"
    found = [number for run in runs for number in numbers.numbers(run)]
    return _TEMPLATES.get_template("report.html.jinja").render(
        title=title,
        one_run=len(runs) == 1,
        shown=[_shown(run, workload, reference, home) for run in runs],
        table=differences(runs),
        row_sources=sources_of_rows(found),
        charts=charts(_figures(runs, workload, reference)),
        reference=reference,
        workload=workload,
        **_frame(),
    )


class Nearest(NamedTuple):
    """The paper's rows nearest to a design, and how its layers differ from theirs."""

    rows: list[dict[Any, Any]]
    unlike: str


class Shown(NamedTuple):
    """What the report says about one run. The template phrases the parts that are not text here."""

    run: Run
    short: list[sentences.Sentence]
    cards: list[Card]
    environment: Environment | None
    kept: str
    energy: str
    slow: str | None
    reading: sentences.Sentence | None
    proxy: Proxy | None
    not_whole: list[str]
    stack: Chart
    generation: Generation | None
    ceilings: Ceilings | None
    nearest: Nearest
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
        energy = numbers.how_measured(metered)
    return Shown(
        run=run,
        short=sentences.of_run(run, costs),
        cards=[*design_cards(costs), *run_cards(run)],
        environment=run.part(Environment),
        kept=kept_in(run),
        energy=energy,
        slow=slow_dtype(run),
        reading=_reading(run),
        proxy=run.part(Proxy),
        not_whole=not_whole(run),
        stack=chart(stack_chart(run.spec, workload), f"stack-{run.id}"),
        generation=run.part(Generation),
        ceilings=run.part(Ceilings),
        nearest=_nearest(run.spec),
        command=command(run),
        link=link.address(link.View(design=run.spec), home),
    )


def _reading(run: Run) -> sentences.Sentence | None:
    """How to read a retrieval run."""
    text = reading(run)
    if text is None:
        return None
    return sentences.Sentence(text, READING_SOURCES.get(run.kind, ()))


def _nearest(spec: ArchSpec) -> Nearest:
    rows = baselines.nearest(spec, 3).to_dict("records")
    return Nearest(rows, baselines.unlike_the_papers(spec))


def _figures(
    runs: Sequence[Run], workload: Workload, reference: hardware.Hardware
) -> list[style.Figure]:
    """What was measured, then the closed forms of all designs."""
    designs = [style.Named(style.label(run), run.spec) for run in runs]
    measured = [run for run in runs if Generation.part in run.parts]
    of_profiles = []
    if measured:
        of_profiles += [generation_chart(measured), live_cache_chart(measured)]
    return [
        *of_profiles,
        *retrieval_charts(runs),
        cache_by_context(designs, workload),
        memory_by_part(designs, workload, reference),
    ]


# ---------------------------------------------------------------- designs


def design_report(view: link.View, home: str = HOME) -> str:
    """A page on what a view's design costs, next to the designs it is compared with or else its
    reference. Nothing is measured."""
    workload = view.workload
    device = hardware.get(view.hardware)
    own = named([view.design, *view.others])
    title = view.design.name
    page = ""
    shown = own
    if view.others:
        title = f"{len(own)} designs compared"
        page = "compare"
    else:
        reference = view.reference or same_size_llama(view.design)
        shown = named([view.design, reference])
    names = [design.label for design in shown]
    columns = [design_facts(design.spec, workload, device) for design in shown]
    differ, alike = parted(names, columns)
    figures = [
        *beside_each_other(shown, workload, device).values(),
        longest_context(shown, workload),
    ]
    return _TEMPLATES.get_template("design.html.jinja").render(
        title=title,
        row_sources=design_sources(view.design, workload, device),
        designs=[_design(design, index, workload, device) for index, design in enumerate(own)],
        address=link.address(view, home, page),
        use=_use(workload, device),
        differ=differ,
        alike=alike,
        charts=charts(figures),
        **_frame(),
    )


def _design(
    design: style.Named,
    index: int,
    workload: Workload,
    device: hardware.Hardware,
) -> dict[str, Any]:
    """What the template says about one design."""
    spec = design.spec
    costs = cost(spec, workload, device)
    return {
        "name": design.label,
        "yaml": spec.to_yaml(),
        "short": sentences.of_design(spec, workload, device, costs),
        "stack": chart(stack_chart(spec, workload), f"stack-{index}"),
        "advice": advise(spec, workload.context_len),
        "nearest": _nearest(spec),
    }


def _use(workload: Workload, device: hardware.Hardware) -> str:
    """The workload of a report, in a sentence."""
    weights = workload.weight_dtype or "as stored"
    state = workload.state_dtype or "as in the design"
    asked = f"{units.length(workload.context_len)} tokens, batch {workload.batch_size}"
    kept = f"weights {weights}, cache {workload.kv_cache_dtype}, scan state {state}"
    return f"{asked}, {kept}, on {device.name}. Nothing was measured."


def _frame() -> dict[str, Any]:
    """The variables that the frame of every report needs."""
    made = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {
        "plotly": PLOTLY.read_text("utf-8"),
        "made": made,
        "version": __version__,
        "citation": baselines.CITATION,
        "references": References(),
    }


def command(run: Run) -> str:
    """The command that repeats a run, given the design's YAML as design.yaml."""
    verb = f"{run.kind} design.yaml"
    if run.kind == "checkpoint":
        verb = "niah"
    return f"python -m hybrid_core {verb} {command_line(KINDS[run.kind].options, run.options)}"
