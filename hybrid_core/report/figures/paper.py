"""Charts of the paper's tables, with stored runs added."""

from collections.abc import Sequence
from html import escape

import numpy as np

from hybrid_core.costs.model import model_costs
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines, throughput
from hybrid_core.report import units
from hybrid_core.report.figures import names, style
from hybrid_core.results.profile import Generation, LiveCache
from hybrid_core.runs.store import Run


def paper_throughput(runs: Sequence[Run] = ()) -> style.Figure:
    """Figure 3a: throughput of Table 2's designs against length, with the user's runs."""
    source = f"quoted: {baselines.cite('table13_throughput')}, one H200, batch 4, prompt 512"
    if runs:
        source += "; measured: your runs"
    figure = style.blank(
        "Generation speed against total length (Figure 3a)",
        source,
        "total length (tokens)",
        "tokens/s",
        height=345,
    )
    for name in presets.TABLE2:
        row = throughput.throughput(presets.get(name).spec)
        if row:
            _add_printed_speed(figure, _model(name), row)
    for run in runs:
        _add_measured_speed(figure, run)
    style.log_axis(figure, "y")
    style.length_axis(figure)
    return figure


def _model(preset: str) -> str:
    """The paper's model that a preset belongs to: `inter` for `inter-1to5-1b`."""
    return preset.split("-", maxsplit=1)[0]


def _add_printed_speed(
    figure: style.Figure,
    model: str,
    row: throughput.Throughput,
) -> None:
    style.add(
        figure,
        "scatter",
        x=list(row.totals),
        y=list(row.tokens_per_s),
        name=f"{style.MODEL_LABEL[model]} (paper)",
        line={"color": style.MODEL_COLOUR[model]},
        mode="lines+markers",
    )


def _add_measured_speed(figure: style.Figure, run: Run) -> None:
    found = run.part(Generation)
    if not found or not found.rows:
        return
    lengths = [row.total_len for row in found.rows]
    speeds = [row.tokens_per_s for row in found.rows]
    style.add(
        figure,
        "scatter",
        x=lengths,
        y=speeds,
        name=_name_of(run),
        line={"color": _colour_of(run), "dash": "dot"},
        mode="lines+markers",
        marker={"symbol": "diamond-open"},
    )


def _name_of(run: Run) -> str:
    return escape(f"{style.label(run)} on {run.device}")


def paper_cache(runs: Sequence[Run] = ()) -> style.Figure:
    """Figure 3b: cache of Table 2's designs against length, as printed, by the paper's formula, and
    in the user's runs."""
    printed_in = f"{baselines.cite('table09_1b')} and Table 12"
    source = f"lines: the paper's formula (Appendix C); circles: printed, {printed_in}"
    if runs:
        source += "; diamonds: your runs"
    figure = style.blank(
        "Cache of one sequence against context (Figure 3b)",
        source,
        "context length (tokens)",
        "cache (MiB)",
        height=345,
    )
    for name in presets.TABLE2:
        spec = presets.get(name).spec
        model = _model(name)
        _add_cache_formula(figure, model, spec)
        _add_printed_cache(figure, model, spec)
    for run in runs:
        _add_measured_cache(figure, run)
    style.log_axis(figure, "y")
    style.length_axis(figure)
    return figure


def _add_cache_formula(
    figure: style.Figure,
    model: str,
    spec: ArchSpec,
) -> None:
    lengths = np.array(list(throughput.TOTALS.values()))
    mib = model_costs(spec).cache_bytes(lengths, "paper") / 2**20
    ys = np.broadcast_to(mib, lengths.shape)
    style.add(
        figure,
        "scatter",
        x=lengths.tolist(),
        y=ys.tolist(),
        mode="lines",
        name=style.MODEL_LABEL[model],
        line={"color": style.MODEL_COLOUR[model]},
        legendgroup=model,
    )


def _add_printed_cache(
    figure: style.Figure,
    model: str,
    spec: ArchSpec,
) -> None:
    """The cells of Table 9, at 8K, and of Table 12."""
    at_8k = baselines.matching(spec, "table09_1b").iloc[0]
    longer = baselines.matching(spec, "table12_long_context")
    style.add(
        figure,
        "scatter",
        x=[8192, *map(int, longer["context_len"])],
        y=[float(at_8k["cache_mib"]), *map(float, longer["cache_mib"])],
        mode="markers",
        marker={"color": style.MODEL_COLOUR[model], "size": 9},
        legendgroup=model,
        showlegend=False,
        name=f"{style.MODEL_LABEL[model]}, printed",
    )


def _add_measured_cache(figure: style.Figure, run: Run) -> None:
    found = run.part(LiveCache)
    if not found or not found.rows:
        return
    contexts = [row.context_len for row in found.rows]
    mib = [row.live_bytes / 2**20 for row in found.rows]
    style.add(
        figure,
        "scatter",
        x=contexts,
        y=mib,
        name=f"{escape(style.label(run))}, measured",
        mode="markers",
        marker={
            "color": _colour_of(run),
            "symbol": "diamond-open",
            "size": 10,
        },
    )


def quality_throughput(total_len: int = 8192, runs: Sequence[Run] = ()) -> style.Figure:
    """Figure 1b: loss (Table 9, 60B tokens) against throughput (Table 13) at one total length."""
    what = f"Quality against speed, 1B, {units.length(total_len)} total (Figure 1b)"
    speed = "speed, Table 13, one H200, batch 4, from 512 tokens to the total"
    source = f"quoted: NLL at 60B tokens, {baselines.cite('table09_1b')}; {speed}"
    if runs:
        source += "; diamonds: speed of your runs, with the paper's NLL"
    figure = style.blank(
        f"{what}: up and right is better",
        source,
        "generation speed (tokens/s, all 4 sequences)",
        "validation NLL on DCLM (nats per token, lower is better)",
        height=385,
    )
    rows = throughput.quality_and_speed(total_len)
    for model, group in rows.groupby("model", sort=False):
        style.add(
            figure,
            "scatter",
            x=group["tokens_per_s"].tolist(),
            y=group["nll_dclm"].tolist(),
            text=group["layers"].tolist(),
            mode="markers+text",
            name=style.MODEL_LABEL[str(model)],
            marker={"color": style.MODEL_COLOUR[str(model)], "size": 11},
            hovertemplate="%{text}: %{x:,.0f} tokens/s, NLL %{y:.3f}",
        )
    for run in runs:
        _add_run(figure, run, total_len)
    style.log_axis(figure, "x")
    figure["layout"]["yaxis"]["autorange"] = "reversed"
    _name_points(figure)
    return figure


def _add_run(figure: style.Figure, run: Run, total_len: int) -> None:
    """The speed that a run measured at a total length, if the paper printed its design's loss."""
    found = run.part(Generation)
    if not found or not baselines.is_papers(run.spec):
        return
    speeds = [row.tokens_per_s for row in found.rows if row.total_len == total_len]
    printed = baselines.matching(run.spec, "table09_1b")
    if not speeds or printed.empty:
        return
    style.add(
        figure,
        "scatter",
        x=speeds,
        y=[float(printed.iloc[0]["nll_dclm"])],
        mode="markers",
        name=_name_of(run),
        marker={
            "color": _colour_of(run),
            "symbol": "diamond-open",
            "size": 13,
            "line": {"width": 2},
        },
    )


def _name_points(figure: style.Figure) -> None:
    """Put each text on the side of its point where it covers no other text. The paper's points lie
    close together."""
    with_text = [trace for trace in figure["data"] if "text" in trace]
    without = [trace for trace in figure["data"] if "text" not in trace]
    log_x = figure["layout"]["xaxis"].get("type") == "log"
    lines = style.in_pixels([*with_text, *without], log_x=log_x, log_y=False)
    points = np.concatenate(lines)
    points[:, 1] = style.ROOM[1] - points[:, 1]  # the axis points down
    widths: list[float] = []
    for trace in with_text:
        widths += [names.width(text, sign=0) for text in trace["text"]]
    spots = iter(names.place(list(points[:, None]), widths, style.ROOM))
    for trace in with_text:
        trace["textposition"] = [next(spots).textposition for _ in trace["text"]]


def _colour_of(run: Run) -> str:
    """The colour that the paper's figures give the family of a run's design."""
    letters = set(run.spec.pattern)
    if "H" in letters:
        return style.MODEL_COLOUR["intra"]
    if letters == {"A"}:
        return style.MODEL_COLOUR["llama"]
    if "S" in letters:
        return style.MODEL_COLOUR["swa"]
    if "A" in letters:
        return style.MODEL_COLOUR["inter"]
    return style.MODEL_COLOUR["mamba"]
