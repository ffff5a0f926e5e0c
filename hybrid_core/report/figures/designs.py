"""Charts of designs, computed from closed forms."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from hybrid_core.costs.memory import memory, room_for
from hybrid_core.costs.model import model_costs
from hybrid_core.costs.roofline import predict
from hybrid_core.hardware import Hardware, catalogue
from hybrid_core.registry import KINDS, kind_of
from hybrid_core.report import units
from hybrid_core.report.figures import style
from hybrid_core.spec import ArchSpec
from hybrid_core.workload import Workload


def cache_by_context(designs: Sequence[style.Named], workload: Workload, hardware: Hardware | None = None) -> go.Figure:
    """Exact cache of one sequence against its length, on any device."""
    figure = style.blank(
        "Cache of one sequence against context",
        f"exact: tensor shapes and dtypes (keys and values {workload.kv_cache_dtype}, state {workload.state_dtype})",
        "context length (tokens)",
        "cache (MiB)",
    )
    sizes = [model_costs(d.spec).cache_bytes(style.CONTEXTS, "exact", workload) / 2**20 for d in designs]
    style.lines(figure, designs, sizes, "%{x:,} tokens: %{y:,.1f} MiB")
    return style.room(figure)


def decode_by_context(designs: Sequence[style.Named], workload: Workload, hardware: Hardware) -> go.Figure:
    """Predicted decode speed against context; a line ends where the device is full."""
    figure = style.blank(
        f"Predicted decode speed, batch {workload.batch_size}",
        f"predicted: {hardware.basis}; a line ends where its memory is full",
        "context length (tokens)",
        "tokens/s",
    )
    speeds = []
    for design in designs:
        speed = np.broadcast_to(predict(design.spec, workload, hardware, style.CONTEXTS).decode_tokens_per_s, style.CONTEXTS.shape)
        used = _serving_bytes(design.spec, workload)
        speeds.append(np.where(used <= hardware.memory_bytes, speed, np.nan))
    style.lines(figure, designs, speeds, "%{x:,} tokens: %{y:,.0f} tokens/s", log=False)
    figure.update_yaxes(rangemode="tozero")
    return style.room(figure)


def _serving_bytes(spec: ArchSpec, workload: Workload) -> np.ndarray:
    """Weights and cache at each context: what decoding must hold."""
    used = memory(spec, workload, style.CONTEXTS)
    return np.broadcast_to(used.weights + used.cache, style.CONTEXTS.shape)


def memory_by_part(designs: Sequence[style.Named], workload: Workload, hardware: Hardware) -> go.Figure:
    """Weights, cache and activations beside what the device has."""
    figure = style.blank(
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
    return style.room(figure)


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


def flops_by_part(designs: Sequence[style.Named], workload: Workload) -> go.Figure:
    """FLOPs per token of training and of decoding, part by part."""
    context = workload.context_len
    figure = style.blank(
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
    return style.room(figure)


def memory_by_context(designs: Sequence[style.Named], workload: Workload, hardware: Hardware) -> go.Figure:
    """Memory of the whole workload against context, beside what the device has."""
    figure = style.blank(
        f"Memory against context, batch {workload.batch_size}",
        f"exact: weights, cache, activations of the prefill (eager); dashed: {hardware.name}, {units.n_bytes(hardware.memory_bytes)}",
        "context length (tokens)",
        "memory (GiB)",
    )
    used = [np.broadcast_to(memory(d.spec, workload, style.CONTEXTS).total, style.CONTEXTS.shape) / 2**30 for d in designs]
    style.lines(figure, designs, used, "%{x:,} tokens: %{y:,.2f} GiB")
    figure.add_scatter(
        x=style.CONTEXTS[[0, -1]],
        y=[hardware.memory_bytes / 2**30] * 2,
        mode="lines",
        name=hardware.name,
        line={"color": "#D00020", "width": 2, "dash": "dash"},
        showlegend=False,
    )
    return style.room(figure)


def _sizes() -> dict[int, str]:
    """Bytes of memory of the known GPUs, with the names of those that have as much."""
    found: dict[int, list[str]] = {}
    for device in catalogue().values():
        if device.kind == "gpu":
            found.setdefault(device.memory_bytes, []).append(device.key.replace("_", " ").upper())
    return {size: f"{size / 2**30:.0f} GiB: " + "<br>".join(textwrap.wrap(", ".join(found[size]), 24)) for size in sorted(found)}


def longest_context(designs: Sequence[style.Named], workload: Workload, hardware: Hardware | None = None) -> go.Figure:
    """The longest context that each size of device memory has room for: weights and cache, as in decoding."""
    sizes = _sizes()
    figure = style.blank(
        f"Where each accelerator runs out, batch {workload.batch_size}",
        "exact: the longest context (up to 16M) whose weights and cache fit, as in decoding; activations of a long prompt come on top",
        "longest context (tokens)",
        "",
        height=110 + (20 + 12 * len(designs)) * len(sizes),
    )
    for design, colour in zip(designs, style.cycle(len(designs)), strict=True):
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
    return style.room(figure)


ROW, MAX_STACK = 24, 1_300  # pixels of a layer, and of all layers of a deep stack


def stack(spec: ArchSpec, workload: Workload) -> go.Figure:
    """The layers, first on top, coloured by kind; beside each its share of the stack's parameters and FLOPs. A point's y is its layer."""
    figure = style.blank(
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
    return style.room(figure)
