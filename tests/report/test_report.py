"""What charts and comparisons say, without looking at them."""

import io
import math
import re
from collections.abc import Callable
from html import unescape
from itertools import combinations
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs_version

from hybrid_core import glossary
from hybrid_core.costs.memory import memory, room_for
from hybrid_core.costs.model import model_costs
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import link, published
from hybrid_core.interop.snippet import snippet
from hybrid_core.report import compare
from hybrid_core.report.charts import PLOTLY
from hybrid_core.report.figures import style, words
from hybrid_core.report.figures.ablations import QUESTIONS
from hybrid_core.report.figures.designs import (
    cache_by_context,
    decode_by_context,
    flops_by_part,
    longest_context,
    memory_by_context,
    memory_by_part,
)
from hybrid_core.report.figures.paper import paper_cache, paper_throughput, quality_throughput
from hybrid_core.report.figures.stack import stack_chart
from hybrid_core.report.html import design_report
from hybrid_core.speed import hardware
from hybrid_core.workload import Workload
from tests.designs import mapping

PAIR = [style.Named(name, presets.get(name).spec) for name in ("inter-1to5-1b", "llama-1b")]
WORK, DEVICE = Workload(), hardware.get("rtx_4090")
DRAWN = {
    "cache": cache_by_context(PAIR, WORK),
    "decode": decode_by_context(PAIR, WORK, DEVICE),
    "memory": memory_by_context(PAIR, WORK, DEVICE),
    "parts": memory_by_part(PAIR, WORK, DEVICE),
    "longest": longest_context(PAIR, WORK),
    "flops": flops_by_part(PAIR, WORK),
    "stack": stack_chart(PAIR[0].spec, WORK),
    "figure 1b": quality_throughput(),
    "figure 3a": paper_throughput(),
    "figure 3b": paper_cache(),
} | {
    f"{question.title} {scale}": question.draw(scale)
    for question in QUESTIONS
    for scale in question.scales
}


DRAWN["Scaling"] = next(question.draw() for question in QUESTIONS if not question.scales)


def frame(figure: style.Figure) -> pd.DataFrame:
    """What a chart shows, as a table."""
    names, *rows = words.data(figure)
    return pd.DataFrame(rows, columns=list(names))


@pytest.mark.parametrize("name", DRAWN)
def test_every_chart_has_data_a_title_and_words(name: str) -> None:
    figure = DRAWN[name]
    table = frame(figure)
    told = words.told(figure)
    assert len(table) > 3 and table.iloc[:, 1:].notna().any().all()
    assert told.startswith(style.title(figure)) and style.source(figure)
    assert "<" not in told


@pytest.mark.parametrize("name", DRAWN)
def test_plotly_knows_every_word_of_a_chart(name: str) -> None:
    go.Figure(DRAWN[name])  # raises on a property or a value that plotly does not have


def test_pages_and_reports_load_the_plotly_that_is_installed() -> None:
    assert f"v{get_plotlyjs_version()}\n" in PLOTLY.read_text("utf-8")[:200]


WIDE, HIGH = 380, 210  # pixels that a browser gives the lines of a narrow chart


def height_of(figure: style.Figure) -> Callable[[float], float]:
    """Where a browser draws a value, in pixels from the bottom; what an annotation of a logarithmic
    axis has is its logarithm already."""
    log = figure["layout"]["yaxis"].get("type") == "log"
    shown = [math.log10(y) if log else y for trace in figure["data"] for y in trace["y"] if y]
    low, high = min(shown) if log else 0.0, max(shown)
    return lambda value: (value - low) / (high - low) * HIGH


def points_of(figure: style.Figure) -> list[tuple[float, float]]:
    """Where a browser draws the points of lines over 2K to 1M tokens, in pixels from the lower
    left."""
    log, height = figure["layout"]["yaxis"].get("type") == "log", height_of(figure)
    every = [
        point for trace in figure["data"] for point in zip(trace["x"], trace["y"], strict=True)
    ]
    return [
        ((math.log2(x) - 11) / 9 * WIDE, height(math.log10(y) if log else y)) for x, y in every if y
    ]


def words_on(figure: style.Figure) -> list[tuple[float, float, float, float]]:
    """Where it writes their names: left, bottom, right, top."""
    height, boxes = height_of(figure), []
    for note in figure["layout"]["annotations"]:
        x = (note["x"] / math.log10(2) - 11) / 9 * WIDE + note["xshift"]
        y = height(note["y"]) + note["yshift"]
        wide = 20 + 6 * len(note["text"].split("</span> ")[1])
        left = x - wide * {"left": 0, "center": 0.5, "right": 1}[note["xanchor"]]
        boxes.append((left, y - 7, left + wide, y + 7))
    return boxes


def test_no_name_lies_on_another() -> None:
    twins = [
        style.Named(name, PAIR[0].spec) for name in ("one", "two", "three")
    ]  # three lines through the same points
    figure = cache_by_context([*twins, PAIR[1]], WORK)
    names = [note["text"].split("</span> ")[1] for note in figure["layout"]["annotations"]]
    assert names == ["one", "two", "three", "llama-1b"]
    for one, other in combinations(words_on(figure), 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    assert not figure["layout"]["showlegend"]


@pytest.mark.parametrize("draw", [cache_by_context, decode_by_context, memory_by_context])
def test_no_name_hides_a_point_of_a_line(draw: Callable[..., style.Figure]) -> None:
    designs = [
        style.Named(name, presets.get(name).spec)
        for name in ("inter-1to5-1b", "intra-1to5-1b", "llama-1b")
    ]
    figure = draw(designs, WORK, DEVICE)
    names = words_on(figure)
    assert len(names) == len(designs)
    for x, y in points_of(figure):
        assert not any(left < x < right and bottom < y < top for left, bottom, right, top in names)


def test_points_of_the_paper_that_lie_close_are_named_apart() -> None:
    # At 8K, SWA 4+12 has 219 tokens/s and 2.740, 3+13 has 241 and 2.741: both names above would
    # touch.
    swa = next(trace for trace in quality_throughput(8192)["data"] if trace["name"] == "SWA")
    sides = dict(zip(swa["text"], swa["textposition"], strict=True))
    assert sides["4+12"] != sides["3+13"]


def test_the_csv_has_the_caches_of_the_closed_form() -> None:
    table = pd.read_csv(io.StringIO(words.table(DRAWN["cache"])))
    row = table[(table["series"] == "llama-1b") & (table["context length (tokens)"] == 8192)]
    assert row["cache (MiB)"].item() == 256.0


def test_a_name_stands_at_its_line_also_where_the_axis_is_linear() -> None:
    mamba = [style.Named("mamba", presets.get("mamba-1b").spec)]
    layout = cache_by_context(mamba, WORK)["layout"]
    assert layout["yaxis"].get("type") is None  # a state does not grow
    assert layout["annotations"][0]["y"] == pytest.approx(
        model_costs(mamba[0].spec).cache_bytes(2**20, "exact", WORK) / 2**20
    )


def test_an_axis_is_logarithmic_only_where_it_has_ticks_among_the_data() -> None:
    def ticks(low: float, high: float) -> list[float] | None:
        figure = style.blank("title", "source", "x", "y")
        style.add(figure, "scatter", x=[1, 2], y=[low, high])
        style.log_axis(figure, "y")
        return figure["layout"]["yaxis"].get("tickvals")

    assert ticks(21, 39) is None
    assert [tick for tick in ticks(6, 31) or [] if 6 <= tick <= 31] == [10, 20]


def test_the_csv_of_columns_beside_each_other_names_their_unit() -> None:
    assert words.data(DRAWN["parts"])[:2] == [
        ("series", "GiB", "design"),
        ("weights", pytest.approx(2.28, abs=0.01), "inter-1to5-1b"),
    ]
    assert words.data(DRAWN["flops"])[0] == ("series", "GFLOPs per token", "part")


def test_flops_by_part_add_up_to_training_and_decoding() -> None:
    costs = model_costs(PAIR[0].spec)
    of_all = {
        "training": costs.train_flops_per_token(8192, "exact"),
        "decode": costs.decode_flops(8192),
    }
    for bars in flops_by_part(PAIR[:1], WORK)["data"]:
        *parts, total = bars["x"]
        assert bars["y"][-1] == "total" and sum(parts) == pytest.approx(total)
        assert total * 1e9 == pytest.approx(of_all[bars["name"]])


def test_a_device_that_is_nearly_full_stands_on_the_chart_of_memory() -> None:
    def drawn(device: str) -> list[float]:
        return [
            line["x0"]
            for line in memory_by_part(PAIR, WORK, hardware.get(device))["layout"]["shapes"]
        ]

    assert drawn("h100_sxm") == []  # 80 GiB are far off the chart of a design of 3 GiB
    big = [style.Named("7b", presets.get("inter-1to5-1b").spec.replace(n_layers=100))]
    assert (
        memory_by_part(big, WORK, DEVICE)["layout"]["shapes"][0]["x0"]
        == DEVICE.usable_bytes / 2**30
    )


def test_a_point_of_the_stack_is_its_layer() -> None:
    spec = presets.get("intra-1to5-1b").spec
    bars = [bar for bar in stack_chart(spec, WORK)["data"] if bar.get("showlegend") is not False]
    assert {y: bar["name"].split(" (")[0] for bar in bars for y in bar["y"]} == {
        i: "Intra-hybrid" if letter == "H" else "Mamba-2"
        for i, letter in enumerate(spec.pattern, start=1)
    }


def test_the_longest_context_fits_and_a_longer_one_does_not() -> None:
    spec, size = PAIR[0].spec, DEVICE.memory_bytes
    (longest,) = room_for(spec, WORK, [size])

    def needed(context_len: int) -> int:
        return int(memory(spec, WORK, context_len).total)

    assert needed(longest) <= size < needed(longest + 1024)
    assert room_for(spec, WORK, [2**30]) == [0]


def test_designs_side_by_side_put_what_differs_first() -> None:
    specs = [PAIR[0].spec, PAIR[1].spec]
    frame = compare.side_by_side(
        ["a", "b"], [compare.design_facts(spec, WORK, DEVICE) for spec in specs]
    )
    differs = (frame["a"] != frame["b"]).tolist()
    assert differs == sorted(differs, reverse=True)
    assert frame.loc["layers", "a"] == specs[0].pattern
    assert frame.loc["d_model"].tolist() == ["2048", "2048"]


@pytest.mark.parametrize("name", ["inter-1to5-1b", *published.models()])
def test_the_parts_of_the_flops_are_all_of_them(name: str) -> None:
    spec = published.resolve(name)
    figure = flops_by_part([style.Named(name, spec)], WORK)
    for bars, flops in zip(
        figure["data"],
        (3 * model_costs(spec).forward_flops(8192) / 8192, model_costs(spec).decode_flops(8192)),
        strict=True,
    ):
        *parts, total = bars["x"]
        assert sum(parts) == pytest.approx(total) == pytest.approx(float(flops) / 1e9)


def test_the_yaml_diff_names_what_to_change() -> None:
    diff = compare.yaml_diff(PAIR[0].spec, PAIR[1].spec)
    assert "-n_layers: 13" in diff and "+n_layers: 16" in diff
    assert compare.yaml_diff(PAIR[0].spec, PAIR[0].spec) == ""


def test_every_field_of_a_design_has_a_line_in_the_glossary() -> None:
    for section in ("attention", "swa", "ssm", "intra", "ffn"):
        for field in getattr(presets.get("intra-1to5-1b").spec, section).model_dump():
            assert "\n" not in glossary.explain(f"{section}.{field}")


def test_the_python_file_builds_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    spec = ArchSpec.from_mapping(mapping("AMH") | {"name": "it's \"quoted\" \\ and ''' more"})
    exec(compile(snippet(spec), "snippet", "exec"), {})
    assert f"{model_costs(spec).params().total:,} parameters" in capsys.readouterr().out


def test_the_report_of_a_design_says_what_it_costs_and_leads_back_to_the_view() -> None:
    spec = PAIR[0].spec.replace(name="<script>alert(1)</script>")
    view = link.View(
        design=spec, workload=Workload(context_len=32768, batch_size=2), hardware="rtx_4090"
    )
    page = design_report(view, "http://localhost:8501")
    assert len(page) < 6e6 and "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    words = unescape(re.sub(r'<sup class="ref">.*?</sup>', "", page))  # without source numbers
    # Table 2's design: 2 of 13 layers keep 8 x 64 x 2 values of two bytes a token (64 MiB each at
    # 32K), 11 a state of 1.02 MiB.
    assert "2 Attention" in words and "at 32K (exact)</td><td>139 MiB</td>" in words
    assert (
        "32K tokens, batch 2" in words and "RTX 4090" in words and "Llama of the same size" in words
    )
    address = re.search(r'href="(http://localhost:8501/[^"]*)"', page)
    assert address and link.from_query(parse_qs(urlsplit(unescape(address[1])).query)) == view


def test_the_report_of_designs_compared_has_each_and_opens_the_compare_page() -> None:
    twin = PAIR[1].spec.replace(n_layers=20)  # of the same name
    kept = (PAIR[0].spec, PAIR[1].spec, PAIR[1].spec, twin)  # the first as it is, and another twice
    page = design_report(link.View(design=PAIR[0].spec, compared=kept))
    assert "<title>3 designs compared</title>" in page and "/compare?" in page
    for name in ("inter-1to5-1b", "llama-1b", "llama-1b (2)"):
        assert f"<th>{name}</th>" in page and f"<h2>{name}</h2>" in page


@pytest.mark.parametrize(
    ("name", "series", "at", "nll"),
    [
        ("Ratio 1B", "Intra-hybrid", 100, 2.712),  # Table 9: 13 of 13 layers
        ("Ratio 1B", "SWA", 50, 2.745),  # 8 + 8
        ("Ratio 350M", "Mamba", 0, 2.880),  # Table 10
        ("Long context 1B", "Llama", "32K", 2.807),  # Table 12
        ("Scaling", "Inter-hybrid", 4e20, 2.672),  # Table 14: 3B has the lowest
    ],
)
def test_charts_of_what_changes_the_loss_have_the_printed_cells(
    name: str, series: str, at: object, nll: float
) -> None:
    assert (series, at, nll) in words.data(DRAWN[name])


def test_rows_of_dots_are_the_printed_ones_the_best_variant_on_top() -> None:
    position, variants, experts = (
        words.data(DRAWN[name]) for name in ("Position 1B", "Intra block 1B", "Experts 1B")
    )
    assert ("Inter-hybrid", 2.771, "inter 1:12, single (1)") in position and (
        "SWA",
        2.745,
        "swa 1:1, front (1,3..15)",
    ) in position
    # Table 18: normalized difference with separate values and outputs, the paper's choice.
    assert variants[1] == ("T/M", 2.712, "T/M: group, none, diff, separate, separate")
    assert DRAWN["Intra block 1B"]["layout"]["yaxis"]["categoryarray"][-1] == variants[1][2]
    assert ("experts", 2.648, "Intra-hybrid") in experts and (
        "one feed-forward",
        2.728,
        "Intra-hybrid",
    ) in experts


def test_a_long_name_is_cut_in_the_middle_and_two_that_begin_alike_still_differ() -> None:
    pair = [style.Named(f"{'W' * 90}-{end}&", PAIR[0].spec) for end in ("first", "second")]
    layout = flops_by_part(pair, WORK, ["decode"])["layout"]
    titles = [unescape(layout[axis]["title"]["text"]) for axis in ("xaxis", "xaxis2")]
    assert (
        all(len(title) <= 28 and "…" in title for title in titles)
        and titles[0].endswith("first&")
        and titles[1].endswith("second&")
    )
    names = [note["text"] for note in cache_by_context(pair, WORK)["layout"]["annotations"]]
    assert all("WWW…WWW" in name for name in names) and names[0] != names[1]


def test_the_longest_context_that_was_looked_at_is_not_taken_for_a_limit() -> None:
    figure = longest_context(
        [style.Named("mamba", presets.get("mamba-1b").spec)], WORK
    )  # its cache does not grow
    assert set(figure["data"][0]["text"]) == {"16M or more"}
