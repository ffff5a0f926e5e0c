"""Charts, for pages and reports alike. Each says in its title what it shows and in its foot where the data are from.

A chart is computed from closed forms, from the paper's tables or from stored runs; nothing is measured here.
"""

import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hybrid_core import baselines, presets
from hybrid_core.costs.memory import memory, room_for
from hybrid_core.costs.model import model_costs
from hybrid_core.costs.roofline import predict
from hybrid_core.hardware import Hardware, catalogue
from hybrid_core.registry import KINDS, kind_of
from hybrid_core.report import units
from hybrid_core.report.retrieval import learnt, probe_learnt
from hybrid_core.runs.store import Run
from hybrid_core.spec import ArchSpec
from hybrid_core.workload import Workload

# Okabe and Ito's colours, for designs side by side.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
CONTEXTS = 2 ** np.arange(11, 21)  # 2K to 1M
LENGTH_TICKS = {"tickvals": [int(c) for c in CONTEXTS], "ticktext": [units.length(int(c)) for c in CONTEXTS]}
MODEL_COLOUR = {"llama": "#D55E00", "swa": "#E69F00", "mamba": "#0072B2", "inter": "#CC79A7", "intra": "#009E73"}
MODEL_LABEL = {"llama": "Llama", "swa": "SWA", "mamba": "Mamba", "inter": "Inter-hybrid", "intra": "Intra-hybrid"}


class Named(NamedTuple):
    """A design with the name it has on a chart."""

    label: str
    spec: ArchSpec


def label(run: Run) -> str:
    """How a run is called on charts. plotly reads markup in labels, so the user's part is escaped."""
    return escape(f"#{run.id} {run.name}")


ABOVE, BOTTOM, LINE = 40, 64, 15  # pixels above and below a plot with one line of title and foot, and of each further line
HALF, FULL = 470, 1000  # nominal widths in pixels, for wrapping and for the room that a legend needs


def _figure(title: str, source: str, x: str, y: str, height: int = 340, width: int = HALF) -> go.Figure:
    """An empty chart in the house style: title above the legend, source below the axis."""
    foot = "<br>".join(textwrap.wrap(source, (width - 80) // 6))
    lines = textwrap.wrap(title, width // 8)
    heading = {"text": "<br>".join(lines), "x": 0, "xanchor": "left", "font": {"size": 15}}
    layout = {  # given whole: each later update of a layout takes plotly ten milliseconds
        "title": heading
        | {
            "y": 1,
            "yanchor": "top",
            "yref": "container",
            "pad": {"t": 8 if len(lines) == 1 else 20, "l": 4},
        },  # of several lines plotly would cut the first
        "height": height,
        "margin": {"l": 64, "r": 16, "b": BOTTOM + LINE * foot.count("<br>")},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        "xaxis": {"title": {"text": f"{x}<br><span style='font-size:11px'>{foot}</span>", "standoff": 8}},
        "yaxis": {"title": {"text": y}},
        "hovermode": "closest",
        "meta": {"width": width, "source": source},
    }
    return go.Figure(layout=layout)


def _room(figure: go.Figure) -> go.Figure:
    """Make room above the plot for the title and for as many rows of legend as the names need."""
    shown = [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]
    longest = max((len(name) for name in shown), default=0)
    words = [part for trace in figure.data if trace.type == "bar" for y in trace.y for part in str(y).split("<br>")]
    left = max([64, *(6 * len(word) for word in words)])
    per_row = max(1, (figure.layout.meta["width"] - left - 16) // (7 * longest + 44))
    legend = len(shown) > 1 and "named" not in figure.layout.meta
    rows = -(-len(shown) // per_row) if legend else 0
    top = 26 + figure.layout.title.pad.t + 18 * figure.layout.title.text.count("<br>") + 20 * rows
    figure.update_layout(margin_t=top, height=figure.layout.height + top - ABOVE, showlegend=legend)
    return figure


def _log(figure: go.Figure, axis: str) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5, written out."""
    values = [mantissa * 10.0**power for power in range(-3, 13) for mantissa in (1, 2, 5)]
    ticks = {"type": "log", "tickvals": values, "ticktext": [units.count(value) for value in values]}
    figure.update_layout({f"{axis}axis": ticks})


def _lengths(figure: go.Figure) -> None:
    figure.update_xaxes(type="log", **LENGTH_TICKS)


def _lines(figure: go.Figure, designs: Sequence[Named], values: Sequence[np.ndarray], hover: str, log: bool = True) -> None:
    """A line per design, named where it ends, over a logarithmic or a linear y axis."""
    lines = [np.broadcast_to(ys, CONTEXTS.shape) for ys in values]
    for design, ys, colour in zip(designs, lines, _cycle(len(designs)), strict=True):
        figure.add_scatter(x=CONTEXTS, y=ys, name=escape(design.label), line={"color": colour, "width": 2.5}, hovertemplate=hover)
    _name_ends(figure, [design.label for design in designs], lines, log)
    if log:
        _log(figure, "y")
    _lengths(figure)


ROOM_FOR_LINES, LABEL = 235, 15  # pixels: height of a plot of lines, and of a label


def _name_ends(figure: go.Figure, names: Sequence[str], lines: Sequence[np.ndarray], log: bool) -> None:
    """Write each line's name at its end, above one that rises and below one that falls, and no name on another: needs no legend."""
    scale: Any = np.log10 if log else np.asarray
    known = np.concatenate([scale(ys[np.isfinite(ys)]) for ys in lines])
    if not known.size:
        return
    low, high = (known.min() if log else 0.0), known.max()
    pixels = ROOM_FOR_LINES / ((high - low) or 1.0)
    ends = [(int(np.isfinite(ys).nonzero()[0][-1]), i) for i, ys in enumerate(lines) if np.isfinite(ys).any()]
    free = np.inf  # the highest place, in pixels from below, that no label has taken
    for last, i in sorted(ends, key=lambda end: -lines[end[1]][end[0]]):
        y = float(scale(lines[i][last]))
        at = (y - low) * pixels
        falls = last > 0 and lines[i][last] < lines[i][last - 1]
        placed = min(at + (-0.9 if falls else 0.7) * LABEL, free)
        free = placed - LABEL
        figure.add_annotation(
            x=float(np.log10(CONTEXTS[last])),
            y=y,
            yshift=placed - at,
            text=f'<span style="color:{_cycle(len(lines))[i]}">■</span> {escape(textwrap.shorten(names[i], 44, placeholder="..."))}',
            xanchor="right" if last > 2 else "left",
            showarrow=False,
            font_size=12,  # words in a line's own colour would be too pale to read
        )
    figure.layout.meta = figure.layout.meta | {"named": True}


def cache_by_context(designs: Sequence[Named], workload: Workload, hardware: Hardware | None = None) -> go.Figure:
    """Exact cache of one sequence against its length, on any device."""
    figure = _figure(
        "Cache of one sequence against context",
        f"exact: tensor shapes and dtypes (keys and values {workload.kv_cache_dtype}, state {workload.state_dtype})",
        "context length (tokens)",
        "cache (MiB)",
    )
    sizes = [model_costs(d.spec).cache_bytes(CONTEXTS, "exact", workload) / 2**20 for d in designs]
    _lines(figure, designs, sizes, "%{x:,} tokens: %{y:,.1f} MiB")
    return _room(figure)


def decode_by_context(designs: Sequence[Named], workload: Workload, hardware: Hardware) -> go.Figure:
    """Predicted decode speed against context; a line ends where the device is full."""
    figure = _figure(
        f"Predicted decode speed, batch {workload.batch_size}",
        f"predicted: {hardware.basis}; a line ends where its memory is full",
        "context length (tokens)",
        "tokens/s",
    )
    speeds = []
    for design in designs:
        speed = np.broadcast_to(predict(design.spec, workload, hardware, CONTEXTS).decode_tokens_per_s, CONTEXTS.shape)
        used = _serving_bytes(design.spec, workload)
        speeds.append(np.where(used <= hardware.memory_bytes, speed, np.nan))
    _lines(figure, designs, speeds, "%{x:,} tokens: %{y:,.0f} tokens/s", log=False)
    figure.update_yaxes(rangemode="tozero")
    return _room(figure)


def _serving_bytes(spec: ArchSpec, workload: Workload) -> np.ndarray:
    """Weights and cache at each context: what decoding must hold."""
    used = memory(spec, workload, CONTEXTS)
    return np.broadcast_to(used.weights + used.cache, CONTEXTS.shape)


def memory_by_part(designs: Sequence[Named], workload: Workload, hardware: Hardware) -> go.Figure:
    """Weights, cache and activations beside what the device has."""
    figure = _figure(
        f"Memory at {units.length(workload.context_len)} tokens, batch {workload.batch_size}",
        f"exact: weights, cache, activations of the prefill (eager); {hardware.name} has {units.n_bytes(hardware.memory_bytes)}",
        "GiB",
        "",
        height=130 + 40 * len(designs),
    )
    used = [memory(d.spec, workload) for d in designs]
    for part, colour in zip(("weights", "cache", "activations"), ("#56B4E9", "#E69F00", "#999999"), strict=True):
        figure.add_bar(
            y=[escape(d.label) for d in designs],
            x=[float(getattr(u, part)) / 2**30 for u in used],
            name=part,
            orientation="h",
            marker_color=colour,
            hovertemplate="%{y}: " + part + " %{x:.2f} GiB",
        )
    if hardware.memory_bytes < 4 * max(float(u.total) for u in used):
        figure.add_vline(x=hardware.memory_bytes / 2**30, line={"color": "#B00020", "width": 2, "dash": "dash"}, annotation_text="device")
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed")
    return _room(figure)


# part of a forward pass -> (its name, colour)
PARTS = {
    "qkv": ("attention projections", "#D55E00"),
    "attention": ("attention", "#8C3A00"),
    "in_proj": ("Mamba projections", "#0072B2"),
    "conv": ("convolution", "#56B4E9"),
    "scan": ("scan", "#009E73"),
    "out": ("output projections", "#CC79A7"),
    "gate": ("gates", "#666666"),
    "ffn": ("feed-forward", "#999999"),
    "head": ("vocabulary head", "#F0E442"),
}


def _parts(spec: ArchSpec, context: int) -> dict[str, Counter[str]]:
    """FLOPs per token by part: of training (three forward passes) and of a decode step."""
    costs = model_costs(spec)
    forward, step = Counter({"head": costs.head_flops(context)}), Counter({"head": costs.head_flops(1)})
    for layer, n in costs.distinct():
        for total, parts in ((forward, layer.forward_flops(context)), (step, layer.decode_flops(context))):
            for part, value in parts.items():
                total[part] += int(n * value)
    return {"training": Counter({part: 3 * value / context for part, value in forward.items()}), "decode": step}


def flops_by_part(designs: Sequence[Named], workload: Workload) -> go.Figure:
    """FLOPs per token of training and of decoding, part by part."""
    context = workload.context_len
    figure = _figure(
        f"Where the FLOPs go, per token at {units.length(context)}",
        "exact: every matrix product and scan; training is three times the forward pass",
        "GFLOPs per token",
        "",
        height=150 + 64 * len(designs),
    )
    rows = {
        (what if len(designs) == 1 else f"{escape(design.label)}<br>{what}"): parts
        for design in designs
        for what, parts in _parts(design.spec, context).items()
    }
    for part, (name, colour) in PARTS.items():
        if any(parts[part] for parts in rows.values()):
            figure.add_bar(
                y=list(rows),
                x=[parts[part] / 1e9 for parts in rows.values()],
                customdata=[100 * parts[part] / parts.total() for parts in rows.values()],
                name=name,
                orientation="h",
                marker_color=colour,
                hovertemplate=f"%{{y}}, {name}: %{{x:.3f}} GFLOPs (%{{customdata:.1f}} %)<extra></extra>",
            )
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed")
    return _room(figure)


def memory_by_context(designs: Sequence[Named], workload: Workload, hardware: Hardware) -> go.Figure:
    """Memory of the whole workload against context, beside what the device has."""
    figure = _figure(
        f"Memory against context, batch {workload.batch_size}",
        f"exact: weights, cache, activations of the prefill (eager); dashed: {hardware.name}, {units.n_bytes(hardware.memory_bytes)}",
        "context length (tokens)",
        "memory (GiB)",
    )
    used = [np.broadcast_to(memory(d.spec, workload, CONTEXTS).total, CONTEXTS.shape) / 2**30 for d in designs]
    _lines(figure, designs, used, "%{x:,} tokens: %{y:,.2f} GiB")
    figure.add_scatter(
        x=CONTEXTS[[0, -1]],
        y=[hardware.memory_bytes / 2**30] * 2,
        mode="lines",
        name=hardware.name,
        line={"color": "#D00020", "width": 2, "dash": "dash"},
        showlegend=False,
    )
    return _room(figure)


def _sizes() -> dict[int, str]:
    """Bytes of memory of the known GPUs, with the names of those that have as much."""
    found: dict[int, list[str]] = {}
    for device in catalogue().values():
        if device.kind == "gpu":
            found.setdefault(device.memory_bytes, []).append(device.key.replace("_", " ").upper())
    return {size: f"{size / 2**30:.0f} GiB: " + "<br>".join(textwrap.wrap(", ".join(found[size]), 24)) for size in sorted(found)}


def longest_context(designs: Sequence[Named], workload: Workload, hardware: Hardware | None = None) -> go.Figure:
    """The longest context that each size of device memory has room for: weights and cache, as in decoding."""
    sizes = _sizes()
    figure = _figure(
        f"Where each accelerator runs out, batch {workload.batch_size}",
        "exact: the longest context (up to 16M) whose weights and cache fit, as in decoding; activations of a long prompt come on top",
        "longest context (tokens)",
        "",
        height=110 + (20 + 12 * len(designs)) * len(sizes),
    )
    for design, colour in zip(designs, _cycle(len(designs)), strict=True):
        longest = room_for(design.spec, workload, list(sizes))
        figure.add_bar(
            y=list(sizes.values()),
            x=[n or None for n in longest],
            text=[units.length(n) if n else "weights do not fit" for n in longest],
            name=escape(design.label),
            orientation="h",
            marker_color=colour,
            hovertemplate="%{y}: %{x:,} tokens",
        )
    ticks = [2**k for k in range(10, 25, 2)]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[units.length(n) for n in ticks], range=[3, 7.8])
    figure.update_yaxes(autorange="reversed", tickfont_size=10)
    return _room(figure)


ROW, MAX_STACK = 24, 1_300  # pixels of a layer, and of all layers of a deep stack


def stack(spec: ArchSpec, workload: Workload) -> go.Figure:
    """The layers, first on top, coloured by kind; beside each its share of the stack's parameters and FLOPs. A point's y is its layer."""
    figure = _figure(
        "The stack: what each layer is, and its share",
        f"exact: parameters, and FLOPs of a forward pass over {units.length(workload.context_len)} tokens; both without embedding and head",
        "",
        "",
        height=max(170, 110 + min(ROW * spec.n_layers, MAX_STACK)),
    )
    costs = model_costs(spec)
    flops = np.array([float(sum(layer.forward_flops(workload.context_len).values())) for layer in costs.layers])
    params = np.array([float(layer.params()) for layer in costs.layers])
    shares = {"x2": ("parameters", 100 * params / params.sum()), "x3": ("FLOPs", 100 * flops / flops.sum())}
    kinds = [kind_of(layer.mixer) for layer in spec.stack]
    written = spec.n_layers <= 40  # words of more layers are too small to read, and slow to draw
    high = 0.85 if written else 1
    for kind in KINDS.values():
        rows = [i for i, found in enumerate(kinds) if found == kind]
        if not rows:
            continue
        figure.add_bar(
            x=[1] * len(rows),
            y=[i + 1 for i in rows],
            orientation="h",
            width=high,
            marker_color=kind.colour,
            legendgroup=kind.name,
            text=kind.label if written else None,
            textposition="inside",
            insidetextanchor="middle",
            textfont_color="#000" if kind.light else "#fff",
            name=f"{kind.label} ({len(rows)})",
            customdata=[(units.count(params[i]), units.flops(flops[i]), *(share[i] for _, share in shares.values())) for i in rows],
            hovertemplate=f"layer %{{y}}: {kind.label}, %{{customdata[0]}} parameters (%{{customdata[2]:.2f}} %), "
            "%{customdata[1]} (%{customdata[3]:.2f} %)<extra></extra>",
        )
        for axis, (what, share) in shares.items():  # all of a kind in one outline: a deep stack's bars one by one are slow to draw
            figure.add_scatter(
                x=[x for i in rows for x in (0, share[i], share[i], 0, None)],
                y=[y for i in rows for y in (*[i + 1 - high / 2] * 2, *[i + 1 + high / 2] * 2, None)],
                xaxis=axis,
                mode="none",
                fill="toself",
                fillcolor=kind.colour,
                hoverinfo="skip",
                legendgroup=kind.name,
                showlegend=False,
                name=f"{kind.label}, {what}",
            )
    shown = {"ticksuffix": " %", "rangemode": "tozero", "nticks": 3}
    figure.update_layout(
        xaxis={"domain": [0, 0.44], "showticklabels": False, "showgrid": False, "fixedrange": True, "title_standoff": 40},
        xaxis2={"domain": [0.48, 0.72], "title": "parameters", "fixedrange": True} | shown,
        xaxis3={"domain": [0.76, 1], "title": "FLOPs", "fixedrange": True} | shown,
        yaxis={"range": [spec.n_layers + 0.5, 0.5], "dtick": 1 if spec.n_layers <= 40 else 10, "fixedrange": True, "showgrid": False},
        barmode="overlay",
        margin_b=figure.layout.margin.b + 24,
        meta=figure.layout.meta | {"width": 380},
    )
    return _room(figure)


# ---------------------------------------------------------------- measured


def generation(runs: Sequence[Run]) -> go.Figure:
    """Tokens/s of the paper's protocol against total length: measured, predicted, and in the paper."""
    protocols = {run.parts["generation"]["protocol"] for run in runs if "generation" in run.parts}
    figure = _figure(
        "Generation speed against total length",
        f"measured: {'; '.join(sorted(protocols)) or 'no run yet'}. predicted: {_basis(runs)}. "
        f"quoted: {baselines.cite('table13_throughput')}, one H200",
        "total length (tokens)",
        "tokens/s",
        height=420,
        width=FULL,
    )
    for run, colour in zip(runs, _cycle(len(runs)), strict=True):
        rows = run.parts.get("generation", {}).get("rows", [])
        xs, name = [row["total_len"] for row in rows], label(run)
        figure.add_scatter(
            x=xs,
            y=[row["tokens_per_s"] for row in rows],
            name=f"{name}, measured",
            line={"color": colour, "width": 2.5},
            mode="lines+markers",
        )
        figure.add_scatter(
            x=xs, y=[row["predicted_tokens_per_s"] for row in rows], name=f"{name}, predicted", line={"color": colour, "dash": "dot"}
        )
        quoted = [row.get("paper_tokens_per_s") for row in rows]
        if any(quoted):
            figure.add_scatter(
                x=xs, y=quoted, name=f"{name}, paper", line={"color": colour, "dash": "dash"}, mode="lines+markers", marker_symbol="x"
            )
    _log(figure, "y")
    _lengths(figure)
    return _room(figure)


RECALLED = [[i / 4, colour] for i, colour in enumerate(("#A50026", "#F46D43", "#FEE08B", "#66BD63", "#006837"))]
NOT_LEARNT = [[0, "#EDEDED"], [1, "#8A8A8A"]]  # greys: never to be taken for a finding


def retrieval_map(run: Run, width: int = HALF) -> go.Figure:
    """Needles recalled by depth and context, one colour scale for all designs, greys for a proxy that has not learnt.

    Cells that were not asked (yet) stay empty.
    """
    found, large = run.parts["map"], width >= HALF
    title, colours = ("needles recalled", RECALLED) if learnt(run) else ("needles recalled, not learnt", NOT_LEARNT)
    source = f"measured: % of {found['trials']} trials, whole values; empty: not asked" + (
        "; dashed: trained length" if found["trained_len"] in found["lengths"] else ""
    )
    height = 460 if large else 360
    figure = _figure(f"{label(run)}: {title}", source, "context (tokens)", "depth of the needle", height=height, width=width)
    figure.add_heatmap(**_cells(found), colorscale=colours, zmin=0, zmax=1, showscale=large)
    figure.update_traces(colorbar={"tickformat": ".0%", "thickness": 12, "title": {"text": "recalled", "side": "right"}})
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    if found["trained_len"] in found["lengths"]:
        figure.add_vline(x=found["lengths"].index(found["trained_len"]) + 0.5, line_dash="dash", line_color="#808080")
    return _room(figure)


def _cells(found: dict[str, Any]) -> dict[str, Any]:
    """A heat map's data: percents as text, trials and interval on hover."""
    cells = {(c["context_len"], c["depth"]): c for c in found["cells"]}
    grid = [[cells.get((length, depth)) for length in found["lengths"]] for depth in found["depths"]]
    hover = ("low", "high", "correct", "trials")
    return {
        "x": [f"{length:,}" for length in found["lengths"]],
        "y": [f"{depth:.0%}" for depth in found["depths"]],
        "z": [[cell and cell["accuracy"] for cell in row] for row in grid],
        "text": [[f"{100 * cell['accuracy']:.0f}" if cell else "" for cell in row] for row in grid],
        "texttemplate": "%{text}",
        "customdata": [[tuple(cell[key] for key in hover) if cell else (None,) * 4 for cell in row] for row in grid],
        "hovertemplate": "%{x} tokens, depth %{y}: %{z:.0%} (%{customdata[2]} of %{customdata[3]}; 95 % from %{customdata[0]:.0%} to "
        "%{customdata[1]:.0%})<extra></extra>",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
    }


def training_curve(run: Run) -> go.Figure:
    """How the proxy of a retrieval run learnt: share of whole answers, and the context of the stage it was in."""
    curve = run.parts["training"]["curve"]
    figure = _figure(
        f"Training of the proxy, {label(run)}",
        "measured: running share of whole answers on fresh data; it falls when a stage brings longer contexts or more needles",
        "training tokens (M)",
        "recalled",
    )
    tokens = [point["tokens"] / 1e6 for point in curve]
    figure.add_scatter(
        x=tokens,
        y=[point["accuracy"] for point in curve],
        text=[point["stage"] for point in curve],
        name="recalled in training",
        mode="lines",
        line={"color": COLOURS[0], "width": 2.5},
        hovertemplate="%{x:.2f}M tokens, %{text}: %{y:.0%}",
    )
    figure.add_scatter(
        x=tokens,
        y=[point["length"] for point in curve],
        name="context in training (right)",
        mode="lines",
        line={"color": "#999999", "dash": "dot", "shape": "hv"},
        yaxis="y2",
        hovertemplate="%{y:,} tokens of context",
    )
    right = {"title": "context (tokens)", "overlaying": "y", "side": "right", "rangemode": "tozero", "showgrid": False, "tickmode": "auto"}
    figure.update_layout(yaxis={"tickformat": ".0%", "range": [0, 1.03]}, yaxis2=right, margin_r=70)
    return _room(figure)


def recall_by_pairs(runs: Sequence[Run]) -> go.Figure:
    """Multi-query associative recall: share of keys whose value was named, against how many pairs there were."""
    figure = _figure(
        "Associative recall against number of pairs",
        "measured: n pairs of key and value, then every key again in another order; dashed: trained to here",
        "pairs of key and value",
        "values recalled",
    )
    _probe(figure, runs, "recall", "n_pairs", "accuracy", "trained_pairs")
    figure.update_yaxes(tickformat=".0%", range=[-0.03, 1.03])
    return _room(figure)


def copying_by_length(runs: Sequence[Run]) -> go.Figure:
    """Selective copying: share of contexts whose scattered symbols were all copied in order, against length."""
    figure = _figure(
        "Selective copying against context",
        "measured: 16 symbols scattered in noise, all to be copied in order; bars: 95 % interval; dashed: trained to here",
        "context (tokens)",
        "copied whole",
    )
    _probe(figure, runs, "copying", "context_len", "share", "trained_len")
    figure.update_yaxes(tickformat=".0%", range=[-0.03, 1.03])
    return _room(figure)


def loss_by_position(runs: Sequence[Run]) -> go.Figure:
    """Loss on the user's text against the position in the context (as the paper's Figure 3c)."""
    figure = _figure(
        "Loss by position on your text",
        "measured on the last tenth of the text, trained on the rest, bytes as tokens; dashed: trained to here",
        "position in the context (bytes)",
        "loss (nats per byte)",
    )
    _probe(figure, runs, "text", "to", "nats_per_byte", "trained_len")
    return _room(figure)


def _probe(figure: go.Figure, runs: Sequence[Run], part: str, x: str, y: str, trained: str) -> None:
    """A line per run, dotted where the task was not learnt; a dashed line where training ended."""
    shown = [run for run in runs if part in run.parts]
    for run, colour in zip(shown, _cycle(len(shown)), strict=True):
        rows, short = run.parts[part]["rows"], not probe_learnt(run, part)
        figure.add_scatter(
            x=[row[x] for row in rows],
            y=[row[y] for row in rows],
            error_y={"array": [row["high"] - row[y] for row in rows], "arrayminus": [row[y] - row["low"] for row in rows]}
            if "low" in rows[0]
            else None,
            name=label(run) + (" (not learnt)" if short else ""),
            line={"color": colour, "dash": "dot" if short else "solid"},
            mode="lines+markers",
        )
    for end in {run.parts[part][trained] for run in shown}:
        figure.add_vline(x=end, line_dash="dash", line_color="#777777")


PROBE_CHARTS = {"recall": recall_by_pairs, "copying": copying_by_length, "text": loss_by_position}


def retrieval(runs: Sequence[Run]) -> list[go.Figure]:
    """Every chart of what runs recalled: a map each, and the probes with all runs on one chart."""
    maps = [retrieval_map(run) for run in runs if run.parts.get("map", {}).get("cells")]
    return maps + [draw(runs) for part, draw in PROBE_CHARTS.items() if any(part in run.parts for run in runs)]


def _basis(runs: Sequence[Run]) -> str:
    """What the predictions of these runs rest on."""
    return ", ".join(sorted({run.parts["ceilings"]["basis"] for run in runs if "ceilings" in run.parts})) or "no run yet"


def live_cache(runs: Sequence[Run]) -> go.Figure:
    """Bytes of the live cache against context: measured, exact and the paper's formula."""
    figure = _figure(
        "Live cache of one sequence against context",
        "measured: bytes of the cache's tensors; paper: formula of Appendix C, bf16",
        "context length (tokens)",
        "cache (MiB)",
    )
    for run, colour in zip(runs, _cycle(len(runs)), strict=True):
        rows = run.parts.get("cache", {}).get("rows", [])
        xs = [row["context_len"] for row in rows]
        measured, paper = ([row[key] / 2**20 for row in rows] for key in ("live_bytes", "paper_bytes"))
        figure.add_scatter(x=xs, y=measured, name=f"{label(run)}, measured", line={"color": colour}, mode="lines+markers")
        figure.add_scatter(x=xs, y=paper, name=f"{label(run)}, paper's formula", line={"color": colour, "dash": "dash"})
    _log(figure, "y")
    _lengths(figure)
    return _room(figure)


def _cycle(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


# ---------------------------------------------------------------- the paper


def paper_throughput(runs: Sequence[Run] = ()) -> go.Figure:
    """Figure 3a: throughput of Table 2's designs against length, with the user's runs."""
    figure = _figure(
        "Generation speed against total length (Figure 3a)",
        f"quoted: {baselines.cite('table13_throughput')}, one H200, batch 4, prompt 512" + ("; measured: your runs" if runs else ""),
        "total length (tokens)",
        "tokens/s",
        height=400,
        width=FULL,
    )
    for name in presets.TABLE2:
        row = baselines.throughput(presets.get(name).spec)
        if row:
            model = name.split("-")[0]
            figure.add_scatter(
                x=row.totals,
                y=row.tokens_per_s,
                name=f"{MODEL_LABEL[model]} (paper)",
                line={"color": MODEL_COLOUR[model]},
                mode="lines+markers",
            )
    for run, rows in _with_part(runs, "generation"):
        figure.add_scatter(
            x=[row["total_len"] for row in rows],
            y=[row["tokens_per_s"] for row in rows],
            name=f"{label(run)} on {run.device}",
            line={"color": _colour_of(run), "dash": "dot"},
            mode="lines+markers",
            marker_symbol="diamond-open",
        )
    _log(figure, "y")
    _lengths(figure)
    return _room(figure)


def paper_cache(runs: Sequence[Run] = ()) -> go.Figure:
    """Figure 3b: cache of Table 2's designs against length: printed cells, the paper's formula, the user's runs."""
    figure = _figure(
        "Cache of one sequence against context (Figure 3b)",
        f"lines: the paper's formula (Appendix C); circles: printed, {baselines.cite('table09_1b')} and Table 12"
        + ("; diamonds: your runs" if runs else ""),
        "context length (tokens)",
        "cache (MiB)",
        height=400,
        width=FULL,
    )
    lengths = np.array(list(baselines.TOTALS.values()))
    for name in presets.TABLE2:
        spec, model = presets.get(name).spec, name.split("-")[0]
        ys = np.broadcast_to(model_costs(spec).cache_bytes(lengths, "paper") / 2**20, lengths.shape)
        figure.add_scatter(x=lengths, y=ys, name=MODEL_LABEL[model], line={"color": MODEL_COLOUR[model]}, legendgroup=model)
        short, long = baselines.matching(spec, "table09_1b"), baselines.matching(spec, "table12_long_context")
        points = [(8192, short.iloc[0]["cache_mib"]), *zip(long["context_len"], long["cache_mib"], strict=True)]
        xs, printed = zip(*points, strict=True)
        figure.add_scatter(
            x=xs,
            y=printed,
            mode="markers",
            marker={"color": MODEL_COLOUR[model], "size": 9},
            legendgroup=model,
            showlegend=False,
            name=f"{MODEL_LABEL[model]}, printed",
        )
    for run, rows in _with_part(runs, "cache"):
        figure.add_scatter(
            x=[row["context_len"] for row in rows],
            y=[row["live_bytes"] / 2**20 for row in rows],
            name=f"{label(run)}, measured",
            mode="markers",
            marker={"color": _colour_of(run), "symbol": "diamond-open", "size": 10},
        )
    _log(figure, "y")
    _lengths(figure)
    return _room(figure)


def quality_throughput(total_len: int = 8192, runs: Sequence[Run] = ()) -> go.Figure:
    """Figure 1b: loss (Table 9, 60B tokens) against throughput (Table 13) at one total length."""
    figure = _figure(
        f"Quality against speed, 1B, {units.length(total_len)} total (Figure 1b): up and right is better",
        f"quoted: NLL at 60B tokens, {baselines.cite('table09_1b')}; speed, Table 13, one H200"
        + ("; diamonds: speed of your runs, with the paper's NLL" if runs else ""),
        "generation speed (tokens/s)",
        "validation NLL on DCLM (nats per token, lower is better)",
        height=440,
        width=FULL,
    )
    rows = baselines.quality_and_speed(total_len)
    for model, group in rows.groupby("model", sort=False):
        figure.add_scatter(
            x=group["tokens_per_s"],
            y=group["nll_dclm"],
            text=group["layers"],
            mode="markers+text",
            textposition="top center",
            name=MODEL_LABEL[str(model)],
            marker={"color": MODEL_COLOUR[str(model)], "size": 11},
            hovertemplate="%{text}: %{x:,.0f} tokens/s, NLL %{y:.3f}",
        )
    for run, parts in _with_part(runs, "generation"):
        quoted = baselines.matching(run.spec, "table09_1b") if baselines.is_papers(run.spec) else None
        at = [row["tokens_per_s"] for row in parts if row["total_len"] == total_len]
        if at and quoted is not None and not quoted.empty:
            figure.add_scatter(
                x=at,
                y=[quoted.iloc[0]["nll_dclm"]],
                mode="markers",
                name=f"{label(run)} on {run.device}",
                marker={"color": _colour_of(run), "symbol": "diamond-open", "size": 13, "line": {"width": 2}},
            )
    _log(figure, "x")
    figure.update_yaxes(autorange="reversed")
    return _room(figure)


def _with_part(runs: Sequence[Run], part: str) -> list[tuple[Run, list[dict[str, float]]]]:
    return [(run, run.parts[part]["rows"]) for run in runs if part in run.parts and run.parts[part]["rows"]]


def _colour_of(run: Run) -> str:
    """The paper's colour of the family that a run's design belongs to."""
    letters = set(run.spec.pattern)
    if "H" in letters:
        return MODEL_COLOUR["intra"]
    if letters == {"A"}:
        return MODEL_COLOUR["llama"]
    if "S" in letters:
        return MODEL_COLOUR["swa"]
    return MODEL_COLOUR["inter" if "A" in letters else "mamba"]


# ---------------------------------------------------------------- a chart without looking at it


def data(figure: go.Figure) -> pd.DataFrame:
    """What a chart shows, one row a point or cell, under the titles of its axes."""
    frames = [_points(trace) for trace in figure.data if trace.x is not None]
    names = {"x": _words(figure.layout.xaxis.title.text) or "x", "y": _words(figure.layout.yaxis.title.text) or "y"}
    return pd.concat(frames, ignore_index=True).rename(columns=names) if frames else pd.DataFrame()


def _points(trace: Any) -> pd.DataFrame:
    if trace.type == "heatmap":
        cells = [(x, y, cell) for y, row in zip(trace.y, trace.z, strict=True) for x, cell in zip(trace.x, row, strict=True)]
        return pd.DataFrame(cells, columns=["x", "y", "share"])
    return pd.DataFrame({"series": trace.name or "", "x": _column(trace.x), "y": _column(trace.y)})


def told(figure: go.Figure) -> str:
    """A chart in words, for who cannot see it: its title, and where each series starts and ends."""
    lines = [_words(figure.layout.title.text)]
    for trace in figure.data:
        xs, ys = _column(trace.x), _column(trace.y)
        if trace.showlegend is not False and len(ys):
            if trace.type == "heatmap":
                cells = [cell for row in trace.z for cell in row if cell is not None]
                lines.append(f"{len(cells)} cells, from {_said(min(cells))} to {_said(max(cells))}" if cells else "no cell yet")
            elif trace.type == "bar":
                lines.append(f"{trace.name}: " + ", ".join(f"{_words(str(y))} {_said(x)}" for x, y in zip(xs[:8], ys[:8], strict=True)))
            else:
                lines.append(f"{trace.name}: {_said(ys[0])} at {_said(xs[0])}, {_said(ys[-1])} at {_said(xs[-1])}")
    return ". ".join(line for line in lines if line)


def _column(values: Any) -> list[Any]:
    return [] if values is None else list(values)


class Parted(NamedTuple):
    """A chart whose title and foot are written beside it, where words wrap by themselves."""

    title: str
    plot: go.Figure
    source: str


PHONE = 360  # pixels


def parted(figure: go.Figure) -> Parted:
    """Take title and foot out of a chart, which keeps the height of its plot."""
    title, source = _words(figure.layout.title.text), figure.layout.meta["source"]
    plot = go.Figure(figure)
    plot.layout.meta = plot.layout.meta | {"width": PHONE}
    further = LINE * (figure.layout.xaxis.title.text.count("<br>") - 1)  # lines of the foot
    plot.layout.title, plot.layout.xaxis.title.text = {"pad": {"t": 0}, "text": ""}, _words(figure.layout.xaxis.title.text)
    plot.update_layout(height=plot.layout.height - plot.layout.margin.t - further + ABOVE, margin_b=plot.layout.margin.b - further)
    return Parted(title, _room(plot), source)


def _words(html: str | None) -> str:
    """Text without markup; of an axis title its first line, above the foot."""
    return re.sub(r"<[^>]+>", "", re.split(r"<br><span", (html or ""))[0].replace("<br>", " ")).strip()


def _said(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, (int, float, np.number)) else str(value)
