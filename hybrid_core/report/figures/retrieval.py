"""Charts of retrieval runs: the map, how it was learnt, the other probes."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple, TypeVar

from hybrid_core.report.figures import style
from hybrid_core.report.retrieval import learnt, probe_learnt
from hybrid_core.results.probes import Copying, LossByPosition, Recall
from hybrid_core.results.retrieval import Cell, Map, Training
from hybrid_core.runs.store import Run

# Orange to blue, which colour-blind people can tell apart. Every colour is light enough for black
# figures.
RECALLED = [
    [0.0, "#E66101"],
    [0.25, "#FDB863"],
    [0.5, "#F7F7F7"],
    [0.75, "#92C5DE"],
    [1.0, "#4393C3"],
]
# Greys, so that the map is not taken for a finding, and light enough for black figures.
NOT_LEARNT = [[0, "#F4F4F4"], [1, "#B4B4B4"]]
SCALE = {
    "tickformat": ".0%",
    "thickness": 12,
    "title": {"text": "recalled", "side": "right"},
}
SHARES = {"tickformat": ".0%", "range": [-0.03, 1.03]}


def retrieval_map(run: Run, small: bool = False) -> style.Figure:
    """Needles recalled by depth and context. All designs share one colour scale; the map of a proxy
    that has not learnt is grey.

    Cells without trials stay empty. `small`: without a colour bar."""
    found = run.part(Map) or Map()
    title = "needles recalled, not learnt"
    colours = NOT_LEARNT
    if learnt(run):
        title = "needles recalled"
        colours = RECALLED
    height = 400
    if small:
        height = 300
    figure = style.blank(
        f"{style.label(run)}: {title}",
        _map_source(found),
        "context (tokens)",
        "depth of the needle",
        height=height,
        shows=["needles_recalled"],
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
    figure["layout"]["yaxis"] |= {
        "type": "category",
        "autorange": "reversed",
        "showgrid": False,
    }
    if found.trained_len in found.lengths:
        style.vertical(figure, found.lengths.index(found.trained_len) + 0.5)
    return figure


def _map_source(found: Map) -> str:
    """The note below a map."""
    source = f"measured: % of {found.trials} trials, whole values; empty: not tested"
    if found.trained_len in found.lengths:
        source += "; dashed: trained length"
    if found.not_measured:
        source += f"; incomplete: {found.not_measured[-1].why}"
    return source


class _Shown(NamedTuple):
    """One cell of a heat map: its share, the percentage written on it, and the hover text with the
    interval, the right answers and the trials."""

    share: float | None
    text: str
    hover: tuple[float | None, ...]


def _shown(cell: Cell | None) -> _Shown:
    if cell is None:
        return _Shown(None, "", (None, None, None, None))
    hover = (cell.low, cell.high, cell.correct, cell.trials)
    return _Shown(cell.accuracy, f"{100 * cell.accuracy:.0f}", hover)


HOVER = (
    "%{x} tokens, depth %{y}: %{z:.0%} (%{customdata[2]} of %{customdata[3]}; "
    "95 % from %{customdata[0]:.0%} to %{customdata[1]:.0%})<extra></extra>"
)


def _cells(found: Map) -> dict[str, Any]:
    """A heat map's data: percentages as text, trials and interval on hover."""
    cells = {(cell.context_len, cell.depth): cell for cell in found.cells}
    shares = []
    texts = []
    hovers = []
    for depth in found.depths:
        row = [_shown(cells.get((length, depth))) for length in found.lengths]
        shares.append([cell.share for cell in row])
        texts.append([cell.text for cell in row])
        hovers.append([cell.hover for cell in row])
    lengths = [f"{length:,}" for length in found.lengths]
    depths = [f"{depth:.0%}" for depth in found.depths]
    return {
        "x": lengths,
        "y": depths,
        "z": shares,
        "text": texts,
        "texttemplate": "%{text}",
        "textfont": {"color": "#000000"},
        "customdata": hovers,
        "hovertemplate": HOVER,
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
    }


def training_curve(run: Run) -> style.Figure:
    """How the proxy of a retrieval run learnt: share of whole answers, and the context of the stage
    it was in."""
    training = run.part(Training)
    assert training
    curve = training.curve
    figure = style.blank(
        f"Training of the proxy, {style.label(run)}",
        "measured: running share of whole answers on fresh data; it falls when a stage brings "
        "longer contexts or more needles",
        "training tokens (M)",
        "recalled",
        shows=["tokens_to_learn"],
    )
    tokens = [point.tokens / 1e6 for point in curve]
    stages = [point.stage for point in curve]
    style.add(
        figure,
        "scatter",
        x=tokens,
        y=[point.accuracy for point in curve],
        text=stages,
        name="recalled in training",
        mode="lines",
        line={"color": style.COLOURS[0], "width": 2.5},
        hovertemplate="%{x:.2f}M tokens, %{text}: %{y:.0%}",
    )
    style.add(
        figure,
        "scatter",
        x=tokens,
        y=[point.length for point in curve],
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


# ---------------------------------------------------------------- the other probes


class _Line(NamedTuple):
    """One run on the chart of a probe. `low` and `high` are empty if there is no interval."""

    x: list[int]
    y: list[float | None]
    low: list[float]
    high: list[float]
    trained: int


def recall_by_pairs(runs: Sequence[Run]) -> style.Figure:
    """Multi-query associative recall: share of keys whose value was recalled, against the number of
    pairs."""
    figure = style.blank(
        "Associative recall against number of pairs",
        "measured: n pairs of key and value, then every key again in another order; "
        "dashed: trained to here",
        "pairs of key and value",
        "values recalled",
        shows=["associative_recall"],
    )
    figure["layout"]["yaxis"] |= SHARES
    for run, found, colour in _of_part(runs, Recall):
        pairs = [row.n_pairs for row in found.rows]
        shares: list[float | None] = [row.accuracy for row in found.rows]
        _add(
            figure,
            run,
            found,
            _Line(pairs, shares, [], [], found.trained_pairs),
            colour,
        )
    return figure


def _copying_by_length(runs: Sequence[Run]) -> style.Figure:
    """Selective copying: share of contexts whose scattered symbols were all copied in order,
    against length."""
    figure = style.blank(
        "Selective copying against context",
        "measured: 16 symbols scattered in noise, all to be copied in order; "
        "bars: 95 % interval; dashed: trained to here",
        "context (tokens)",
        "copied in full",
        shows=["selective_copying"],
    )
    figure["layout"]["yaxis"] |= SHARES
    for run, found, colour in _of_part(runs, Copying):
        lengths = [row.context_len for row in found.rows]
        shares: list[float | None] = [row.share for row in found.rows]
        low = [row.share - row.low for row in found.rows]
        high = [row.high - row.share for row in found.rows]
        _add(
            figure,
            run,
            found,
            _Line(lengths, shares, low, high, found.trained_len),
            colour,
        )
    return figure


def loss_by_position(runs: Sequence[Run]) -> style.Figure:
    """Loss on the user's text against the position in the context (as the paper's Figure 3c)."""
    figure = style.blank(
        "Loss by position on your text",
        "measured on the last tenth of the text, trained on the rest, bytes as tokens; "
        "dashed: trained to here",
        "position in the context (bytes)",
        "loss (nats per byte)",
        shows=["loss_by_position"],
    )
    for run, found, colour in _of_part(runs, LossByPosition):
        positions = [row.to for row in found.rows]
        losses = [row.nats_per_byte for row in found.rows]
        _add(
            figure,
            run,
            found,
            _Line(positions, losses, [], [], found.trained_len),
            colour,
        )
    return figure


Probe = TypeVar("Probe", Recall, Copying, LossByPosition)


def _of_part(runs: Sequence[Run], kind: type[Probe]) -> list[tuple[Run, Probe, str]]:
    """The runs that have a part, each with that part and a colour."""
    found = []
    for run in runs:
        part = run.part(kind)
        if part:
            found.append((run, part))
    colours = style.cycle(len(found))
    return [(run, part, colour) for (run, part), colour in zip(found, colours, strict=True)]


def _add(
    figure: style.Figure,
    run: Run,
    found: Recall | Copying | LossByPosition,
    line: _Line,
    colour: str,
) -> None:
    """Add the line of a run, dotted if it has not learnt the task, and a dashed line at the length
    that it was trained at."""
    name = escape(style.label(run))
    dash = "solid"
    if not probe_learnt(found):
        name += " (not learnt)"
        dash = "dot"
    if found.not_measured:
        name += " (incomplete)"
    bars = None
    if line.low:
        bars = {"array": line.high, "arrayminus": line.low}
    style.add(
        figure,
        "scatter",
        x=line.x,
        y=line.y,
        error_y=bars,
        name=name,
        line={"color": colour, "dash": dash},
        mode="lines+markers",
    )
    ends = [shape["x0"] for shape in figure["layout"]["shapes"]]
    if line.trained not in ends:
        style.vertical(figure, line.trained)


_PROBE_CHARTS: dict[str, Callable[[Sequence[Run]], style.Figure]] = {
    Recall.part: recall_by_pairs,
    Copying.part: _copying_by_length,
    LossByPosition.part: loss_by_position,
}


def retrieval_charts(runs: Sequence[Run]) -> list[style.Figure]:
    """Every chart of retrieval runs: a map per run, and one chart per probe with all runs."""
    charts = []
    for run in runs:
        found = run.part(Map)
        if found and found.cells:
            charts.append(retrieval_map(run))
    for part, draw in _PROBE_CHARTS.items():
        if any(part in run.parts for run in runs):
            charts.append(draw(runs))
    return charts
