"""What changes the loss in the paper: one chart per question, from its tables. All losses are
quoted, on DCLM, in nats per token."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from hybrid_core.evidence import baselines
from hybrid_core.report import units
from hybrid_core.report.figures import style

NLL = "validation NLL on DCLM (nats per token)"
ROW = 19  # pixels per row of dots
MODULES = {
    "T/M": style.MODEL_COLOUR["intra"],
    "T/T": style.MODEL_COLOUR["llama"],
    "M/M": style.MODEL_COLOUR["mamba"],
}
PRINTED = {"sep": "separate", "conc": "concat"}  # the paper's abbreviations


def _ratio(scale: str) -> style.Figure:
    """Loss against the share of attention layers or intra-hybrid blocks: Tables 9 and 10, 60B
    tokens."""
    name = {"1B": "table09_1b", "350M": "table10_350m"}[scale]
    figure = style.blank(
        f"Loss against the share of attention or intra-hybrid layers, {scale}, 60B tokens",
        f"quoted: {baselines.cite(name)}; the other layers are Mamba, or windows for SWA",
        "attention or intra-hybrid layers (% of all)",
        NLL,
        height=345,
    )
    rows = baselines.table(name).query("budget == 'data'")
    with_attention = rows["n_attn"] + rows["n_hyb"]
    n_layers = rows[baselines.COUNTS].sum(axis=1)
    rows = rows.assign(share=100 * with_attention / n_layers)
    rows = rows.sort_values("share")
    for model, group in rows.groupby("model", sort=False):
        _line(
            figure,
            str(model),
            group["share"],
            group["nll_dclm"],
            "%{x:.0f} % of the layers: NLL %{y:.3f}",
        )
    return figure


PATTERNS = ["front", "middle", "end", "single", "cluster", "scatter", "sandwich"]


def _of_scale(rows: pd.DataFrame, scale: str) -> pd.DataFrame:
    """The rows of one scale. Tables without scales hold 1B models."""
    if "scale" in rows:
        return rows[rows["scale"] == scale]
    if scale == "1B":
        return rows
    return rows[:0]


def _position(scale: str) -> style.Figure:
    """Loss by position of the attention layers: Tables 11, 17 and 21."""
    sources = {
        "inter": "table17_inter_position",
        "intra": "table21_intra_position",
        "swa": "table11_swa_position",
    }
    cited = baselines.cite("table11_swa_position")
    cited = cited.replace("Table 11", "Tables 11, 17 and 21")
    figure = style.blank(
        f"Loss by position of the attention layers, {scale}, 60B tokens",
        f"quoted: {cited}; layer numbers in brackets",
        NLL,
        "",
    )
    for model, name in sources.items():
        rows = _of_scale(baselines.table(name), scale)
        rows = rows[rows["pattern"].isin(PATTERNS)]
        indices = "attn_indices"
        if model == "intra":
            indices = "intra_indices"
        where = rows[indices]
        columns = zip(
            rows["ratio"],
            rows["pattern"],
            where,
            strict=True,
        )
        labels = [f"{model} {ratio}, {pattern} ({at})" for ratio, pattern, at in columns]
        _dots(
            figure,
            style.MODEL_LABEL[model],
            style.MODEL_COLOUR[model],
            labels,
            rows["nll_dclm"],
        )
    return _rows(figure)


def _intra_variants(scale: str) -> style.Figure:
    """Loss of every block that the paper tried, the best on top: Tables 18 and 19."""
    figure = style.blank(
        f"Loss of every variant of the block, {scale}, 60B tokens",
        f"quoted: {baselines.cite('table18_19_intra_variants')}; T attention, M Mamba; "
        "norm, scalar, fusion, value, output projection",
        NLL,
        "",
    )
    rows = (
        baselines.table("table18_19_intra_variants")
        .query("scale == @scale")
        .dropna(subset=["module"])
        .sort_values("nll_dclm")
    )
    axes = rows[["norm", "scalar", "fusion", "value", "out"]]
    axes = axes.fillna("none").replace(PRINTED)
    labels = rows["module"] + ": " + axes.agg(", ".join, axis=1)
    for module, colour in MODULES.items():
        own = rows["module"] == module
        _dots(
            figure,
            module,
            colour,
            labels[own].tolist(),
            rows["nll_dclm"][own],
        )
    return _rows(figure, order=labels.tolist())


def _long_context(scale: str) -> style.Figure:
    """Loss of models trained at 16K and 32K: Table 12."""
    figure = style.blank(
        f"Loss of models trained at long contexts, {scale}",
        f"quoted: {baselines.cite('table12_long_context')}; equal training FLOPs, as printed",
        "training context (tokens)",
        NLL,
        height=345,
    )
    rows = baselines.table("table12_long_context").query("scale == @scale")
    for model, group in rows.groupby("model", sort=False):
        _line(
            figure,
            str(model),
            map(units.length, group["context_len"]),
            group["nll_dclm"],
            "%{x}: NLL %{y:.3f}",
        )
    figure["layout"]["xaxis"]["type"] = "category"
    return figure


def _mixture_of_experts(scale: str) -> style.Figure:
    """Loss with one feed-forward and with one of eight experts: Table 4."""
    figure = style.blank(
        f"Loss without and with a mixture of experts, {scale}, 60B tokens",
        f"quoted: {baselines.cite('table04_moe')}; 8 routed experts, one chosen, and a shared one",
        NLL,
        "",
    )
    rows = baselines.table("table04_moe").query("scale == @scale")
    dense = rows[rows["experts"].isna()]
    experts = rows[rows["experts"].notna()]
    for name, colour, own in (
        ("one feed-forward", "#808080", dense),
        ("experts", "#009E73", experts),
    ):
        labels = [style.MODEL_LABEL[model] for model in own["model"]]
        _dots(
            figure,
            name,
            colour,
            labels,
            own["nll_dclm"],
        )
    return _rows(figure)


def _scaling() -> style.Figure:
    """Loss of the best of four sizes at each budget of training FLOPs: Table 14."""
    figure = style.blank(
        "Loss against training FLOPs, the best of 100M to 3B at each budget",
        f"quoted: {baselines.cite('table14_15_scaling')}; hover for the size",
        "training FLOPs",
        NLL,
        height=345,
    )
    rows = baselines.table("table14_15_scaling")
    of_budget = rows.groupby(["model", "train_flops"], sort=False)
    best = rows.loc[of_budget["nll_dclm"].idxmin()].sort_values("train_flops")
    for model in style.MODEL_LABEL:
        group = best[best["model"] == model]
        if not group.empty:
            _line(
                figure,
                model,
                group["train_flops"],
                group["nll_dclm"],
                "%{text}: NLL %{y:.3f}",
                text=group["scale"].tolist(),
            )
    budgets = sorted(set(best["train_flops"]))
    figure["layout"]["xaxis"] |= {
        "type": "log",
        "tickvals": budgets,
        "ticktext": [f"{budget:.0e}".replace("e+", "e") for budget in budgets],
    }
    return figure


class Question(NamedTuple):
    """A chart, and the scales for which the paper has the data."""

    title: str
    draw: Any
    scales: tuple[str, ...] = ()


QUESTIONS = (
    Question("Ratio", _ratio, ("1B", "350M")),
    Question("Position", _position, ("1B", "350M")),
    Question("Intra block", _intra_variants, ("1B", "350M")),
    Question("Long context", _long_context, ("1B",)),
    Question("Experts", _mixture_of_experts, ("1B",)),
    Question("Scaling", _scaling),
)


def _line(
    figure: style.Figure,
    model: str,
    xs: Iterable[Any],
    ys: Iterable[float],
    hover: str,
    **trace: Any,
) -> None:
    style.add(
        figure,
        "scatter",
        x=list(xs),
        y=list(ys),
        name=style.MODEL_LABEL[model],
        mode="lines+markers",
        line={"color": style.MODEL_COLOUR[model], "width": 2.5},
        marker={"size": 9},
        hovertemplate=hover,
        **trace,
    )


def _dots(
    figure: style.Figure,
    name: str,
    colour: str,
    labels: list[str],
    losses: pd.Series,
) -> None:
    if labels:
        marker = {"color": colour, "size": 10}
        hover = "%{y}: NLL %{x:.3f}"
        style.add(
            figure,
            "scatter",
            x=losses.tolist(),
            y=labels,
            name=name,
            mode="markers",
            marker=marker,
            hovertemplate=hover,
        )


def _rows(figure: style.Figure, order: list[str] | None = None) -> style.Figure:
    """One row per label, the first on top."""
    labels = order
    if labels is None:
        seen: dict[str, None] = {}
        for trace in figure["data"]:
            seen |= dict.fromkeys(trace["y"])
        labels = list(seen)
    figure["layout"] |= {"height": 70 + ROW * len(labels)}
    figure["layout"]["yaxis"] = {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": labels[::-1],
        "range": [-0.7, len(labels) - 0.3],
        "tickfont": {"size": 11},
    }
    return figure
