"""What pages and reports say of retrieval runs: nothing that was not learnt looks like a finding,
rows agree with hand-worked cells."""

import io
import re
from itertools import pairwise
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest

from hybrid_core.design import presets
from hybrid_core.live.retrieval import texts
from hybrid_core.live.retrieval.finding import finding
from hybrid_core.live.retrieval.options import NiahOptions, ProbeOptions
from hybrid_core.live.retrieval.scores import cell
from hybrid_core.report.compare import facts
from hybrid_core.report.figures import style, words
from hybrid_core.report.figures.retrieval import (
    recall_by_pairs,
    retrieval_charts,
    retrieval_map,
    training_curve,
)
from hybrid_core.report.html import report
from hybrid_core.report.numbers import score_numbers
from hybrid_core.report.retrieval import (
    latest_of_each,
    learnt,
    map_facts,
    not_whole,
    reach,
    reading,
    scores_of,
    unlike,
)
from hybrid_core.report.text.runs import run_table
from hybrid_core.results.retrieval import Scores
from hybrid_core.runs.store import Run, open_store
from hybrid_core.validation import SpecError
from tests.designs import design


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("HYBRID_DATABASE_URL", raising=False)


LEARNT = {
    "verdict": {
        "learnt": True,
        "finding": True,
        "text": "95% recalled at the trained length of 128 tokens.",
    }
}
NOT_LEARNT = {"verdict": {"learnt": False, "finding": True, "text": "Not learnt with 2.10M tokens"}}
UNFINISHED = {
    "verdict": {
        "learnt": False,
        "finding": False,
        "text": "The budget ended after 0.05M training tokens",
    }
}


def training(**changes: Any) -> dict[str, Any]:
    point = {
        "tokens": 4096,
        "accuracy": 0.25,
        "stage": "4 needles",
        "length": 32,
        "loss": 3.0,
        "seconds": 1.0,
    }
    found = {
        "tokens": 50_000,
        "seconds": 4.0,
        "accuracy": 0.25,
        "length": 64,
        "tokens_to_learn": None,
        "ended": "time",
        "curve": [point],
    }
    return found | changes


def niah(*parts: dict[str, Any], pattern: str = "AM", status: Any = "done", **options: Any) -> Run:
    """A stored run: two depths; 128 tokens recalled 10 and 9 times of 10, 192 tokens 4 and 2 times,
    256 not asked."""
    store = open_store()
    asked = NiahOptions.make(device="cpu", trained_len=128, **options)
    run_id = store.create("niah", design(pattern), asked.model_dump(mode="json"), "cpu")
    cells = [
        cell(128, 0.0, 10, 10).record(),
        cell(128, 1.0, 9, 10).record(),
        cell(192, 0.0, 4, 10).record(),
        cell(192, 1.0, 2, 10).record(),
    ]
    found = {
        "depths": [0.0, 1.0],
        "lengths": [128, 192, 256],
        "trained_len": 128,
        "trials": 10,
        "cells": cells,
    }
    for name, data in (
        {"map": found, "training": training()}
        | {key: data for part in parts for key, data in part.items()}
    ).items():
        store.put_part(run_id, name, data)
    store.finish(run_id, status)
    return store.get(run_id)


def hues(figure: style.Figure) -> set[str]:
    """The colours of a map that are not a grey."""
    scale = [colour for _, colour in go.Figure(figure).data[0].colorscale]
    return {colour for colour in scale if len(set(re.findall("..", colour.lstrip("#")))) > 1}


def test_a_map_is_coloured_only_for_a_design_that_has_learnt() -> None:
    assert hues(retrieval_map(niah(LEARNT)))
    for short in (NOT_LEARNT, UNFINISHED, {}):  # the last: stopped before its verdict
        chart = retrieval_map(niah(short))
        assert not hues(chart) and "not learnt" in style.title(chart)
    ready = niah(
        {"training": training(tokens_to_learn=40_000, accuracy=0.95, length=128)},
        status="cancelled",
    )
    assert hues(retrieval_map(ready)) and learnt(ready)


def luminance(colour: tuple[float, ...]) -> float:
    """Relative, WCAG 2.2."""
    linear = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in colour
    )
    return sum(
        weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
    )


@pytest.mark.parametrize("short", [LEARNT, NOT_LEARNT])
def test_figures_can_be_read_on_every_colour_of_a_map(short: dict[str, Any]) -> None:
    chart = go.Figure(retrieval_map(niah(short))).data[0]
    assert chart.textfont.color == "#000000"
    stops = [
        [int(pair, 16) / 255 for pair in re.findall("..", colour.lstrip("#"))]
        for _, colour in chart.colorscale
    ]
    for before, after in pairwise(stops):
        for share in (0, 0.25, 0.5, 0.75, 1):
            colour = tuple(a + share * (b - a) for a, b in zip(before, after, strict=True))
            assert (luminance(colour) + 0.05) / 0.05 >= 4.5


def test_who_sees_no_red_or_no_green_tells_recalled_from_lost() -> None:
    # Dichromats keep the difference of blue to yellow (Vienot, Brettel, Mollon 1999): blue against
    # the mean of red and green.
    scale = go.Figure(retrieval_map(niah(LEARNT))).data[0].colorscale
    (red, green, blue), middle, (r, g, b) = (
        [int(pair, 16) for pair in re.findall("..", scale[i][1].lstrip("#"))] for i in (0, 2, 4)
    )
    assert (
        blue - (red + green) / 2 < -100 and b - (r + g) / 2 > 60 and abs(middle[2] - middle[1]) < 10
    )


def test_a_map_shows_every_cell_where_it_belongs_and_leaves_the_rest_empty() -> None:
    chart = go.Figure(retrieval_map(niah(LEARNT))).data[0]
    assert list(chart.x) == ["128", "192", "256"] and list(chart.y) == ["0%", "100%"]
    assert [list(row) for row in chart.z] == [[1.0, 0.4, None], [0.9, 0.2, None]]
    assert [list(row) for row in chart.text] == [["100", "40", ""], ["90", "20", ""]]
    assert (chart.zmin, chart.zmax) == (0, 1)


def test_the_csv_of_a_map_has_a_row_per_cell() -> None:
    frame = pd.read_csv(io.StringIO(words.table(retrieval_map(niah(LEARNT)))))
    assert list(frame.columns) == ["context (tokens)", "depth of the needle", "share"]
    assert (
        frame.loc[(frame.iloc[:, 0] == 192) & (frame.iloc[:, 1] == "100%"), "share"].item() == 0.2
    )
    assert len(frame) == 6 and frame["share"].isna().sum() == 2


def test_plotly_knows_every_word_of_the_charts_of_a_run() -> None:
    run = niah(LEARNT)
    for chart in (
        training_curve(run),
        retrieval_map(run, small=True),
        *retrieval_charts([run]),
    ):
        go.Figure(chart)


def test_a_checkpoint_has_no_training_and_its_map_stands() -> None:
    found = {
        "depths": [0.0],
        "lengths": [960],
        "trained_len": None,
        "trials": 4,
        "cells": [cell(960, 0.0, 1, 4).record()],
    }
    store = open_store()
    run_id = store.create("checkpoint", design("A"), {}, "cpu")
    store.put_part(run_id, "map", found)
    assert hues(retrieval_map(store.get(run_id)))


def test_a_row_of_scores_is_the_same_from_finished_cells_as_by_hand() -> None:
    run = niah(status="cancelled", seed=3)
    found = score_numbers(run)
    assert found.at_trained_len.value == pytest.approx(0.95)
    assert found.at_1_5x.value == pytest.approx(0.3)
    # 19 of 20 are not shown to be 90 %: 0.9^20 + 20 * 0.1 * 0.9^19 = 0.39
    assert found.effective_context.said == "0 to 128"
    assert scores_of(run).effective_context == 128
    assert found.tokens_to_learn.said == "not reached"
    row = map_facts(run)
    assert (row.learnt, row.whole_lengths, row.trained_len, row.seed) == (False, "2 of 3", 128, 3)


def test_a_score_that_was_not_asked_says_so() -> None:
    run = niah(LEARNT, {"map": {"cells": [], "lengths": [128], "trained_len": 128}})
    found = score_numbers(run)
    assert (found.at_trained_len.said, found.at_1_5x.said) == ("not tested", "not tested")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {
                "effective_context": 512,
                "effective_context_low": 512,
                "effective_context_high": 512,
                "censored": False,
            },
            "512",
        ),
        (
            {
                "effective_context": 640,
                "effective_context_low": 512,
                "effective_context_high": 640,
                "censored": False,
            },
            "512 to 640",
        ),
        (
            {
                "effective_context": 1024,
                "effective_context_low": 1024,
                "effective_context_high": 1024,
                "censored": True,
            },
            "≥ 1,024",
        ),
        (
            {
                "effective_context": 1024,
                "effective_context_low": 0,
                "effective_context_high": 1024,
                "censored": True,
            },
            "0 to ≥ 1,024",
        ),
        (
            {
                "effective_context": 0,
                "effective_context_low": 0,
                "effective_context_high": 0,
                "censored": False,
            },
            "none",
        ),
        ({"effective_context": 1024}, "1,024"),  # as earlier versions stored it
        ({"effective_context": 0}, "none"),
    ],
)
def test_the_effective_context_is_an_interval(found: dict[str, Any], said: str) -> None:
    assert reach(Scores.model_validate(found)) == said


def test_a_run_of_an_earlier_version_is_shown_with_the_interval_of_its_cells() -> None:
    old = {
        "at_trained_len": 0.95,
        "at_1_5x": 0.3,
        "effective_context": 128,
        "tokens_to_learn": None,
        "trained_len": 128,
    }
    proxy = {"pattern": "AM", "params": 1000, "trained_len": 128, "note": "A probe."}
    run = niah(LEARNT, {"scores": old, "proxy": proxy})
    assert (
        score_numbers(run).effective_context.said == "0 to 128"
    )  # 19 of 20 are not shown to be 90 %: 0.9^20 + 20 * 0.1 * 0.9^19 = 0.39
    assert facts(run)["effective context, tokens (measured, proxy)"] == "0 to 128"
    assert "effective context, tokens: 0 to 128 (" in run_table(run)
    assert (
        score_numbers(
            niah(LEARNT, {"scores": old, "map": {"cells": [], "lengths": [128]}})
        ).effective_context.said
        == "128"
    )


def test_a_stopped_run_says_how_far_it_came() -> None:
    assert reading(niah(LEARNT)) == LEARNT["verdict"]["text"]
    said = reading(niah(status="cancelled"))
    assert (
        said
        and "4 finished cells" in said
        and "not learnt" in said
        and "25% recalled at 64 tokens after 50K" in said
    )


def test_a_run_that_was_stopped_in_training_speaks_of_no_map() -> None:
    said = reading(niah({"map": {"cells": []}}, status="cancelled"))
    assert said == (
        "Stopped before the first cell of its map: 25% recalled at 64 tokens after "
        "50K training tokens."
    )


def test_what_was_not_measured_is_said_wherever_a_map_is_shown() -> None:
    cut, short = "the budget of 5 s was used up", "training only got to contexts of 192 tokens"
    cells = [
        cell(128, 0.0, 10, 10).record(),
        cell(128, 1.0, 9, 10).record(),
        cell(192, 0.0, 1, 4).record(),
        cell(192, 1.0, 2, 4).record(),
    ]
    missing = [
        {"context_len": 192, "measured": 4, "of": 10, "why": cut},
        {"context_len": 256, "measured": 0, "of": 10, "why": cut},
        {"context_len": 320, "measured": 0, "of": 10, "why": short},
    ]
    found = {
        "depths": [0.0, 1.0],
        "lengths": [128, 192, 256, 320],
        "trained_len": 128,
        "trials": 10,
        "cells": cells,
    }
    proxy = {"pattern": "AM", "params": 1000, "trained_len": 128, "note": "A probe."}
    run = niah(LEARNT, {"proxy": proxy, "map": found | {"not_measured": missing}})
    lines = [
        f"Map incomplete: 192 tokens (4 of 10 trials), 256 tokens; {cut}",
        f"Map incomplete: 320 tokens; {short}",
    ]
    assert not_whole(run) == lines
    assert all(line in run_table(run) and line in report([run]) for line in lines)
    assert "incomplete" in str(retrieval_map(run)["layout"])
    assert map_facts(run).whole_lengths == "1 of 4"
    whole = niah(LEARNT, {"proxy": proxy})
    assert not_whole(whole) == [] and "incomplete" not in run_table(whole) + report([whole])


def test_what_probes_did_not_measure_is_said() -> None:
    why, store = "the budget of 5 s was used up", open_store()
    run_id = store.create(
        "probes", design("AM"), ProbeOptions(device="cpu").model_dump(mode="json"), "cpu"
    )
    rows = [{"n_pairs": 2, "accuracy": 0.9, "answers": 20}]
    missing = [
        {"n_pairs": 4, "measured": 8, "of": 40, "why": why},
        {"n_pairs": 8, "measured": 0, "of": 80, "why": why},
    ]
    store.put_part(
        run_id,
        "recall",
        {"trained_pairs": 4, "rows": rows, "training": training(), "not_measured": missing},
    )
    text = {
        "trained_len": 128,
        "rows": [{"from": 0, "to": 16, "nats_per_byte": 2.0}],
        "training": training(),
    }
    store.put_part(run_id, "text", text | {"not_measured": [{"measured": 3, "of": 50, "why": why}]})
    run = store.get(run_id)
    lines = [
        f"Associative recall incomplete: 4 pairs (8 of 40 answers), 8 pairs; {why}",
        f"Loss by position incomplete: 3 of 50 windows of the text; {why}",
    ]
    assert not_whole(run) == lines and all(
        line in run_table(run) and line in report([run]) for line in lines
    )
    assert "(incomplete)" in go.Figure(recall_by_pairs([run])).data[0].name


def test_runs_that_were_not_asked_alike_are_named() -> None:
    runs = [
        niah(LEARNT, budget_s=60.0),
        niah(LEARNT, budget_s=300.0),
        niah(LEARNT, budget_s=60.0, seed=1),
    ]
    assert unlike(runs) == ["budget 60, 300 s"]
    assert unlike([niah(LEARNT), niah(LEARNT, d_model=64)]) == []  # 64 is what a CPU has by default
    assert unlike([runs[0], runs[2]]) == []


def test_the_latest_run_of_each_design_is_compared() -> None:
    first, second, third = niah(LEARNT), niah(LEARNT, pattern="A"), niah(LEARNT)
    assert [run.id for run in latest_of_each([first, second, third])] == [third.id, second.id]


def test_the_proxys_width_is_not_taken_for_the_designs() -> None:
    found = facts(niah(LEARNT, d_model=64))
    assert (found["d_model"], found["d_model of the proxy"]) == ("32", "64")


def test_a_report_says_what_a_map_may_be_taken_for() -> None:
    page = report([niah(UNFINISHED)])
    assert "The budget ended after 0.05M training tokens" in page and "not learnt" in page


def test_probes_draw_a_line_per_run_dotted_where_it_was_not_learnt() -> None:
    store, runs = open_store(), []
    for learnt_at in (None, 30_000):
        run_id = store.create(
            "probes", design("AM"), ProbeOptions(device="cpu").model_dump(mode="json"), "cpu"
        )
        rows = [
            {"n_pairs": 2, "accuracy": 0.9, "answers": 20},
            {"n_pairs": 4, "accuracy": 0.5, "answers": 40},
        ]
        store.put_part(
            run_id,
            "recall",
            {"trained_pairs": 4, "rows": rows, "training": training(tokens_to_learn=learnt_at)},
        )
        runs.append(store.get(run_id))
    (chart,) = retrieval_charts(runs)
    assert [(list(line.x), list(line.y), line.line.dash) for line in go.Figure(chart).data] == [
        ([2, 4], [0.9, 0.5], "dot"),
        ([2, 4], [0.9, 0.5], "solid"),
    ]
    said = reading(runs[0])
    assert (
        said
        and "Associative recall was not learnt: 25% recalled at 64 tokens after 50K" in said
        and reading(runs[1]) is None
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("llama-1b", "next to nothing past"),
        ("swa-1to5-1b", "sinks"),
        ("mamba-1b", "near the end"),
        ("intra-1to5-1b", "1.5 times"),
    ],
)
def test_the_papers_finding_goes_with_the_kind_of_design(name: str, said: str) -> None:
    assert said in finding(presets.get(name).spec)
    assert "no design with this mix" in finding(design("AMSH"))


def test_a_text_is_kept_under_a_name_of_ours_and_a_short_one_is_refused(tmp_path: Any) -> None:
    path = texts.keep(b"../../to be or not to be")
    assert path.parent == tmp_path / "texts" and re.fullmatch(r"[0-9a-f]{16}\.txt", path.name)
    assert (
        path.read_bytes() == b"../../to be or not to be"
        and texts.keep(b"../../to be or not to be") == path
    )
    with pytest.raises(SpecError, match="5 bytes - at least 2,560"):
        texts.keep(b"short", 2560)
