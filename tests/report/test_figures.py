"""What all charts have in common, and the words and numbers of single ones, by hand."""

from typing import Any

import numpy as np
import pytest

from hybrid_core.design import presets
from hybrid_core.report.cards import design_cards, run_cards
from hybrid_core.report.compare import design_sources, parted, sources_of_rows
from hybrid_core.report.figures import style, words
from hybrid_core.report.figures.designs import beside_each_other
from hybrid_core.report.figures.stack import stack_layers, stack_source
from hybrid_core.report.numbers import Number
from hybrid_core.report.retrieval import probe_learnt
from hybrid_core.report.sentences import of_run
from hybrid_core.results.probes import LossByPosition, Recall
from hybrid_core.results.retrieval import TrainingRecord
from hybrid_core.runs.store import Run, open_store
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import cost
from hybrid_core.workload import Workload
from tests.designs import design


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("HYBRID_DATABASE_URL", raising=False)


def test_a_long_name_keeps_both_ends() -> None:
    assert style.clipped("abcdefghij", 5) == "ab…ij"
    assert style.clipped("abcde", 5) == "abcde"


def test_colours_begin_anew_after_the_seventh() -> None:
    colours = style.cycle(8)
    assert len(set(colours)) == 7
    assert colours[7] == colours[0] == "#0072B2"  # Okabe and Ito's blue


def test_points_are_placed_by_the_share_of_their_axis() -> None:
    width, height = style.ROOM
    curve = {"x": [1, 10, 100], "y": [5.0, None, 10.0]}
    (points,) = style.in_pixels([curve], log_x=True, log_y=False)
    assert points[0].tolist() == [0, 0]
    assert points[1, 0] == pytest.approx(width / 2) and np.isnan(points[1, 1])
    assert points[2].tolist() == pytest.approx([width, height])
    (from_zero,) = style.in_pixels([curve], log_x=True, log_y=False, from_zero=True)
    assert from_zero[0, 1] == pytest.approx(height / 2)


def test_a_length_axis_has_powers_of_two_and_a_dashed_line_its_place() -> None:
    figure = style.blank("title", "source", "x", "y")
    style.length_axis(figure, 2)
    axis = figure["layout"]["xaxis"]
    assert axis["ticktext"] == ["1M", "256K", "64K", "16K", "4K", "1K"]
    style.vertical(figure, 512.0)
    (line,) = figure["layout"]["shapes"]
    assert (line["x0"], line["x1"], line["line"]["dash"]) == (512.0, 512.0, "dash")


def test_the_layers_of_a_uniform_stack_have_equal_shares() -> None:
    rows = stack_layers(presets.get("llama-1b").spec, Workload())
    assert len(rows) == 16
    for row in rows:
        assert row.of_params == pytest.approx(100 / 16)
        assert row.of_flops == pytest.approx(100 / 16)
        assert row.told.startswith("Attention, 60.8M parameters (6.25 %)")
    assert stack_source(Workload(context_len=32768)).startswith(
        "exact: parameters, and FLOPs of a forward pass over 32K tokens"
    )


def test_a_comparison_has_a_chart_for_each_cost() -> None:
    pair = [style.Named(name, presets.get(name).spec) for name in ("llama-1b", "mamba-1b")]
    drawn = beside_each_other(pair, Workload(), hardware.get("h100_sxm"))
    assert list(drawn) == "cache decode memory-context training-flops decode-flops memory".split()
    # 16 layers keep 8 heads x 64 x 2 values of two bytes for each of 8,192 tokens.
    assert ("llama-1b", 8192, 256.0) in words.data(drawn["cache"])


def test_rows_in_which_columns_differ_stand_apart() -> None:
    first = {"layers": "AM", "device": "cpu"}
    second = {"layers": "AA", "device": "cpu", "torch": "2.13"}
    differ, alike = parted(["a", "b"], [first, second])
    assert differ.index.tolist() == ["layers", "torch"]
    assert differ.loc["torch"].tolist() == ["", "2.13"]
    assert alike.index.tolist() == ["device"]


def test_a_row_has_the_source_of_its_number() -> None:
    measured = Number("prefill", 1.0, "tokens/s", "measured", "prefill")
    absent = Number("energy", None, "J/token", "", "energy", why="no meter")
    rows = sources_of_rows([measured, absent])
    assert rows == {"prefill (measured)": "prefill", "energy": "energy"}


def test_a_probe_is_learnt_once_its_training_reached_the_goal() -> None:
    training: dict[str, Any] = {
        "tokens": 1,
        "seconds": 1.0,
        "accuracy": 0.5,
        "length": 64,
        "ended": "time",
        "curve": [],
    }
    short = TrainingRecord.model_validate(training | {"tokens_to_learn": None})
    enough = TrainingRecord.model_validate(training | {"tokens_to_learn": 1})
    assert not probe_learnt(Recall(trained_pairs=4, training=short))
    assert probe_learnt(Recall(trained_pairs=4, training=enough))
    assert probe_learnt(LossByPosition(trained_len=64, training=short))


# ---------------------------------------------------------------- cards and sentences


def generated() -> Run:
    """A run that generated at half of the predicted speed."""
    store = open_store()
    run_id = store.create("profile", design("AM"), {}, "cpu")
    row = {
        "total_len": 2048,
        "tokens_per_s": 100.0,
        "predicted_tokens_per_s": 200.0,
        "paper_tokens_per_s": None,
        "seconds": 1.0,
    }
    parts = {
        "generation": {"protocol": "as the paper's", "rows": [row], "not_measured": []},
        "prefill": {
            "batch_size": 2,
            "prompt_len": 64,
            "tokens_per_s": 50.0,
            "predicted_tokens_per_s": 80.0,
            "median_s": 0.1,
            "min_s": 0.1,
            "max_s": 0.1,
            "repeats": 3,
            "chunk_tokens": 32,
        },
    }
    for name, data in parts.items():
        store.put_part(run_id, name, data)
    store.finish(run_id, "done")
    return store.get(run_id)


def test_the_cards_of_a_design_have_the_printed_figures() -> None:
    spec = presets.get("llama-1b").spec
    cards = design_cards(cost(spec, Workload(), hardware.get("h100_sxm")))
    # Table 9: 0.97B parameters without embedding and 256 MiB of cache.
    assert [card.value for card in cards] == ["973M", "7.45 GFLOPs", "256 MiB"]
    assert cards[2].convention == "exact; paper, bf16: 256 MiB"


def test_the_card_of_a_speed_has_the_prediction_beside_it() -> None:
    (card,) = run_cards(generated())
    assert card.name == "prefill, batch 2 x 64, 32 tokens at a time"
    assert card.value == "50 tokens/s"
    assert card.convention == "measured, 3 repeats; predicted 80 tokens/s"


def test_a_run_says_how_much_of_the_prediction_it_reached() -> None:
    run = generated()
    said = of_run(run, cost(run.spec, Workload(), hardware.get("h100_sxm")))
    assert said[0].text.startswith("1 Attention and 1 Mamba-2 layers, ")
    assert said[-1].text == (
        "On cpu it generated 100 tokens/s up to 2K (measured), 50% of the predicted speed."
    )
    assert said[-1].sources == ("generation",)


def test_rows_of_a_design_have_the_entries_that_explain_them() -> None:
    spec = presets.get("llama-1b").spec
    sources = design_sources(spec, Workload(), hardware.get("h100_sxm"))
    assert sources["total parameters (exact)"] == "parameters_in_all"
    assert sources["cache per sequence at 8K (exact)"] == "cache"
    assert "n_layers" not in sources
