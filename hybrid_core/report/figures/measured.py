"""Charts of profiles: what was measured, beside what was predicted."""

from collections.abc import Sequence
from html import escape

from hybrid_core.evidence import baselines
from hybrid_core.report.figures import style
from hybrid_core.runs.store import Run


def generation(runs: Sequence[Run]) -> style.Figure:
    """Tokens/s of the paper's protocol against total length: measured, predicted, and in the
    paper."""
    protocols = {run.parts["generation"]["protocol"] for run in runs if "generation" in run.parts}
    figure = style.blank(
        "Generation speed against total length",
        f"measured: {'; '.join(sorted(protocols)) or 'no run yet'}. predicted: {_basis(runs)}. "
        f"quoted: {baselines.cite('table13_throughput')}, one H200",
        "total length (tokens)",
        "tokens/s",
        height=365,
    )
    for run, colour in zip(runs, style.cycle(len(runs)), strict=True):
        rows = run.parts.get("generation", {}).get("rows", [])
        xs, name = [row["total_len"] for row in rows], escape(style.label(run))
        style.add(
            figure,
            "scatter",
            x=xs,
            y=[row["tokens_per_s"] for row in rows],
            name=f"{name}, measured",
            line={"color": colour, "width": 2.5},
            mode="lines+markers",
        )
        style.add(
            figure,
            "scatter",
            x=xs,
            y=[row["predicted_tokens_per_s"] for row in rows],
            name=f"{name}, predicted",
            mode="lines",
            line={"color": colour, "dash": "dot"},
        )
        quoted = [row.get("paper_tokens_per_s") for row in rows]
        if any(quoted):
            style.add(
                figure,
                "scatter",
                x=xs,
                y=quoted,
                name=f"{name}, paper",
                line={"color": colour, "dash": "dash"},
                mode="lines+markers",
                marker={"symbol": "x"},
            )
    style.log_axis(figure, "y")
    style.length_axis(figure)
    return figure


def live_cache(runs: Sequence[Run]) -> style.Figure:
    """Bytes of the live cache against context: measured, exact and the paper's formula."""
    figure = style.blank(
        "Live cache of one sequence against context",
        "measured: bytes of the cache's tensors; paper: formula of Appendix C, bf16",
        "context length (tokens)",
        "cache (MiB)",
    )
    for run, colour in zip(runs, style.cycle(len(runs)), strict=True):
        rows = run.parts.get("cache", {}).get("rows", [])
        xs = [row["context_len"] for row in rows]
        measured, paper = (
            [row[key] / 2**20 for row in rows] for key in ("live_bytes", "paper_bytes")
        )
        style.add(
            figure,
            "scatter",
            x=xs,
            y=measured,
            name=f"{escape(style.label(run))}, measured",
            line={"color": colour},
            mode="lines+markers",
        )
        style.add(
            figure,
            "scatter",
            x=xs,
            y=paper,
            name=f"{escape(style.label(run))}, paper's formula",
            line={"color": colour, "dash": "dash"},
        )
    style.log_axis(figure, "y")
    style.length_axis(figure)
    return figure


def _basis(runs: Sequence[Run]) -> str:
    """What the predictions of these runs rest on."""
    return (
        ", ".join(
            sorted({run.parts["ceilings"]["basis"] for run in runs if "ceilings" in run.parts})
        )
        or "no run yet"
    )
