"""Charts of retrieval runs: the map, how it was learnt, the other probes."""

from collections.abc import Sequence
from html import escape
from typing import Any

from hybrid_core.report.figures import style
from hybrid_core.report.retrieval import learnt, probe_learnt
from hybrid_core.runs.store import Run

# Orange to blue, which the colour-blind tell apart, no colour so dark that black figures could not
# be read on it.
RECALLED = [
    [i / 4, colour]
    for i, colour in enumerate(("#E66101", "#FDB863", "#F7F7F7", "#92C5DE", "#4393C3"))
]
SCALE = {"tickformat": ".0%", "thickness": 12, "title": {"text": "recalled", "side": "right"}}
SHARES = {"tickformat": ".0%", "range": [-0.03, 1.03]}
NOT_LEARNT = [
    [0, "#F4F4F4"],
    [1, "#B4B4B4"],
]  # greys, never to be taken for a finding, on which figures can be read


def retrieval_map(run: Run, small: bool = False) -> style.Figure:
    """Needles recalled by depth and context, one colour scale for all designs, greys for a proxy
    that has not learnt.

    Cells that were not asked (yet) stay empty. A small one has no scale of colours beside it.
    """
    found = run.parts["map"]
    title, colours = (
        ("needles recalled", RECALLED)
        if learnt(run)
        else ("needles recalled, not learnt", NOT_LEARNT)
    )
    source = f"measured: % of {found['trials']} trials, whole values; empty: not asked"
    if found["trained_len"] in found["lengths"]:
        source += "; dashed: trained length"
    if found.get("not_measured"):
        source += f"; not whole: {found['not_measured'][-1]['why']}"
    height = 300 if small else 400
    figure = style.blank(
        f"{style.label(run)}: {title}",
        source,
        "context (tokens)",
        "depth of the needle",
        height=height,
    )
    style.add(
        figure,
        "heatmap",
        **_cells(found),
        colorscale=colours,
        zmin=0,
        zmax=1,
        showscale=not small,
        colorbar=SCALE,
    )
    figure["layout"]["xaxis"] |= {"type": "category", "showgrid": False}
    figure["layout"]["yaxis"] |= {"type": "category", "autorange": "reversed", "showgrid": False}
    if found["trained_len"] in found["lengths"]:
        style.vertical(figure, found["lengths"].index(found["trained_len"]) + 0.5)
    return figure


def _cells(found: dict[str, Any]) -> dict[str, Any]:
    """A heat map's data: percents as text, trials and interval on hover."""
    cells = {(c["context_len"], c["depth"]): c for c in found["cells"]}
    grid = [
        [cells.get((length, depth)) for length in found["lengths"]] for depth in found["depths"]
    ]
    hover = ("low", "high", "correct", "trials")
    return {
        "x": [f"{length:,}" for length in found["lengths"]],
        "y": [f"{depth:.0%}" for depth in found["depths"]],
        "z": [[cell and cell["accuracy"] for cell in row] for row in grid],
        "text": [[f"{100 * cell['accuracy']:.0f}" if cell else "" for cell in row] for row in grid],
        "texttemplate": "%{text}",
        "textfont": {"color": "#000000"},
        "customdata": [
            [tuple(cell[key] for key in hover) if cell else (None,) * 4 for cell in row]
            for row in grid
        ],
        "hovertemplate": "%{x} tokens, depth %{y}: %{z:.0%} (%{customdata[2]} of %{customdata[3]}; 95 % from %{customdata[0]:.0%} to "
        "%{customdata[1]:.0%})<extra></extra>",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
    }


def training_curve(run: Run) -> style.Figure:
    """How the proxy of a retrieval run learnt: share of whole answers, and the context of the stage
    it was in."""
    curve = run.parts["training"]["curve"]
    figure = style.blank(
        f"Training of the proxy, {style.label(run)}",
        "measured: running share of whole answers on fresh data; it falls when a stage brings longer contexts or more needles",
        "training tokens (M)",
        "recalled",
    )
    tokens = [point["tokens"] / 1e6 for point in curve]
    style.add(
        figure,
        "scatter",
        x=tokens,
        y=[point["accuracy"] for point in curve],
        text=[point["stage"] for point in curve],
        name="recalled in training",
        mode="lines",
        line={"color": style.COLOURS[0], "width": 2.5},
        hovertemplate="%{x:.2f}M tokens, %{text}: %{y:.0%}",
    )
    style.add(
        figure,
        "scatter",
        x=tokens,
        y=[point["length"] for point in curve],
        name="context in training (right)",
        mode="lines",
        line={"color": "#999999", "dash": "dot", "shape": "hv"},
        yaxis="y2",
        hovertemplate="%{y:,} tokens of context",
    )
    right = {
        "title": {"text": "context (tokens)"},
        "overlaying": "y",
        "side": "right",
        "rangemode": "tozero",
        "showgrid": False,
        "tickmode": "auto",
    }
    figure["layout"]["yaxis"] |= {"tickformat": ".0%", "range": [0, 1.03]}
    figure["layout"] |= {"yaxis2": right, "margin": figure["layout"]["margin"] | {"r": 70}}
    return figure


def recall_by_pairs(runs: Sequence[Run]) -> style.Figure:
    """Multi-query associative recall: share of keys whose value was named, against how many pairs
    there were."""
    figure = style.blank(
        "Associative recall against number of pairs",
        "measured: n pairs of key and value, then every key again in another order; dashed: trained to here",
        "pairs of key and value",
        "values recalled",
    )
    figure["layout"]["yaxis"] |= SHARES
    _probe(figure, runs, "recall", "n_pairs", "accuracy", "trained_pairs")
    return figure


def copying_by_length(runs: Sequence[Run]) -> style.Figure:
    """Selective copying: share of contexts whose scattered symbols were all copied in order,
    against length."""
    figure = style.blank(
        "Selective copying against context",
        "measured: 16 symbols scattered in noise, all to be copied in order; bars: 95 % interval; dashed: trained to here",
        "context (tokens)",
        "copied whole",
    )
    figure["layout"]["yaxis"] |= SHARES
    _probe(figure, runs, "copying", "context_len", "share", "trained_len")
    return figure


def loss_by_position(runs: Sequence[Run]) -> style.Figure:
    """Loss on the user's text against the position in the context (as the paper's Figure 3c)."""
    figure = style.blank(
        "Loss by position on your text",
        "measured on the last tenth of the text, trained on the rest, bytes as tokens; dashed: trained to here",
        "position in the context (bytes)",
        "loss (nats per byte)",
    )
    _probe(figure, runs, "text", "to", "nats_per_byte", "trained_len")
    return figure


def _probe(
    figure: style.Figure, runs: Sequence[Run], part: str, x: str, y: str, trained: str
) -> None:
    """A line per run, dotted where the task was not learnt; a dashed line where training ended."""
    shown = [run for run in runs if part in run.parts]
    for run, colour in zip(shown, style.cycle(len(shown)), strict=True):
        rows, short = run.parts[part]["rows"], not probe_learnt(run, part)
        missing = run.parts[part].get("not_measured")
        style.add(
            figure,
            "scatter",
            x=[row[x] for row in rows],
            y=[row[y] for row in rows],
            error_y={
                "array": [row["high"] - row[y] for row in rows],
                "arrayminus": [row[y] - row["low"] for row in rows],
            }
            if "low" in rows[0]
            else None,
            name=escape(style.label(run))
            + (" (not learnt)" if short else "")
            + (" (not whole)" if missing else ""),
            line={"color": colour, "dash": "dot" if short else "solid"},
            mode="lines+markers",
        )
    for end in {run.parts[part][trained] for run in shown}:
        style.vertical(figure, end)


PROBE_CHARTS = {"recall": recall_by_pairs, "copying": copying_by_length, "text": loss_by_position}


def retrieval_charts(runs: Sequence[Run]) -> list[style.Figure]:
    """Every chart of what runs recalled: a map each, and the probes with all runs on one chart."""
    maps = [retrieval_map(run) for run in runs if run.parts.get("map", {}).get("cells")]
    return maps + [
        draw(runs) for part, draw in PROBE_CHARTS.items() if any(part in run.parts for run in runs)
    ]
