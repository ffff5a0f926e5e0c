"""The picture of a stack: its layers, first on top, and the share of each in the whole."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hybrid_core.costs.model import model_costs
from hybrid_core.design.spec import ArchSpec
from hybrid_core.mixers.base import Entry
from hybrid_core.mixers.registry import MIXERS
from hybrid_core.report import units
from hybrid_core.report.figures import style
from hybrid_core.terms import total
from hybrid_core.workload import Workload

ROW = 24  # pixels per layer
MAX_STACK = 1_300  # pixels of all layers of a deep stack
MOST_WRITTEN = 40  # in deeper stacks text on the bars is too small to read, and slow to draw
STACK_TITLE = "The stack: what each layer is, and its share"


class Layer(NamedTuple):
    """A row of the picture: its kind, its costs, its shares of the whole stack in percent."""

    kind: Entry
    params: int
    flops: float
    of_params: float
    of_flops: float

    @property
    def told(self) -> str:
        """The row as text."""
        params = f"{units.count(self.params)} parameters ({self.of_params:.2f} %)"
        flops = f"{units.flops(self.flops)} ({self.of_flops:.2f} %)"
        return f"{self.kind.label}, {params}, {flops}"


def stack_layers(spec: ArchSpec, workload: Workload) -> list[Layer]:
    """The stack's layers, first to last; FLOPs are of a forward pass over the workload's
    context."""
    costs = model_costs(spec)
    all_flops = [float(total(layer.forward_flops(workload.context_len))) for layer in costs.layers]
    all_params = [layer.params() for layer in costs.layers]
    sum_flops = sum(all_flops)
    sum_params = sum(all_params)
    rows = []
    for layer, params, flops in zip(spec.stack, all_params, all_flops, strict=True):
        row = Layer(
            kind=layer.mixer.entry,
            params=params,
            flops=flops,
            of_params=100 * params / sum_params,
            of_flops=100 * flops / sum_flops,
        )
        rows.append(row)
    return rows


def stack_source(workload: Workload) -> str:
    """What the shares in the picture refer to."""
    forward = f"FLOPs of a forward pass over {units.length(workload.context_len)} tokens"
    return f"exact: parameters, and {forward}; both without embedding and head"


def stack_chart(spec: ArchSpec, workload: Workload) -> style.Figure:
    """The layers, first on top, coloured by kind. Next to each are its shares of the stack's
    parameters and FLOPs. A point's y is the number of its layer."""
    figure = style.blank(
        STACK_TITLE,
        stack_source(workload),
        "",
        "",
        shows=["layer_parameters", "layer_flops"],
    )
    rows = stack_layers(spec, workload)
    written = spec.n_layers <= MOST_WRITTEN
    high = 1.0
    if written:
        high = 0.85
    for mixer in MIXERS:
        kind = mixer.entry
        of_kind = [(i, row) for i, row in enumerate(rows, start=1) if row.kind == kind]
        if of_kind:
            _add_kind(figure, kind, of_kind, high, written)
    figure["layout"] |= _layout(spec.n_layers, written)
    return figure


Numbered = Sequence[tuple[int, Layer]]  # layers with their numbers, counted from 1


def _add_kind(
    figure: style.Figure,
    kind: Entry,
    of_kind: Numbered,
    high: float,
    written: bool,
) -> None:
    """All layers of a kind: a bar each, and their shares."""
    text = None
    if written:
        text = [kind.label] * len(of_kind)
    ink = "#fff"
    if kind.light:
        ink = "#000"
    numbers = [i for i, _ in of_kind]
    style.add(
        figure,
        "bar",
        x=[1] * len(of_kind),
        y=numbers,
        orientation="h",
        width=high,
        marker={"color": kind.colour},
        legendgroup=kind.name,
        text=text,
        textposition="inside",
        insidetextanchor="middle",
        textfont={"color": ink},
        name=f"{kind.label} ({len(of_kind)})",
        customdata=[row.told for _, row in of_kind],
        hovertemplate="layer %{y}: %{customdata}<extra></extra>",
    )
    for axis, what in (("x2", "of_params"), ("x3", "of_flops")):
        xs, ys = _outline(of_kind, what, high)
        style.add(
            figure,
            "scatter",
            x=xs,
            y=ys,
            xaxis=axis,
            mode="none",
            fill="toself",
            fillcolor=kind.colour,
            hoverinfo="skip",
            legendgroup=kind.name,
            showlegend=False,
            name=f"{kind.label}, {what}",
        )


def _outline(
    of_kind: Numbered, what: str, high: float
) -> tuple[list[float | None], list[float | None]]:
    """The corners of a kind's bars as one outline, separated by None. Plotly is slow to draw bars
    one by one."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for i, row in of_kind:
        share = getattr(row, what)
        top = i - high / 2
        bottom = i + high / 2
        xs += [0, share, share, 0, None]
        ys += [top, top, bottom, bottom, None]
    return xs, ys


def _layout(n_layers: int, written: bool) -> dict[str, Any]:
    shown = {
        "ticksuffix": " %",
        "rangemode": "tozero",
        "nticks": 3,
        "fixedrange": True,
    }
    dtick = 10
    if written:
        dtick = 1
    return {
        "xaxis": {
            "domain": [0, 0.44],
            "showticklabels": False,
            "showgrid": False,
            "fixedrange": True,
        },
        "xaxis2": {"domain": [0.48, 0.72], "title": {"text": "parameters", "standoff": 6}} | shown,
        "xaxis3": {"domain": [0.76, 1], "title": {"text": "FLOPs", "standoff": 6}} | shown,
        "yaxis": {
            "range": [n_layers + 0.5, 0.5],
            "dtick": dtick,
            "fixedrange": True,
            "showgrid": False,
        },
        "barmode": "overlay",
        "height": 58 + max(72, min(ROW * n_layers, MAX_STACK)),
    }
