"""Table 13 as printed, matched to designs. The figures are typed from the paper."""

import math

import pytest

from hybrid_core.design import presets
from hybrid_core.evidence import throughput


def test_a_design_has_the_speeds_that_table_13_prints_for_it() -> None:
    llama = throughput.throughput(presets.get("llama-1b").spec)
    assert llama
    assert llama.totals == [2048, 4096, 8192, 16384, 32768]
    assert llama.tokens_per_s == [373, 214, 115, 60, 30]
    assert throughput.throughput(presets.get("llama-350m").spec) is None


def test_a_misprinted_row_is_of_the_layers_that_it_means() -> None:
    """1:3 is printed as 10 + 2, and nothing is printed of 10 + 2 itself."""
    assert throughput.throughput_of((0, 0, 10, 3))
    assert throughput.throughput_of((0, 0, 10, 2)) is None


def test_a_row_beside_the_ceiling_is_of_one_of_four_sequences() -> None:
    rows = throughput.beside_ceiling(presets.get("llama-1b").spec)
    assert [row["paper_a_sequence"] for row in rows] == [373 / 4, 214 / 4, 115 / 4, 60 / 4, 30 / 4]
    for row in rows:
        printed = row["ratio"] * row["predicted_tokens_per_s"]
        assert printed == pytest.approx(row["paper_tokens_per_s"], rel=1e-12)


def test_the_nearest_total_length_is_taken_and_said() -> None:
    spec = presets.get("llama-1b").spec
    row = throughput.nearest_length(spec, 9000)
    assert row and row["total_len"] == 8192
    said = throughput.generated(spec, 9000)
    assert said == "29 tokens/s per sequence to 8,192 tokens (quoted, one H200, batch 4, Table 13)"
    assert throughput.generated(presets.get("llama-3b").spec, 9000) is None


def test_figure_1b_has_the_loss_of_table_9_and_the_speed_of_table_13() -> None:
    rows = throughput.quality_and_speed(8192).set_index(["model", "layers"])
    assert rows.loc[("llama", "16"), "nll_dclm"] == 2.750
    assert rows.loc[("llama", "16"), "tokens_per_s"] == 115
    assert rows.loc[("swa", "8+8"), "tokens_per_s"] == 158
    assert not any(math.isinf(speed) for speed in rows["tokens_per_s"])
