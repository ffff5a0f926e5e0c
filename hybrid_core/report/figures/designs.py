"""Charts of designs, computed from closed forms."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape, unescape
from typing import Any, NamedTuple

import numpy as np

from hybrid_core.costs.memory import CONTEXTS, memory, room_for
from hybrid_core.costs.model import model_costs
from hybrid_core.design.spec import ArchSpec
from hybrid_core.report import units
from hybrid_core.report.figures import style
from hybrid_core.speed.hardware import Hardware, catalogue
from hybrid_core.speed.roofline import predict
from hybrid_core.terms import Num
from hybrid_core.workload import Workload


def cache_by_context(
    designs: Sequence[style.Named], workload: Workload, hardware: Hardware | None = None
) -> style.Figure:
    """Exact cache of one sequence against its length, on any device."""
    state = workload.state_dtype or "as in the design"
    dtypes = f"keys and values {workload.kv_cache_dtype}, state {state}"
    figure = style.blank(
        "Cache of one sequence against context",
        f"exact: tensor shapes and dtypes ({dtypes})",
        "context length (tokens)",
        "cache (MiB)",
        shows=["cache"],
    )
    sizes = []
    for design in designs:
        n_bytes = model_costs(design.spec).cache_bytes(
            style.CONTEXTS,
            "exact",
            workload,
        )
        sizes.append(n_bytes / 2**20)
    style.lines(figure, designs, sizes, "%{x:,} tokens: %{y:,.1f} MiB")
    return figure


def decode_by_context(
    designs: Sequence[style.Named], workload: Workload, hardware: Hardware
) -> style.Figure:
    """Predicted decode speed against context. A line ends where the device is full."""
    figure = style.blank(
        f"Predicted decode speed, batch {workload.batch_size}",
        f"predicted: {hardware.basis}; a line ends where its memory is full",
        "context length (tokens)",
        "tokens/s",
        shows=["decode_ceiling"],
    )
    speeds = []
    absent = []
    for design in designs:
        predicted = predict(design.spec, workload, hardware, style.CONTEXTS)
        fits = _memory(design, workload) <= hardware.usable_bytes
        speed = np.where(fits, predicted.decode_tokens_per_s, np.nan)
        speeds.append(speed)
        if np.isnan(speed).all():
            absent.append(design.label)
    hover = "%{x:,} tokens: %{y:,.0f} tokens/s"
    style.lines(figure, designs, speeds, hover, log=False)
    figure["layout"]["yaxis"]["rangemode"] = "tozero"
    if absent:
        named = ", ".join(absent)
        figure["layout"]["meta"]["source"] += f". Not shown, weights do not fit: {named}"
    return figure


def _memory(design: style.Named, workload: Workload) -> Num:
    """Serving memory in bytes at each context of a chart."""
    used = memory(design.spec, workload, style.CONTEXTS).total
    return np.broadcast_to(used, style.CONTEXTS.shape)


def _usable(hardware: Hardware) -> str:
    """A phrase for how much of a device's memory an engine can use."""
    return f"{units.n_bytes(hardware.usable_bytes)} of {hardware.name}, usable by an engine"


SERVING = "exact: weights as stored, cache, activations of one chunk of the prefill"
ROW = 24  # pixels per row of bars
ROOM_FOR_TEXT = 0.17  # after the longest bar, as a share of its length, per column


class Column(NamedTuple):
    """A column of bars: the values of its rows, and their colours."""

    values: Sequence[float]
    colours: Sequence[str]


def _beside(
    figure: style.Figure,
    rows: Sequence[str],
    columns: Mapping[str, Column],
    unit: str,
    of: str,
) -> None:
    """Columns of bars side by side on one scale, each bar with its value. `columns`: by name; `of`:
    what a row stands for."""
    largest = max(max(column.values) for column in columns.values())
    end = largest * (1 + ROOM_FOR_TEXT * len(columns))
    layout = figure["layout"]
    for i, (name, column) in enumerate(columns.items()):
        number = ""
        if i:
            number = str(i + 1)
        style.add(
            figure,
            "bar",
            x=list(column.values),
            y=list(rows),
            xaxis=f"x{number}",
            orientation="h",
            name=name,
            marker={"color": column.colours},
            text=list(map(units.count, column.values)),
            textposition="outside",
            cliponaxis=False,
            hovertemplate=f"%{{y}}, {name}: %{{x:,.4g}} {unit}<extra></extra>",
        )
        layout[f"xaxis{number}"] = _column_axis(name, i, len(columns), end)
    most_lines = max(row.count("<br>") for row in rows)
    row_height = ROW + 10 * most_lines
    layout |= {
        "height": 34 + row_height * len(rows),
        "showlegend": False,
    }
    layout["margin"] |= {"t": 28, "b": 6}
    layout["meta"] |= {"unit": unit, "rows": of}
    layout["yaxis"] = {
        "autorange": "reversed",
        "fixedrange": True,
        "showgrid": False,
    }


GAP = 0.03  # between columns, as a share of the chart's width


def _column_axis(
    name: str,
    i: int,
    n_columns: int,
    end: float,
) -> dict[str, Any]:
    """The axis of column `i`: its position, and its name on top."""
    width = 1 / n_columns
    left = i * width
    most_letters = 56 // n_columns
    text = escape(style.clipped(unescape(name), most_letters))
    return {
        "domain": [left, left + width - GAP],
        "range": [0, end],
        "side": "top",
        "anchor": "y",
        "title": {"text": text, "standoff": 4, "font": {"size": 11}},
        "showticklabels": False,
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,
    }


MEMORY_COLOURS = {
    "weights": "#56B4E9",
    "cache": "#E69F00",
    "activations": "#999999",
    "total": "#666666",
}


def memory_by_part(
    designs: Sequence[style.Named], workload: Workload, hardware: Hardware
) -> style.Figure:
    """Weights, cache and activations against the memory of the device."""
    figure = style.blank(
        f"Memory at {units.length(workload.context_len)} tokens, batch {workload.batch_size} (GiB)",
        f"{SERVING}; {_usable(hardware)}",
        "",
        "",
        shows=["memory"],
    )
    used = [memory(design.spec, workload) for design in designs]
    columns = {}
    for part, colour in MEMORY_COLOURS.items():
        gib = [float(getattr(one, part)) / 2**30 for one in used]
        columns[part] = Column(gib, [colour] * len(used))
    _beside(
        figure,
        [_wrapped(design.label) for design in designs],
        columns,
        "GiB",
        "design",
    )
    device = hardware.usable_bytes / 2**30
    if device <= figure["layout"]["xaxis"]["range"][1]:
        style.vertical(figure, device, "#B00020", "x4")
        figure["layout"]["meta"]["source"] += " (dashed)"
    return figure


def _wrapped(label: str) -> str:
    """A design's name next to its bars, on as many lines as it needs."""
    lines = textwrap.wrap(style.clipped(label, 40), 20)
    return "<br>".join(map(escape, lines))


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
    """The row in which a part is shown. A mixer that contains others puts its name before their
    parts, e.g. `block qkv`."""
    _, _, own = part.rpartition(" ")
    last, _, _ = own.partition(".")
    if last in PARTS:
        return last
    return _SHOWN_AS.get(last, "other")


def _parts(spec: ArchSpec, context: int) -> dict[str, Counter[str]]:
    """FLOPs per token by part: for training (three forward passes) and for a decode step."""
    costs = model_costs(spec)
    forward = Counter({"head": int(costs.head_flops(context))})
    step = Counter({"head": int(costs.head_flops(1))})
    for layer, n_layers in costs.distinct():
        for term in layer.forward_flops(context):
            forward[_shown(term.name)] += int(n_layers * term.flops)
        for term in layer.decode_flops(context):
            step[_shown(term.name)] += int(n_layers * term.flops)
    of_training = {part: 3 * flops / context for part, flops in forward.items()}
    return {"training": Counter(of_training), "decode": step}


def flops_by_part(
    designs: Sequence[style.Named],
    workload: Workload,
    of: Sequence[str] = ("training", "decode"),
) -> style.Figure:
    """FLOPs per token by part, for training, for decoding, or for both: one column per design and
    kind."""
    context = workload.context_len
    what_for = ""
    if len(of) == 1:
        what_for = f"of {of[0]} "
    source = (
        "exact: every matrix product and scan, the vocabulary head included, which the paper's "
        "training FLOPs leave out"
    )
    if "training" in of:
        source += "; training is three times the forward pass"
    figure = style.blank(
        f"Where the FLOPs go, GFLOPs per token {what_for}at {units.length(context)}",
        source,
        "",
        "",
        shows=[f"{what}_flops" for what in of],
    )
    counted = {design.label: _parts(design.spec, context) for design in designs}
    shown = [part for part in PARTS if _is_in_any(part, of, counted.values())]
    rows = []
    colours = []
    for part in shown:
        row, colour = PARTS[part]
        rows.append(row)
        colours.append(colour)
    rows.append("total")
    colours.append("#666666")
    columns = {}
    for label, kinds in counted.items():
        for what in of:
            parts = kinds[what]
            flops = [*(parts[part] for part in shown), parts.total()]
            gflops = [n / 1e9 for n in flops]
            name = _column_name(label, what, len(designs), len(of))
            columns[name] = Column(gflops, colours)
    _beside(figure, rows, columns, "GFLOPs per token", "part")
    return figure


def _is_in_any(
    part: str,
    of: Sequence[str],
    designs: Iterable[dict[str, Counter[str]]],
) -> bool:
    """Whether a part costs anything in any of the designs."""
    return any(kinds[what][part] for kinds in designs for what in of)


def _column_name(
    label: str,
    what: str,
    n_designs: int,
    n_kinds: int,
) -> str:
    """The name of a column: its kind, its design, or both, whichever tells the columns apart."""
    if n_designs == 1:
        return what
    if n_kinds == 1:
        return escape(label)
    return f"{escape(label)}, {what}"


def memory_by_context(
    designs: Sequence[style.Named], workload: Workload, hardware: Hardware
) -> style.Figure:
    """Memory of the whole workload against context, with the memory of the device."""
    figure = style.blank(
        f"Memory of serving, batch {workload.batch_size}",
        f"{SERVING}; dashed: {_usable(hardware)}",
        "context length (tokens)",
        "memory (GiB)",
        shows=["memory"],
    )
    used = [_memory(design, workload) / 2**30 for design in designs]
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
    """Bytes that an engine can use -> memory and names of the known GPUs. GPUs with the same GiB
    share a row, at the least that an engine can use of them."""
    alike: dict[int, list[Hardware]] = {}
    for device in catalogue().values():
        if device.kind == "gpu":
            gib = round(device.memory_bytes / 2**30)
            alike.setdefault(gib, []).append(device)
    sizes = {}
    for gib, devices in sorted(alike.items()):
        least = min(device.usable_bytes for device in devices)
        sizes[least] = _size_label(gib, devices)
    return sizes


def _size_label(gib: int, devices: Sequence[Hardware]) -> str:
    keys = [device.key.replace("_", " ") for device in devices]
    names = ", ".join(keys).upper()
    lines = textwrap.wrap(names, 24)
    return f"{gib} GiB: " + "<br>".join(lines)


def _said_to_fit(context_len: int) -> str:
    if not context_len:
        return "weights do not fit"
    if context_len == CONTEXTS[-1]:
        return f"{units.length(context_len)} or more"
    return units.length(context_len)


def longest_context(
    designs: Sequence[style.Named],
    workload: Workload,
    hardware: Hardware | None = None,
) -> style.Figure:
    """The longest context at which weights and cache fit each size of device memory, as in
    decoding."""
    sizes = _sizes()
    row_height = 20 + 12 * len(designs)
    figure = style.blank(
        f"The longest context that fits each accelerator, batch {workload.batch_size}",
        f"{SERVING}; up to 16M tokens, in the memory that an engine can use",
        "longest context (tokens)",
        "",
        shows=["memory"],
        height=58 + row_height * len(sizes),
    )
    colours = style.cycle(len(designs))
    for design, colour in zip(designs, colours, strict=True):
        longest = room_for(design.spec, workload, list(sizes))
        drawn = [context_len or None for context_len in longest]
        style.add(
            figure,
            "bar",
            y=list(sizes.values()),
            x=drawn,
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
    figure["layout"]["yaxis"] |= {
        "autorange": "reversed",
        "tickfont": {"size": 10},
    }
    return figure


def beside_each_other(
    designs: Sequence[style.Named], workload: Workload, hardware: Hardware
) -> dict[str, style.Figure]:
    """The charts of a comparison of designs, by a short name."""
    return {
        "cache": cache_by_context(designs, workload),
        "decode": decode_by_context(designs, workload, hardware),
        "memory-context": memory_by_context(designs, workload, hardware),
        "training-flops": flops_by_part(designs, workload, ["training"]),
        "decode-flops": flops_by_part(designs, workload, ["decode"]),
        "memory": memory_by_part(designs, workload, hardware),
    }
