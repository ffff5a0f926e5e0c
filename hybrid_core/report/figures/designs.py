"""Charts of designs, computed from closed forms."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape, unescape
from typing import NamedTuple

import numpy as np

from hybrid_core.costs.memory import CONTEXTS, memory, room_for
from hybrid_core.costs.model import model_costs
from hybrid_core.design.spec import ArchSpec
from hybrid_core.mixers.base import Entry
from hybrid_core.mixers.registry import MIXERS
from hybrid_core.report import units
from hybrid_core.report.figures import style
from hybrid_core.speed.hardware import Hardware, catalogue
from hybrid_core.speed.roofline import predict
from hybrid_core.terms import total
from hybrid_core.workload import Workload


def cache_by_context(
    designs: Sequence[style.Named], workload: Workload, hardware: Hardware | None = None
) -> style.Figure:
    """Exact cache of one sequence against its length, on any device."""
    state = workload.state_dtype or "as the design has it"
    figure = style.blank(
        "Cache of one sequence against context",
        f"exact: tensor shapes and dtypes (keys and values {workload.kv_cache_dtype}, state {state})",
        "context length (tokens)",
        "cache (MiB)",
    )
    sizes = [
        model_costs(d.spec).cache_bytes(style.CONTEXTS, "exact", workload) / 2**20 for d in designs
    ]
    style.lines(figure, designs, sizes, "%{x:,} tokens: %{y:,.1f} MiB")
    return figure


def decode_by_context(
    designs: Sequence[style.Named], workload: Workload, hardware: Hardware
) -> style.Figure:
    """Predicted decode speed against context; a line ends where the device is full."""
    figure = style.blank(
        f"Predicted decode speed, batch {workload.batch_size}",
        f"predicted: {hardware.basis}; a line ends where its memory is full",
        "context length (tokens)",
        "tokens/s",
    )
    speeds = []
    for design in designs:
        speed = np.broadcast_to(
            predict(design.spec, workload, hardware, style.CONTEXTS).decode_tokens_per_s,
            style.CONTEXTS.shape,
        )
        used = np.broadcast_to(
            memory(design.spec, workload, style.CONTEXTS).total, style.CONTEXTS.shape
        )
        speeds.append(np.where(used <= hardware.usable_bytes, speed, np.nan))
    style.lines(figure, designs, speeds, "%{x:,} tokens: %{y:,.0f} tokens/s", log=False)
    figure["layout"]["yaxis"]["rangemode"] = "tozero"
    if absent := [
        design.label for design, speed in zip(designs, speeds, strict=True) if np.isnan(speed).all()
    ]:
        figure["layout"]["meta"]["source"] += (
            f". No line, since its weights do not fit: {', '.join(absent)}"
        )
    return figure


def _usable(hardware: Hardware) -> str:
    """What an engine uses of a device, in words."""
    return f"{units.n_bytes(hardware.usable_bytes)} that an engine uses of {hardware.name}"


SERVING = "exact: weights as stored, cache, activations of one chunk of the prefill"


ROW = 24  # pixels of a row of bars


Columns = Mapping[
    str, tuple[Sequence[float], Sequence[str]]
]  # values, and the colours of their rows


def _beside(
    figure: style.Figure, rows: Sequence[str], columns: Columns, unit: str, of: str
) -> None:
    """Bars in columns beside each other, all on one scale, each with its value; `of`: what a row
    is."""
    end = max(max(values) for values, _ in columns.values()) * (
        1 + 0.17 * len(columns)
    )  # with room for the last value's words
    gap, wide = 0.03, 1 / len(columns)
    axes = {}
    for i, (name, (values, colours)) in enumerate(columns.items()):
        axis = f"x{i + 1}" if i else "x"
        style.add(
            figure,
            "bar",
            x=list(values),
            y=list(rows),
            xaxis=axis,
            orientation="h",
            name=name,
            marker={"color": colours},
            text=[units.count(value) for value in values],
            textposition="outside",
            cliponaxis=False,
            hovertemplate=f"%{{y}}, {name}: %{{x:,.4g}} {unit}<extra></extra>",
        )
        axes[axis.replace("x", "xaxis")] = {
            "domain": [i * wide, (i + 1) * wide - gap],
            "range": [0, end],
            "side": "top",
            "anchor": "y",
            "title": {
                "text": escape(style.clipped(unescape(name), 56 // len(columns))),
                "standoff": 4,
                "font": {"size": 11},
            },
            "showticklabels": False,
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        }
    layout, high = figure["layout"], ROW + 10 * max(row.count("<br>") for row in rows)
    layout |= axes | {
        "height": 34 + high * len(rows),
        "showlegend": False,
        "margin": layout["margin"] | {"t": 28, "b": 6},
    }
    layout["meta"] |= {"unit": unit, "rows": of}
    layout["yaxis"] = {"autorange": "reversed", "fixedrange": True, "showgrid": False}


def memory_by_part(
    designs: Sequence[style.Named], workload: Workload, hardware: Hardware
) -> style.Figure:
    """Weights, cache and activations beside what the device has."""
    figure = style.blank(
        f"Memory at {units.length(workload.context_len)} tokens, batch {workload.batch_size} (GiB)",
        f"{SERVING}; {_usable(hardware)}",
        "",
        "",
    )
    used = [memory(d.spec, workload) for d in designs]
    colours = {
        "weights": "#56B4E9",
        "cache": "#E69F00",
        "activations": "#999999",
        "total": "#666666",
    }
    columns = {
        part: ([float(getattr(u, part)) / 2**30 for u in used], [colour] * len(used))
        for part, colour in colours.items()
    }
    _beside(
        figure,
        ["<br>".join(map(escape, textwrap.wrap(style.clipped(d.label, 40), 20))) for d in designs],
        columns,
        "GiB",
        "design",
    )
    device = hardware.usable_bytes / 2**30
    if device <= figure["layout"]["xaxis"]["range"][1]:
        style.vertical(figure, device, "#B00020", "x4")
        figure["layout"]["meta"]["source"] += " (dashed)"
    return figure


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
    "other": ("other products", "#BBBBBB"),
}
_SHOWN_AS = {
    **dict.fromkeys(("q", "k", "v"), "qkv"),
    **dict.fromkeys(("x_proj", "dt_proj"), "in_proj"),
    **dict.fromkeys(("router", "experts", "shared", "latent"), "ffn"),
}


def _shown(part: str) -> str:
    """Where a part is shown. A composite mixer names its own before those that it holds, e.g.
    `block qkv`."""
    last = part.rpartition(" ")[2].partition(".")[0]
    return last if last in PARTS else _SHOWN_AS.get(last, "other")


def _parts(spec: ArchSpec, context: int) -> dict[str, Counter[str]]:
    """FLOPs per token by part: of training (three forward passes) and of a decode step."""
    costs = model_costs(spec)
    forward, step = (
        Counter({"head": costs.head_flops(context)}),
        Counter({"head": costs.head_flops(1)}),
    )
    for layer, n in costs.distinct():
        for counted, terms in (
            (forward, layer.forward_flops(context)),
            (step, layer.decode_flops(context)),
        ):
            for term in terms:
                counted[_shown(term.name)] += int(n * term.flops)
    return {
        "training": Counter({part: 3 * value / context for part, value in forward.items()}),
        "decode": step,
    }


def flops_by_part(
    designs: Sequence[style.Named], workload: Workload, of: Sequence[str] = ("training", "decode")
) -> style.Figure:
    """FLOPs per token of training, of decoding, or of both, part by part; a column per design and
    kind."""
    context = workload.context_len
    figure = style.blank(
        f"Where the FLOPs go, GFLOPs per token {'' if len(of) > 1 else f'of {of[0]} '}at {units.length(context)}",
        "exact: every matrix product and scan, the vocabulary head included, which the paper's training FLOPs leave out"
        + ("; training is three times the forward pass" if "training" in of else ""),
        "",
        "",
    )
    counted = {design.label: _parts(design.spec, context) for design in designs}
    shown = {
        part: look
        for part, look in PARTS.items()
        if any(parts[what][part] for parts in counted.values() for what in of)
    }
    columns = {}
    for label, parts in counted.items():
        for what in of:
            name = (
                what
                if len(designs) == 1
                else escape(label)
                if len(of) == 1
                else f"{escape(label)}, {what}"
            )
            column = [*(parts[what][part] / 1e9 for part in shown), parts[what].total() / 1e9]
            columns[name] = (column, [*(colour for _, colour in shown.values()), "#666666"])
    _beside(
        figure,
        [*(name for name, _ in shown.values()), "total"],
        columns,
        "GFLOPs per token",
        "part",
    )
    return figure


def memory_by_context(
    designs: Sequence[style.Named], workload: Workload, hardware: Hardware
) -> style.Figure:
    """Memory of the whole workload against context, beside what the device has."""
    figure = style.blank(
        f"Memory of serving, batch {workload.batch_size}",
        f"{SERVING}; dashed: {_usable(hardware)}",
        "context length (tokens)",
        "memory (GiB)",
    )
    used = [
        np.broadcast_to(memory(d.spec, workload, style.CONTEXTS).total, style.CONTEXTS.shape)
        / 2**30
        for d in designs
    ]
    style.add(
        figure,
        "scatter",
        x=style.CONTEXTS[[0, -1]].tolist(),
        y=[hardware.usable_bytes / 2**30] * 2,
        mode="lines",
        name=hardware.name,
        line={"color": "#D00020", "width": 2, "dash": "dash"},
        showlegend=False,
    )
    style.lines(figure, designs, used, "%{x:,} tokens: %{y:,.2f} GiB")
    return figure


def _sizes() -> dict[int, str]:
    """What an engine uses of the known GPUs, in bytes, with their memory and names. GPUs of as many
    GiB stand together, by the least."""
    alike: dict[int, list[Hardware]] = {}
    for device in catalogue().values():
        if device.kind == "gpu":
            alike.setdefault(round(device.memory_bytes / 2**30), []).append(device)
    return {
        min(device.usable_bytes for device in alike[gib]): _size_label(gib, alike[gib])
        for gib in sorted(alike)
    }


def _size_label(gib: int, devices: Sequence[Hardware]) -> str:
    names = ", ".join(device.key.replace("_", " ").upper() for device in devices)
    return f"{gib} GiB: " + "<br>".join(textwrap.wrap(names, 24))


def _said_to_fit(context_len: int) -> str:
    if not context_len:
        return "weights do not fit"
    return units.length(context_len) + (" or more" if context_len == CONTEXTS[-1] else "")


def longest_context(
    designs: Sequence[style.Named], workload: Workload, hardware: Hardware | None = None
) -> style.Figure:
    """The longest context that each size of device memory has room for: weights and cache, as in
    decoding."""
    sizes = _sizes()
    figure = style.blank(
        f"The longest context that fits each accelerator, batch {workload.batch_size}",
        f"{SERVING}; up to 16M tokens, in what an engine uses of the memory",
        "longest context (tokens)",
        "",
        height=58 + (20 + 12 * len(designs)) * len(sizes),
    )
    for design, colour in zip(designs, style.cycle(len(designs)), strict=True):
        longest = room_for(design.spec, workload, list(sizes))
        style.add(
            figure,
            "bar",
            y=list(sizes.values()),
            x=[n or None for n in longest],
            text=[_said_to_fit(n) for n in longest],
            textposition="auto",
            name=escape(design.label),
            orientation="h",
            marker={"color": colour},
            hovertemplate="%{y}: %{x:,} tokens",
        )
    ticks = [2**k for k in range(10, 25, 2)]
    figure["layout"]["xaxis"] |= {
        "type": "log",
        "tickvals": ticks,
        "ticktext": [units.length(n) for n in ticks],
        "range": [3, 7.8],
    }
    figure["layout"]["yaxis"] |= {"autorange": "reversed", "tickfont": {"size": 10}}
    return figure


MAX_STACK = 1_300  # pixels of all layers of a deep stack


class Layer(NamedTuple):
    """A row of the stack's picture: its kind, its costs, its shares of the whole stack in
    percent."""

    kind: Entry
    params: int
    flops: float
    of_params: float
    of_flops: float

    @property
    def told(self) -> str:
        """The row in words."""
        return (
            f"{self.kind.label}, {units.count(self.params)} parameters ({self.of_params:.2f} %), {units.flops(self.flops)} "
            f"({self.of_flops:.2f} %)"
        )


def layers(spec: ArchSpec, workload: Workload) -> list[Layer]:
    """The stack's layers, first to last; FLOPs are of a forward pass over the workload's
    context."""
    costs = model_costs(spec)
    flops = [float(total(layer.forward_flops(workload.context_len))) for layer in costs.layers]
    params = [layer.params() for layer in costs.layers]
    all_flops, all_params = sum(flops), sum(params)
    return [
        Layer(layer.mixer.entry, p, f, 100 * p / all_params, 100 * f / all_flops)
        for layer, p, f in zip(spec.stack, params, flops, strict=True)
    ]


STACK_TITLE = "The stack: what each layer is, and its share"


def stack_source(workload: Workload) -> str:
    """What the shares of the stack's picture are."""
    return f"exact: parameters, and FLOPs of a forward pass over {units.length(workload.context_len)} tokens; both without embedding and head"


def stack(spec: ArchSpec, workload: Workload) -> style.Figure:
    """The layers, first on top, coloured by kind; beside each its share of the stack's parameters
    and FLOPs. A point's y is its layer."""
    figure = style.blank(STACK_TITLE, stack_source(workload), "", "")
    rows = layers(spec, workload)
    written = spec.n_layers <= 40  # words of more layers are too small to read, and slow to draw
    high = 0.85 if written else 1
    for kind in (mixer.entry for mixer in MIXERS):
        of_kind = [(i + 1, row) for i, row in enumerate(rows) if row.kind == kind]
        if not of_kind:
            continue
        style.add(
            figure,
            "bar",
            x=[1] * len(of_kind),
            y=[i for i, _ in of_kind],
            orientation="h",
            width=high,
            marker={"color": kind.colour},
            legendgroup=kind.name,
            text=[kind.label] * len(of_kind) if written else None,
            textposition="inside",
            insidetextanchor="middle",
            textfont={"color": "#000" if kind.light else "#fff"},
            name=f"{kind.label} ({len(of_kind)})",
            customdata=[row.told for _, row in of_kind],
            hovertemplate="layer %{y}: %{customdata}<extra></extra>",
        )
        for axis, what in (
            ("x2", "of_params"),
            ("x3", "of_flops"),
        ):  # all of a kind in one outline: bars one by one are slow to draw
            style.add(
                figure,
                "scatter",
                x=[
                    x
                    for _, row in of_kind
                    for x in (0, getattr(row, what), getattr(row, what), 0, None)
                ],
                y=[y for i, _ in of_kind for y in (*[i - high / 2] * 2, *[i + high / 2] * 2, None)],
                xaxis=axis,
                mode="none",
                fill="toself",
                fillcolor=kind.colour,
                hoverinfo="skip",
                legendgroup=kind.name,
                showlegend=False,
                name=f"{kind.label}, {what}",
            )
    shown = {"ticksuffix": " %", "rangemode": "tozero", "nticks": 3, "fixedrange": True}
    figure["layout"] |= {
        "xaxis": {
            "domain": [0, 0.44],
            "showticklabels": False,
            "showgrid": False,
            "fixedrange": True,
        },
        "xaxis2": {"domain": [0.48, 0.72], "title": {"text": "parameters", "standoff": 6}} | shown,
        "xaxis3": {"domain": [0.76, 1], "title": {"text": "FLOPs", "standoff": 6}} | shown,
        "yaxis": {
            "range": [spec.n_layers + 0.5, 0.5],
            "dtick": 1 if written else 10,
            "fixedrange": True,
            "showgrid": False,
        },
        "barmode": "overlay",
        "height": 58 + max(72, min(ROW * spec.n_layers, MAX_STACK)),
    }
    return figure


def beside_each_other(
    designs: Sequence[style.Named], workload: Workload, hardware: Hardware
) -> dict[str, style.Figure]:
    """What a comparison of designs shows, by a short name."""
    return {
        "cache": cache_by_context(designs, workload),
        "decode": decode_by_context(designs, workload, hardware),
        "memory-context": memory_by_context(designs, workload, hardware),
        "training-flops": flops_by_part(designs, workload, ["training"]),
        "decode-flops": flops_by_part(designs, workload, ["decode"]),
        "memory": memory_by_part(designs, workload, hardware),
    }
