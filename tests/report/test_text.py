"""What the commands print: hand-made records in, lines and cells out."""

from typing import Any

import pytest

from hybrid_core.costs.model import Params
from hybrid_core.evidence.advice.advise import advise
from hybrid_core.evidence.paper_check import Cell
from hybrid_core.interop import published
from hybrid_core.report.numbers import Number, fits_words, how_measured, in_chunks, of_name
from hybrid_core.report.text.design import (
    calibration_table,
    cost_table,
    imported_line,
    models_table,
)
from hybrid_core.report.text.evidence import (
    advice_lines,
    paper_check_table,
    quality_table,
    throughput_ratio_table,
)
from hybrid_core.report.text.runs import kept_in, remark, run_table, runs_table
from hybrid_core.results.profile import Energy, Prefill
from hybrid_core.runs.store import Run, open_store
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import cost
from hybrid_core.speed.hardware import Rates
from hybrid_core.workload import Workload
from tests.designs import design


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("HYBRID_DATABASE_URL", raising=False)


def cells_of(text: str, first: str) -> list[str]:
    """The cells of the line that begins with some words."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(first)]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


# ---------------------------------------------------------------- designs


def test_the_costs_of_a_design_are_lines_of_name_value_and_convention() -> None:
    spec = published.resolve("llama-1b")
    found = cost(spec, Workload(), hardware.get("h100_sxm"))
    text = cost_table(found)
    assert text.startswith("llama-1b: 16 attention\nAAAAAAAAAAAAAAAA\n")
    # Table 9 prints 0.97B without embedding, and 256 MiB of cache.
    assert cells_of(text, "without embedding") == ["without embedding", "973M", "exact"]
    assert cells_of(text, "cache per sequence, bf16 ")[1:] == ["256 MiB", "paper"]
    assert cells_of(text, "fits ")[1] == "yes"


def test_published_models_say_what_is_not_as_quoted_and_what_is_only_costed() -> None:
    models = published.models()
    text = models_table({name: models[name] for name in ("Llama-3.2-1B", "Vamba-Qwen2-VL-7B")})
    # Meta's model card: 1.23B parameters. 16 layers keep 8 heads x 64 x 2 values of two bytes.
    llama = cells_of(text, "Llama-3.2-1B")
    assert llama == ["Llama-3.2-1B", "16A", "1.24B", "1.24B", "256 MiB", "the same", "built"]
    assert cells_of(text, "Vamba")[-1].startswith("costed (")


def test_an_imported_design_is_told_in_one_line() -> None:
    params = Params(
        total=3_000_000_000, non_embedding=2_500_000_000, active=1_000_000_000, embedding=1
    )
    line = imported_line("one", params, 3 * 2**20, "no kernel")
    assert line == (
        "one: 3B parameters, 1B active, 2.5B without embedding; cache at 8K 3 MiB (two bytes per "
        "element); costed, not built (no kernel)"
    )
    assert imported_line("one", params, 2**20, None).endswith("; built")


def test_a_calibration_is_told_in_rates() -> None:
    rates = Rates(
        dtype="fp32",
        linear=((128, 1e-9),),
        attention_flops_per_s=2e12,
        window_flops_per_s=1e12,
        scan_flops_per_s=5e11,
        kv_bytes_per_s=4e10,
        state_bytes_per_s=3e10,
        elementwise_bytes_per_s=2e10,
        call_s={"attention": 0.002},
    )
    device = hardware.get("cpu_laptop").model_copy(update={"rates": rates, "key": "mine"})
    text = calibration_table(device)
    assert "kept as mine: use it with --hardware" in text
    # A row is one weight of 2 FLOPs: 2 x 128 / 1 ns.
    assert cells_of(text, "product with weights, 128 rows")[1] == "256.0 GFLOP/s"
    assert cells_of(text, "causal attention")[1] == "2,000 GFLOP/s"
    assert cells_of(text, "keys and values in decode")[1] == "40.0 GB/s"
    assert cells_of(text, "calls of a attention layer")[1] == "2 ms"


@pytest.mark.parametrize(
    ("fits", "fits_engine", "said"),
    [(True, True, "yes"), (True, False, "not in vLLM's pages"), (False, False, "no")],
)
def test_a_verdict_is_a_word_or_two(fits: bool, fits_engine: bool, said: str) -> None:
    assert fits_words(fits, fits_engine) == said


# ---------------------------------------------------------------- evidence


def test_advice_is_one_paragraph_a_rule_or_a_line_that_there_is_none() -> None:
    spec = published.resolve("mamba-1b")
    given = advise(spec, 32768)
    paragraphs = advice_lines(spec.name, given).split("\n")
    assert paragraphs[0] == "mamba-1b, long context"
    assert all(len(line) <= 110 for line in paragraphs)
    assert f"{given[0].rule.kind}, {given[0].rule.control}: " in paragraphs[1]
    assert advice_lines("x", []).startswith("x: the paper's tables suggest no change")


def test_printed_speeds_stand_beside_their_ceiling() -> None:
    row = {
        "name": "mamba-1b",
        "total_len": 8192,
        "paper_tokens_per_s": 3000.0,
        "predicted_tokens_per_s": 12000.0,
        "ratio": 0.25,
    }
    cells = cells_of(throughput_ratio_table([row]), "mamba-1b")
    assert cells == ["mamba-1b", "8K", "3,000 tokens/s", "12K tokens/s", "0.25"]


def test_mismatches_are_counted_and_listed_with_their_reason() -> None:
    def cell(printed: str, computed: float, agrees: bool) -> Cell:
        return Cell("table09_1b", "llama 16", "cache_mib", printed, computed, agrees, None)

    cells = [cell("256", 256.0, True), cell("255", 256.0, False)]
    text = paper_check_table({"table09_1b": cells, "table10_350m": [cell("1", 1.0, True)]})
    assert cells_of(text, "all") == ["all", "3", "2", "0", "1"]
    assert "9      llama 16  cache_mib  255      256       UNEXPLAINED" in text


def test_what_quality_prints_has_a_table_for_each_question() -> None:
    constants = {}
    for name, value in (
        ("irreducible", 2.0),
        ("a", 0.4),
        ("b", 1.5),
        ("alpha", 0.3),
        ("beta", 0.5),
    ):
        constants |= {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}
    exponents = {}
    for name in ("params_exponent", "tokens_exponent", "law_params_exponent"):
        exponents |= {name: 0.5, f"{name}_low": 0.4, f"{name}_high": 0.6}
    for name in ("tokens_per_param", "law_tokens_per_param"):
        exponents |= {name: 20.0, f"{name}_first": 30.0, f"{name}_last": 10.0}
    error = {"family": "llama", "scale": "1B", "pattern": "AA", "experts": True, "tokens": 60e9}
    error |= {"table": "9", "nll": 2.75, "predicted": 2.74, "error": 0.01, "baseline_error": None}
    record = {
        "laws": [{"family": "llama", "mean_error": 0.004} | constants],
        "slopes": [{"family": "llama"} | exponents],
        "accuracy": [
            {
                "kind": "designs",
                "rows": 70,
                "mean_error": 0.0051,
                "largest": 0.02,
                "rows_with_baseline": 60,
                "mean_error_there": 0.005,
                "baseline_mean_error": 0.01,
            }
        ],
        "widths": [{"rests_on": "other designs", "half": 0.0123}],
        "coverage": [
            {
                "kind": "designs",
                "left_out": "design",
                "family": "all",
                "scale": "all",
                "n": 10,
                "covered": 9,
                "share": 0.9,
                "low": 0.55,
                "high": 1.0,
                "mean_half": 0.011,
            }
        ],
        "leave_one_out": [error],
    }
    text = quality_table(record)
    paragraphs = text.split("\n\n")
    assert len(paragraphs) == 6
    assert "llama   2.00 (1.90 to 2.10)  0.40 (0.30 to 0.50)" in paragraphs[0]
    assert "20 (30 to 10)" in paragraphs[1]
    assert cells_of(paragraphs[2], "designs")[1:4] == ["70", "0.0051", "0.0200"]
    assert cells_of(paragraphs[3], "other designs") == ["other designs", "0.0123"]
    assert cells_of(paragraphs[4], "designs, design")[3:7] == ["10", "9", "90%", "55% to 100%"]
    assert "AA, experts  60.0B" in paragraphs[5] and "+0.010" in paragraphs[5]


# ---------------------------------------------------------------- runs


def run(kind: str = "profile", status: Any = "done", **parts: dict[str, Any]) -> Run:
    store = open_store()
    options = {"dtype": "bf16", "kv_cache_dtype": "fp8", "state_dtype": "fp32"}
    run_id = store.create(kind, design("AM"), options, "cpu")
    for name, data in parts.items():
        store.put_part(run_id, name, data)
    store.finish(run_id, status, "" if status == "done" else "out of memory")
    return store.get(run_id)


def test_the_list_of_runs_has_a_line_each_or_says_how_to_make_one() -> None:
    assert runs_table([]) == "no runs yet; `python -m hybrid_core profile SPEC` makes one"
    failed = run(status="failed")
    done = run()
    assert (remark(failed), remark(done)) == ("out of memory", "")
    lines = runs_table([done, failed]).splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        [str(done.id), "done", "cpu"],
        [str(failed.id), "failed", "cpu"],
    ]
    assert lines[2].endswith("small-AM  out of memory")


def test_a_run_says_the_dtypes_that_it_used() -> None:
    assert kept_in(run()) == "weights bf16, keys and values fp8, scan states fp32"


def test_a_run_that_failed_says_so_first() -> None:
    assert run_table(run(status="failed")).startswith("run 1: small-AM, failed (out of memory)")


def test_numbers_of_one_name_are_found_by_their_convention() -> None:
    found = [
        Number("prefill", 10.0, "tokens/s", "measured", "prefill"),
        Number("prefill", 20.0, "tokens/s", "predicted", "prefill"),
        Number("decode", 5.0, "tokens/s", "measured", "decode"),
    ]
    said = {convention: number.said for convention, number in of_name(found, "prefill").items()}
    assert said == {"measured": "10 tokens/s", "predicted": "20 tokens/s"}


def test_a_prefill_says_how_it_was_cut() -> None:
    prefill = Prefill.model_construct(chunk_tokens=2048)
    assert in_chunks(prefill) == ", 2,048 tokens at a time"
    assert in_chunks(Prefill.model_construct(chunk_tokens=None)) == ""


def test_a_metered_run_says_what_its_figures_are() -> None:
    metered = Energy(meter="NVML total energy", note="", error=0.031)
    assert how_measured(metered) == (
        "NVML total energy, idle power included, over counted steps alone; "
        "within 3% by the meter's steps"
    )
