"""Charts of profiles: what was measured, next to what was predicted."""

from collections.abc import Sequence
from html import escape

from hybrid_core.evidence import baselines
from hybrid_core.report.figures import style
from hybrid_core.results.profile import CacheRow, Ceilings, Generation, GenerationRow, LiveCache
from hybrid_core.runs.store import Run


def generation_chart(runs: Sequence[Run]) -> style.Figure:
    """Tokens/s of the paper's protocol against total length: measured, predicted, and as the paper
    prints it."""
    figure = style.blank(
        "Generation speed against total length",
        f"measured: {_protocols(runs)}. predicted: {_basis(runs)}. "
        f"quoted: {baselines.cite('table13_throughput')}, one H200",
        "total length (tokens)",
        "tokens/s",
        height=365,
        shows=["generation"],
    )
    colours = style.cycle(len(runs))
    for run, colour in zip(runs, colours, strict=True):
        found = run.part(Generation)
        rows: tuple[GenerationRow, ...] = ()
        if found:
            rows = found.rows
        _add_speeds(figure, rows, escape(style.label(run)), colour)
    style.log_axis(figure, "y")
    style.length_axis(figure)
    return figure


def _add_speeds(
    figure: style.Figure,
    rows: Sequence[GenerationRow],
    name: str,
    colour: str,
) -> None:
    """The lines of one run."""
    lengths = [row.total_len for row in rows]
    style.add(
        figure,
        "scatter",
        x=lengths,
        y=[row.tokens_per_s for row in rows],
        name=f"{name}, measured",
        line={"color": colour, "width": 2.5},
        mode="lines+markers",
    )
    style.add(
        figure,
        "scatter",
        x=lengths,
        y=[row.predicted_tokens_per_s for row in rows],
        name=f"{name}, predicted",
        mode="lines",
        line={"color": colour, "dash": "dot"},
    )
    quoted = [row.paper_tokens_per_s for row in rows]
    if any(quoted):
        style.add(
            figure,
            "scatter",
            x=lengths,
            y=quoted,
            name=f"{name}, paper",
            line={"color": colour, "dash": "dash"},
            mode="lines+markers",
            marker={"symbol": "x"},
        )


def live_cache_chart(runs: Sequence[Run]) -> style.Figure:
    """Bytes of the live cache against context: measured, exact and the paper's formula."""
    figure = style.blank(
        "Live cache of one sequence against context",
        "measured: bytes of the cache's tensors; paper: formula of Appendix C, bf16",
        "context length (tokens)",
        "cache (MiB)",
        shows=["live_cache"],
    )
    colours = style.cycle(len(runs))
    for run, colour in zip(runs, colours, strict=True):
        found = run.part(LiveCache)
        rows: tuple[CacheRow, ...] = ()
        if found:
            rows = found.rows
        _add_caches(figure, rows, escape(style.label(run)), colour)
    style.log_axis(figure, "y")
    style.length_axis(figure)
    return figure


def _add_caches(
    figure: style.Figure,
    rows: Sequence[CacheRow],
    name: str,
    colour: str,
) -> None:
    """The two lines of one run."""
    contexts = [row.context_len for row in rows]
    style.add(
        figure,
        "scatter",
        x=contexts,
        y=[row.live_bytes / 2**20 for row in rows],
        name=f"{name}, measured",
        line={"color": colour},
        mode="lines+markers",
    )
    style.add(
        figure,
        "scatter",
        x=contexts,
        y=[row.paper_bytes / 2**20 for row in rows],
        name=f"{name}, paper's formula",
        line={"color": colour, "dash": "dash"},
    )


def _protocols(runs: Sequence[Run]) -> str:
    """How these runs were measured."""
    found = [run.part(Generation) for run in runs]
    protocols = {part.protocol for part in found if part}
    return "; ".join(sorted(protocols)) or "no run yet"


def _basis(runs: Sequence[Run]) -> str:
    """What the predictions of these runs are based on."""
    found = [run.part(Ceilings) for run in runs]
    bases = {part.basis for part in found if part}
    return ", ".join(sorted(bases)) or "no run yet"
