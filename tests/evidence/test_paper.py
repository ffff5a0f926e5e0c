"""The paper's cells, recomputed in its own convention and compared as printed. What cannot agree is
listed in profiles/paper/contradictions.csv."""

from collections.abc import Iterator

import numpy as np
import pytest

from hybrid_core.costs.model import ModelCosts, model_costs
from hybrid_core.design import presets
from hybrid_core.evidence import baselines, errata, paper_check
from hybrid_core.evidence.throughput import throughput_ratios
from tests.designs import PaperRow, paper_rows

ROWS = paper_rows()
MIB = 2**20


def two_digits(value: float) -> str:
    return f"{value:.1e}"


def tokens(printed_b: float) -> np.ndarray:
    """Token counts that a printed number of billions can stand for: 60 is the data budget, exactly;
    others are rounded to 1B."""
    return (
        np.array([60e9])
        if printed_b == 60
        else np.linspace(printed_b - 0.5, printed_b + 0.5, 201) * 1e9
    )


def agreements(row: PaperRow, costs: ModelCosts) -> Iterator[tuple[str, bool]]:
    """Each column of a row, and whether the recomputed cell is the printed one."""
    context = int(row.cells.get("context_len", 8192))
    yield "n_emb_b", round(costs.params().non_embedding / 1e9, 2) == row.cells["n_emb_b"]
    flops = tokens(row.cells["tokens_b"]) * costs.train_flops_per_token(context, "paper")
    yield "train_flops", two_digits(row.cells["train_flops"]) in set(map(two_digits, flops))
    yield "cache_mib", round(costs.cache_bytes(context, "paper") / MIB) == row.cells["cache_mib"]


def disagreements(row: PaperRow) -> set[tuple[str, str, tuple[int, ...], str]]:
    costs = model_costs(presets.get(row.presets[0]).spec)
    return {
        (row.table, row.cells["model"], row.counts, column)
        for column, agrees in agreements(row, costs)
        if not agrees
    }


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_parameters_flops_and_cache_are_the_printed_ones(row: PaperRow) -> None:
    assert disagreements(row) <= set(errata.reasons())


@pytest.mark.parametrize("name", paper_check.ROW_DESIGNS)
def test_every_cell_of_every_table_agrees_or_is_explained(name: str) -> None:
    cells = paper_check.check(name)
    assert cells
    assert [cell for cell in cells if not cell.agrees and not cell.reason] == []


def test_every_listed_contradiction_is_one() -> None:
    used = {
        reason
        for cells in paper_check.check_all().values()
        for cell in cells
        if (reason := cell.contradiction)
    }
    assert used == set(errata.reasons())


@pytest.mark.parametrize(
    ("value", "printed", "agrees"),
    [
        (3.66e20, "3.7e20", True),
        (3.66e20, "3.6e20", False),
        (43.365, "43", True),
        (0.9589, "0.96", True),
        (1.5e19, "2e19", True),
    ],
)
def test_printed_precision_is_the_prints_own(value: float, printed: str, agrees: bool) -> None:
    assert paper_check.rounds_to(value, printed) == agrees


@pytest.mark.parametrize("name", presets.TABLE2)
def test_the_five_designs_of_table_2_agree_in_every_cell(name: str) -> None:
    (row,) = (row for row in ROWS if row.presets == [name] and row.cells.get("budget") == "data")
    assert disagreements(row) == set()


@pytest.mark.parametrize(
    ("_", "row"),
    [row for row in baselines.table("table04_moe").iterrows() if row[1]["experts"] == "1+8"],
    ids=str,
)
def test_total_and_active_parameters_of_the_mixtures_of_experts_are_table_4s(
    _: int, row: dict[str, float]
) -> None:
    ratio = {"inter": "-1to5", "intra": "-1to5"}.get(str(row["model"]), "")
    params = model_costs(presets.get(f"{row['model']}{ratio}-moe-1b").spec).params()
    assert round(params.non_embedding / 1e9, 2) == row["total_b"]
    assert round((params.active - params.embedding) / 1e9, 2) == row["active_b"]


# Appendix C and Table 8, worked by hand for one layer of each kind at 1B and 8,192 tokens.
def test_the_hand_numbers_of_appendix_c() -> None:
    llama, mamba = (model_costs(presets.get(f"{name}-1b").spec) for name in ("llama", "mamba"))
    assert (
        llama.cache_bytes(8192, "paper") == 256 * MIB
    )  # 16 layers * 2 (k, v) * 8 heads * 64 * 8192 tokens * 2 bytes
    assert mamba.cache_bytes(8192, "paper") == 13 * 2 * (
        4096 * 128 + 4 * (2 * 128 + 4096)
    )  # 13.4 MiB
    assert mamba.cache_bytes(8192, "paper") / MIB == pytest.approx(13.4, abs=0.05)
    assert sum(llama.layers[0].mixer.params().values()) == 2 * 2048**2 + 2 * 2048 * 64 * 8  # 10M
    in_proj, conv, heads = 2048 * (2 * 4096 + 2 * 128 + 32), 4096 + 2 * 128, 3 * 32
    mixer = (
        in_proj + conv * (4 + 1) + heads + 4096 + 4096 * 2048
    )  # 25M; the convolution has 4 taps and a bias
    assert sum(mamba.layers[0].mixer.params().values()) == mixer
    assert llama.layers[0].mixer.paper_train_flops(8192) == 12 * 2048 * 8193 / 2
    assert mamba.layers[0].mixer.paper_train_flops(8192) == 3 * (9 * 4096 * 128 + 2 * 4096)


def test_the_hand_numbers_of_a_window() -> None:
    layer = next(
        layer
        for layer in model_costs(presets.get("swa-1to5-1b").spec).layers
        if layer.layer.letter == "S"
    )
    window, length = 512 + 64, 8192
    assert layer.mixer.paper_cache_bytes(length) == 4 * 8 * 64 * window
    pairs = window * ((window + 1) / 2 + (length - window))
    assert layer.mixer.paper_train_flops(length) == pytest.approx(
        12 * 2048 * pairs / length, rel=1e-12
    )


def test_the_hand_numbers_of_an_intra_block() -> None:
    mixer = model_costs(presets.get("intra-1to5-1b").spec).layers[4].mixer
    assert mixer.paper_train_flops(8192) == 6 * (1152 + 16 * 128) * 8193 / 2 + 3 * (
        9 * 2304 * 128 + 2 * 2304
    )
    assert mixer.paper_cache_bytes(8192) == 2 * (72 + 128) * 4 * 8192 + 2 * (
        2304 * 128 + 4 * (2 * 128 + 2304)
    )


def test_all_of_table_13_stands_beside_the_ceiling_of_its_device() -> None:
    rows = {(row["name"], row["total_len"]): row for row in throughput_ratios()}
    assert len(rows) == 16 * 5  # its rows at its five total lengths
    assert rows["mamba-1b", 32768]["paper_tokens_per_s"] == 2917  # as printed
    assert all(0 < row["ratio"] < 1 for row in rows.values())  # nobody runs faster than the ceiling


def test_columns_of_the_tables_are_shown_in_words_no_two_alike() -> None:
    for name in baselines.TABLES:
        columns = list(baselines.table(name).columns)
        assert len({baselines.heading(column) for column in columns}) == len(columns)
    said = [
        baselines.heading(column)
        for column in ("n_emb_b", "tput_8k", "latency_s_32k", "nll_dclm", "d_model")
    ]
    assert said == [
        "parameters without embedding (B)",
        "tokens/s at 8K total",
        "seconds to 32K total",
        "NLL DCLM (nats)",
        "d_model",
    ]
