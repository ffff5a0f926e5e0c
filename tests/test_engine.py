"""The cache in a serving engine's equal pages, by hand from the published configs."""

import json

import pytest

from hybrid_core import hardware, presets
from hybrid_core.cli import main
from hybrid_core.costs.engine import engine_view, pages
from hybrid_core.costs.fit import fit
from hybrid_core.costs.model import model_costs
from hybrid_core.workload import Workload
from tests.designs import design

HALF = Workload(state_dtype="bf16")


def spec(name: str):
    return presets.models()[name].spec


def test_bambas_attention_block_grows_to_the_mamba_page() -> None:
    """A state of 128 x 64 x 128 and 3 inputs of 8448 channels at two bytes are 2,147,840; a token of 2 x 8 x 128 at two bytes 4,096: 33
    steps of 16 tokens hold the state, so a block is 528 tokens. 3 attention layers make one group, 29 Mamba layers ten."""
    laid_out = pages(spec("Bamba-9B"), HALF)
    assert (laid_out.page_bytes, laid_out.block_tokens, laid_out.group_size) == (528 * 4096, 528, 3)
    assert laid_out.sequence_bytes(8192) == 3 * 528 * 4096 * (16 + 10)
    assert laid_out.sequence_bytes(1) == 3 * 528 * 4096 * 11


def test_a_state_in_float32_doubles_the_block_and_not_quite_the_page() -> None:
    """Nemotron-H-8B: 128 x 64 x 128 at four bytes and 3 x 10240 at two are 4,255,744: 65 steps of 65,536."""
    laid_out = pages(spec("Nemotron-H-8B"), Workload(state_dtype="fp32"))
    assert (laid_out.block_tokens, laid_out.page_bytes) == (1040, 65 * 65536)
    assert laid_out.sequence_bytes(8192) == 4 * 65 * 65536 * (8 + 6)


def test_jambas_small_states_need_a_small_block() -> None:
    """8192 x 16 and 3 x 8192 at two bytes are 311,296, less than five steps of 65,536."""
    assert pages(spec("Jamba-v0.1"), HALF).block_tokens == 80


def test_without_states_pages_only_round_up() -> None:
    laid_out = pages(spec("Llama-3.2-1B"), HALF)
    assert laid_out.block_tokens == 16
    assert laid_out.sequence_bytes(8192) == 268_435_456
    assert laid_out.sequence_bytes(8193) == 268_435_456 + 16 * 16 * 2 * 8 * 64 * 2


def test_windows_hold_one_block_more_than_they_need() -> None:
    """gpt-oss: 12 layers of each kind, 128 tokens of window: 127 tokens before the newest take 8 blocks, and one more is begun."""
    token = 2 * 8 * 64 * 2
    assert pages(spec("gpt-oss-20b"), HALF).sequence_bytes(8192) == 16 * token * 12 * (512 + 9)


def test_without_attention_pages_are_states() -> None:
    mamba = spec("mamba2-130m")
    laid_out = pages(mamba, HALF)
    assert laid_out.block_tokens == 0
    assert laid_out.sequence_bytes(8192) == model_costs(mamba).cache_bytes(8192, "exact", HALF)


@pytest.mark.parametrize("name", presets.models())
def test_pages_never_hold_less_than_the_cache_and_what_fits_fits(name: str) -> None:
    device, work = hardware.get("h200_sxm"), Workload(context_len=3000)
    view = engine_view(spec(name), work, device)
    assert view.paged_bytes >= view.ideal_bytes
    assert view.paged.batch_size <= view.ideal.batch_size
    assert view.paged.context_len <= view.ideal.context_len
    for most, refused in ((view.ideal.batch_size, "refusal"), (view.paged.batch_size, "paged_refusal")):
        if most:
            assert getattr(fit(spec(name), Workload(context_len=3000, batch_size=most), device), refused) is None
        assert getattr(fit(spec(name), Workload(context_len=3000, batch_size=most + 1), device), refused) is not None


def test_cost_shows_both_views(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "Bamba-9B", "--state-dtype", "bf16", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["cache_bytes"]["paged"] == 3 * 528 * 4096 * 26
    assert record["engine"]["block_tokens"] == 528
    assert main(["cost", "Bamba-9B", "--state-dtype", "bf16"]) == 0
    assert "pages of 2.06 MiB, 528 tokens of attention" in capsys.readouterr().out


def test_every_kind_of_layer_has_pages() -> None:
    for pattern in ("AMSH", "DN", "S"):
        assert pages(design(pattern), HALF).sequence_bytes(64) > 0
