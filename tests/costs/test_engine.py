"""The cache in a serving engine's equal pages, by hand from the published configs."""

import json

import pytest

from hybrid_core.cli.main import main
from hybrid_core.costs.engine import engine_view, pages
from hybrid_core.costs.fit import fit
from hybrid_core.costs.model import model_costs
from hybrid_core.interop import published
from hybrid_core.interop.huggingface import spec_from_config
from hybrid_core.speed import hardware
from hybrid_core.validation import SpecError
from hybrid_core.workload import Workload
from tests.designs import design

HALF = Workload(state_dtype="bf16")


def spec(name: str):
    return published.models()[name].spec


def test_bambas_attention_block_grows_to_the_mamba_page() -> None:
    """A state of 128 x 64 x 128 and 3 inputs of 8448 channels at two bytes are 2,147,840; a token
    of 2 x 8 x 128 at two bytes 4,096: 33 steps of 16 tokens hold the state, so a block is 528
    tokens. 3 attention layers make one group, 29 Mamba layers ten."""
    laid_out = pages(spec("Bamba-9B"), HALF)
    assert (laid_out.page_bytes, laid_out.block_tokens, laid_out.group_size) == (528 * 4096, 528, 3)
    assert laid_out.sequence_bytes(8192) == 3 * 528 * 4096 * (16 + 10)
    assert laid_out.sequence_bytes(1) == 3 * 528 * 4096 * 11


def test_a_state_in_float32_doubles_the_block_and_not_quite_the_page() -> None:
    """Nemotron-H-8B: 128 x 64 x 128 at four bytes and 3 x 10240 at two are 4,255,744: 65 steps of
    65,536."""
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
    """gpt-oss: 12 layers of each kind, 128 tokens of window: 127 tokens before the newest take 8
    blocks, and one more is begun."""
    token = 2 * 8 * 64 * 2
    assert pages(spec("gpt-oss-20b"), HALF).sequence_bytes(8192) == 16 * token * 12 * (512 + 9)


def test_without_attention_pages_are_states() -> None:
    mamba = spec("mamba2-130m")
    laid_out = pages(mamba, HALF)
    assert laid_out.block_tokens == 0
    assert laid_out.sequence_bytes(8192) == model_costs(mamba).cache_bytes(8192, "exact", HALF)


@pytest.mark.parametrize("name", published.models())
def test_pages_never_hold_less_than_the_cache_and_what_fits_fits(name: str) -> None:
    device, work = hardware.get("h200_sxm"), Workload(context_len=3000)
    view = engine_view(spec(name), work, device.usable_bytes)
    assert view.paged_bytes >= view.ideal_bytes
    assert view.paged.batch_size <= view.ideal.batch_size
    assert view.paged.context_len <= view.ideal.context_len
    for most, refused in (
        (view.ideal.batch_size, "refusal"),
        (view.paged.batch_size, "paged_refusal"),
    ):
        if most:
            assert (
                getattr(
                    fit(spec(name), Workload(context_len=3000, batch_size=most), device), refused
                )
                is None
            )
        assert (
            getattr(
                fit(spec(name), Workload(context_len=3000, batch_size=most + 1), device), refused
            )
            is not None
        )


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


# ---------------------------------------------------------------- against vLLM's logs

GRANITE_350M = {
    "model_type": "granitemoehybrid",
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 32,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "shared_intermediate_size": 2048,
    "vocab_size": 100_352,
    "mamba_n_heads": 48,
    "mamba_n_groups": 1,
    "mamba_d_state": 128,
    "mamba_d_head": 32,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "position_embedding_type": "nope",
    "tie_word_embeddings": True,
    "layer_types": ["mamba"] * 10 + ["attention"] + ["mamba"] * 2 + ["attention"]
    + ["mamba"] * 3 + ["attention"] + ["mamba"] * 9 + ["attention"] + ["mamba"] * 4,
}  # fmt: skip
FALCON_H1_7B = {
    "model_type": "falcon_h1",
    "hidden_size": 3072,
    "intermediate_size": 12_288,
    "num_hidden_layers": 44,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "mamba_d_ssm": 3072,
    "mamba_n_heads": 24,
    "mamba_d_head": 128,
    "mamba_d_state": 256,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "vocab_size": 130_048,
}


def test_granites_block_is_the_logged_one() -> None:
    """vLLM: 'Setting attention block size to 400 tokens', 'Padding mamba page size by 1.39%'.
    States are in the model's bf16: 48 x 32 x 128 and 3 inputs of 1,792 channels at two bytes are
    403,968; a token of 2 x 4 x 64 at two bytes 1,024."""
    spec = spec_from_config(GRANITE_350M)
    laid_out = pages(spec, Workload())
    assert (laid_out.block_tokens, laid_out.page_bytes) == (400, 409_600)
    assert pytest.approx(1.0139, abs=5e-5) == 409_600 / 403_968


def test_qwen3_nexts_block_is_the_logged_one() -> None:
    """vLLM: 'Setting attention block size to 544 tokens', 'Padding mamba page size by 1.49%': 32 x
    128 x 128 and 3 inputs of 8,192 channels at two bytes are 1,097,728; a token of 2 x 2 x 256 at
    two bytes 2,048."""
    laid_out = pages(spec("Qwen3-Next-80B-A3B"), Workload())
    assert (laid_out.block_tokens, laid_out.page_bytes) == (544, 544 * 2048)
    padded = 544 * 2048 / 1_097_728
    assert padded == pytest.approx(1.0149, abs=5e-5)
    assert pages(spec("Qwen3-Next-80B-A3B"), Workload(state_dtype="fp32")).block_tokens == 1056


KIMI_LINEAR = {
    "model_type": "kimi_linear",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 27,
    "num_attention_heads": 32,
    "vocab_size": 163_840,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "linear_attn_config": {
        "num_heads": 32,
        "head_dim": 128,
        "short_conv_kernel_size": 4,
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
    },
}


def test_kimi_keeps_its_states_in_float32() -> None:
    """vLLM does, whatever the model's dtype: 32 x 128 x 128 at four bytes and 3 inputs of 12,288
    channels at two are 2,170,880; a token's latent of 576 at two bytes 1,152: 1,885 tokens, in
    steps of 16."""
    assert pages(spec_from_config(KIMI_LINEAR), Workload()).block_tokens == 1888


def test_falcon_h1_keeps_its_states_in_the_models_dtype() -> None:
    assert pages(spec_from_config(FALCON_H1_7B), Workload()).block_tokens == 1568
    assert pages(spec_from_config(FALCON_H1_7B), Workload(state_dtype="fp32")).block_tokens == 3104


# What vLLM logged with two GPUs: pages in all, then sequences of so many tokens at once. A page of
# half a layer's heads holds as many tokens as one of all of them.
LOGGED = {
    "Nemotron-H-8B": (
        14_449,
        {1024: 1806.12, 4096: 1032.07, 8192: 656.77, 16_384: 380.24, 32_768: 209.41},
    ),
    "Falcon-H1-7B": (1780, {1024: 890, 4096: 445, 8192: 254.29, 16_384: 148.33, 32_768: 80.91}),
}


@pytest.mark.parametrize("name", LOGGED)
def test_as_many_sequences_fit_as_the_engine_logged(name: str) -> None:
    in_all, logged = LOGGED[name]
    model = spec_from_config(FALCON_H1_7B) if name == "Falcon-H1-7B" else spec(name)
    laid_out = pages(model, Workload())
    for context_len, at_once in logged.items():
        of_one = laid_out.sequence_bytes(context_len) / (laid_out.page_bytes * laid_out.group_size)
        assert in_all / of_one == pytest.approx(at_once, rel=3e-4)


STATE_DTYPES = [
    ({}, "bf16"),
    ({"mamba_ssm_cache_dtype": "float32"}, "fp32"),
    ({"mamba_ssm_dtype": "float32"}, "fp32"),
    ({"mamba_ssm_cache_dtype": "auto"}, "bf16"),
    ({"mamba_ssm_cache_dtype": "bfloat16"}, "bf16"),
]


@pytest.mark.parametrize(("fields", "dtype"), STATE_DTYPES)
def test_the_config_says_what_states_are_kept_in(fields: dict[str, str], dtype: str) -> None:
    """48 x 32 x 128 elements in each of 28 layers, at two bytes or four; a workload that asks for a
    dtype gets it."""
    model = spec_from_config(GRANITE_350M | fields)
    states = 28 * 48 * 32 * 128
    convs = 28 * 3 * 1792 * 2
    keys = 4 * 2 * 4 * 64 * 2
    element = {"bf16": 2, "fp32": 4}[dtype]
    assert model_costs(model).cache_bytes(1, "exact", Workload()) == states * element + convs + keys
    assert (
        model_costs(model).cache_bytes(1, "exact", Workload(state_dtype="fp16"))
        == states * 2 + convs + keys
    )


def test_a_dtype_of_states_that_nobody_knows_is_refused() -> None:
    with pytest.raises(
        SpecError, match="mamba_ssm_cache_dtype: 'float8' - must be float32 or bfloat16 or float16"
    ):
        spec_from_config(GRANITE_350M | {"mamba_ssm_cache_dtype": "float8"})
