"""What fits an accelerator: one rule, against sums worked by hand."""

import json

import pytest

from hybrid_core.cli.main import main
from hybrid_core.costs.fit import fit
from hybrid_core.costs.memory import (
    Refusal,
    Serving,
    largest,
    memory,
    narrower_weights,
    rope_table_width,
    size_words,
)
from hybrid_core.costs.model import model_costs
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence.guide import Need, candidates
from hybrid_core.interop import published
from hybrid_core.report.compare import design_facts
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import cost
from hybrid_core.workload import Workload
from tests.designs import design

GIB = 2**30
HYBRID = presets.get("inter-1to5-1b").spec
H100 = hardware.get("h100_sxm")


def test_a_long_prompt_of_a_large_batch_fits_where_weights_cache_and_one_chunk_do() -> None:
    """2.44e9 bytes of weights; 16 x (2 layers x 2 x 8 x 64 x 131,072 x 2 bytes + 11 states); not
    152 GiB of one prefill of everything."""
    work = Workload(batch_size=16, context_len=131_072)
    used = memory(HYBRID, work)
    state = 4096 * 128 * 2 + 3 * (4096 + 2 * 128) * 2
    assert used.weights == 2 * 1_221_604_128
    assert used.cache == 16 * (2 * 2 * 8 * 64 * 131_072 * 2 + 11 * state)
    assert used.activations < GIB
    verdict = fit(HYBRID, work, H100)
    assert verdict.refusal is None
    assert verdict.problem is None
    assert cost(HYBRID, work, H100).memory_bytes.one_shot_activations > 100 * GIB


def test_activations_are_linear_in_the_chunk_and_do_not_grow_with_the_context() -> None:
    """A chunk has no matrix of scores: twice the tokens are twice the bytes, but for one row of
    logits a sequence."""
    logits = 2 * HYBRID.vocab_size

    def chunk(tokens: int, context_len: int = 2**20) -> int:
        return int(
            memory(HYBRID, Workload(context_len=context_len, max_batched_tokens=tokens)).activations
        )

    assert chunk(16_384) - logits == pytest.approx(2 * (chunk(8192) - logits), rel=0.02)
    assert chunk(8192) == chunk(8192, 2**17)
    assert chunk(8192, 512) == chunk(512)  # a short prompt is one chunk


def test_every_sequence_has_its_row_of_logits() -> None:
    one, many = (
        int(memory(HYBRID, Workload(batch_size=n, context_len=65_536)).activations) for n in (1, 33)
    )
    assert many - one == 32 * 2 * HYBRID.vocab_size


@pytest.mark.parametrize(
    "name", ["inter-1to5-1b", "Jamba-v0.1", "Falcon-H1-1.5B", "mamba2-130m", "gpt-oss-20b"]
)
@pytest.mark.parametrize("context_len", [512, 8192, 131_072, 2**20])
def test_cost_compose_guide_and_compare_give_one_verdict(name: str, context_len: int) -> None:
    """The most sequences that `cost` prints fit, and one more does not, by the verdict that all
    others show."""
    spec = published.resolve(name)
    most = cost(spec, Workload(context_len=context_len), H100).engine.ideal.batch_size
    for batch_size, fits in ((most, True), (most + 1, False)):
        if not 1 <= batch_size <= 65_536:
            continue
        work = Workload(context_len=context_len, batch_size=batch_size)
        assert (fit(spec, work, H100).refusal is None) == fits
        assert cost(spec, work, H100).fit.fits == fits
        assert (design_facts(spec, work, H100)[f"fits {H100.name} (exact)"] == "no") != fits


def test_the_guide_asks_the_same_rule() -> None:
    need = Need(context_len=131_072, batch_size=16, hardware="h100_sxm")
    for found in candidates(need):
        problem = fit(found.spec, need.workload, H100).problem
        assert problem is None or problem in (found.problem or "")


def test_a_refusal_names_what_would_fit() -> None:
    """Llama-3.2-1B at 2**20 tokens: 32 GiB of keys and values each."""
    verdict = fit(
        published.resolve("Llama-3.2-1B"), Workload(batch_size=4, context_len=2**20), H100
    )
    refused = verdict.refusal
    assert refused is not None
    assert refused.batch_size == 2  # 64 of the 71.7 GiB that are used, beside 2.3 GiB of weights
    assert (verdict.problem or "").startswith(f"does not fit {H100.name}: {refused}")


def test_pages_may_be_what_does_not_fit() -> None:
    """One page holds a state of its own and rounds every sequence up: at 16 tokens a sequence pages
    are most of the memory."""
    spec = published.resolve("Bamba-9B")
    view = cost(spec, Workload(context_len=16), H100).engine
    work = Workload(context_len=16, batch_size=view.paged.batch_size + 1)
    verdict = fit(spec, work, H100)
    assert verdict.refusal is None
    assert "not in vLLM's equal-size pages" in (verdict.problem or "")
    assert not verdict.fits_engine


def test_cost_prints_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["cost", "inter-1to5-1b", "--context-len", "131072", "--batch-size", "16", "--json"])
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    assert set(record["fit"]) == {
        "weights",
        "cache",
        "activations",
        "engine",
        "usable",
        "fits",
        "fits_engine",
        "problem",
    }
    assert record["fit"]["fits"] and record["fit"]["usable"] == int(0.9 * 81_559 * 2**20)
    assert main(["cost", "inter-1to5-1b", "--max-batched-tokens", "0"]) == 2
    assert "max_batched_tokens: 0 - must be greater than or equal to 1" in capsys.readouterr().err


def test_a_stack_without_mixers_has_costs() -> None:
    """It keeps nothing: no cache, no pages."""
    spec: ArchSpec = design("--", layers={"pattern": "--"})
    found = cost(spec, Workload(batch_size=2), H100)
    assert found.cache_bytes.model_dump() == {"paper": 0, "exact": 0, "paged": 0}
    assert found.fit.fits


def test_what_is_served_is_worked_out_from_the_workload_alone() -> None:
    serving = Serving(HYBRID, Workload(prompt_len=512, context_len=32_768))
    assert serving.fixed_bytes(4, 32_768) == serving.weights + int(serving.activations(4, 512))


@pytest.mark.parametrize("available", [0, 6, 7, 50, 51, 998, 10**6])
def test_the_largest_that_fits_is_the_one_that_counting_finds(available: int) -> None:
    """Bytes that bend at 20 and go in steps of 8, as activations and pages do."""

    def needed(n: int) -> int:
        return 7 * min(n, 20) + 40 * -(-n // 8) - 40

    counted = max((n for n in range(1, 201) if needed(n) <= available), default=0)
    assert largest(200, needed, available) == counted


def test_sizes_below_a_gibibyte_are_said_in_mebibytes() -> None:
    assert size_words(2**30 + 2**29) == "1.5 GiB"
    assert size_words(5_000 * 2**30) == "5,000.0 GiB"
    assert size_words(2**30 - 2**20) == "1,023.0 MiB"


def test_a_refusal_is_none_or_says_what_would_fit() -> None:
    numbers = {"needed_bytes": 3 * 2**30, "available_bytes": 2**30}
    some = Refusal(**numbers, batch_size=2, context_len=None, weight_dtype="int4")
    none = Refusal(**numbers, batch_size=None, context_len=None, weight_dtype=None)
    needs = "needs 3.0 GiB, 1.0 GiB are available"
    assert str(some) == f"{needs}; batch 2 or weights in int4 would fit"
    assert str(none) == f"{needs}; a smaller model is needed"


def test_narrower_weights_are_offered_where_they_alone_would_fit() -> None:
    """2.44 GB of bf16, of which fp8 halves all but the embedding (0.53 GB): about 61 % are left.
    Nothing narrower is offered than is needed."""
    serving = Serving(HYBRID, Workload(context_len=1024))
    cache = 100 * 2**20
    whole = serving.fixed_bytes(1, 1024) + cache
    assert narrower_weights(serving, int(whole * 0.7), cache) == "fp8"
    assert narrower_weights(serving, cache, cache) is None


def test_layers_with_equal_rotary_settings_share_one_table() -> None:
    """16 layers of one kind: 64 cosines and 64 sines a position. A hybrid without RoPE has none."""
    llama = presets.get("llama-1b").spec
    assert rope_table_width(model_costs(llama)) == 2 * 64
    assert rope_table_width(model_costs(design("M"))) == 0
