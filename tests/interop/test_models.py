"""Published models in: every figure against the reference table, and bad configs in one line. The
families against transformers: test_transformers.py."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid_core.cli.main import main
from hybrid_core.costs.model import model_costs
from hybrid_core.data import PROFILES
from hybrid_core.design.built import not_built
from hybrid_core.design.spec import ArchSpec
from hybrid_core.files import MAX_BYTES
from hybrid_core.interop import published
from hybrid_core.interop.families.registry import FAMILIES
from hybrid_core.interop.huggingface import parse_config, read_config, spec_from_config
from hybrid_core.validation import SpecError
from hybrid_core.workload import Workload
from tests.interop.unseen import UNSEEN, config_of

# ---------------------------------------------------------------- the reference table


D_CONV = 4  # of every model in the table that has a convolution


@pytest.mark.parametrize("name", published.models())
def test_a_published_model_adds_up_to_what_the_reference_table_says(name: str) -> None:
    """The table counts two bytes an element and d_conv columns of a convolution's inputs, which is
    the paper's convention; the exact cache keeps one column fewer."""
    model = published.models()[name]
    assert model.computed == model.quoted
    costs = model_costs(model.spec)
    work = Workload(state_dtype="bf16")
    conv = 0
    for layer in costs.layers:
        for tensor in layer.mixer.cache(1):
            if tensor.kind == "conv":
                conv += tensor.elements
    column, rest = divmod(conv, D_CONV - 1)
    assert rest == 0
    exact = costs.cache_bytes(8192, "exact", work)
    assert exact == model.quoted["cache_8k"] - 2 * column


BUILT = [name for name, model in published.models().items() if model.not_built is None]


@pytest.mark.parametrize("name", BUILT)
def test_a_built_model_lives_with_the_parameters_and_the_cache_that_are_costed(name: str) -> None:
    from hybrid_core.live.modules.model import build

    spec = published.models()[name].spec
    model = build(spec, "meta", torch.bfloat16)
    costs = model_costs(spec)
    work = Workload(context_len=8192)
    assert sum(parameter.numel() for parameter in model.parameters()) == costs.params().total
    cache = model.new_cache(1, 8192)
    assert cache.nbytes == costs.cache_bytes(8192, "exact", work)


def test_what_is_costed_only_is_none_of_the_systems_that_are_promised() -> None:
    assert set(published.models()) - set(BUILT) == {
        "Gemma-3-1b",
        "gpt-oss-20b",
        "Qwen3-Next-80B-A3B",
        "Vamba-Qwen2-VL-7B",
    }


@pytest.mark.parametrize("name", published.models())
def test_a_published_model_survives_yaml(name: str) -> None:
    spec = published.models()[name].spec
    assert ArchSpec.from_yaml(spec.to_yaml()) == spec
    assert ArchSpec.from_yaml(spec.to_yaml()).to_yaml() == spec.to_yaml()


def test_weights_that_layers_share_count_once_and_work_each_time() -> None:
    """Zamba2-2.7B: nine hybrid layers share two blocks, so seven of them add no block."""
    costs = model_costs(published.models()["Zamba2-2.7B"].spec)
    ffn = 3 * 2560 * 10240
    block = (
        3 * 5120 * 5120  # q, k and v
        + 5120 * 2560  # out
        + ffn
        + 5120  # the norms
        + 2560
    )
    layers = sum(layer.params() for layer in costs.layers)
    last_norm = 2560
    assert layers + last_norm - costs.params().non_embedding == 7 * block
    hybrid = next(layer for layer in costs.layers if layer.kind.name == "shared_block")
    flops = 0
    for term in hybrid.forward_flops(1):
        if term.name.startswith("block ffn."):
            flops += term.flops
    assert flops == 2 * ffn


HUGE = 10_000_000
OTHERS = {  # families whose configs are not in the files above
    "hymba": {"hidden_size": 64, "num_attention_heads": 4},
    "phi4flash": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 64},
    "qwen2_vl": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 64},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_million_layers_are_refused_before_a_list_of_them_is_made(family: str) -> None:
    fields = OTHERS.get(family) or UNSEEN[family]
    config = {"model_type": family, "vocab_size": 99} | fields
    config["num_hidden_layers"] = HUGE
    tracemalloc.start()
    with pytest.raises(
        SpecError,
        match=r"^num_hidden_layers: 10000000 - must be a positive whole number up to 1,024$",
    ):
        spec_from_config(config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < HUGE // 8  # not even a bit for each of them


@pytest.mark.parametrize(
    "native",
    [
        {"d_model": 64, "ssm_cfg": {}, "vocab_size": 99},
        {"n_embd": 64, "mb_per_layer": 2, "local_window": 4},
    ],
)
def test_so_they_are_in_configs_of_other_code(native: dict[str, Any]) -> None:
    with pytest.raises(
        SpecError, match=r"^n_layer: 10000000 - must be a positive whole number up to 1,024$"
    ):
        spec_from_config(native | {"n_layer": HUGE})


def test_qwen3_8b_has_the_parameters_that_transformers_builds() -> None:
    """Qwen/Qwen3-8B as published; 8,190,735,360 from transformers on the meta device."""
    config = {
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_hidden_layers": 36,
        "vocab_size": 151936,
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 36,
    }
    spec = spec_from_config(config)
    assert model_costs(spec).params().total == 8_190_735_360
    assert spec.attention is not None
    assert spec.attention.rope_theta == 1e6


def test_a_qwen3_with_windows_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^use_sliding_window: True - must be False$"):
        spec_from_config({"model_type": "qwen3", "use_sliding_window": True})


def test_phi_4_mini_flash_by_hand() -> None:
    """Its published code: 32 layers of 2560 with LayerNorms; 9 Mamba-1, 8 windows, 1 full, 7 layers
    that reuse keys and values, 7 gates."""
    config = {
        "model_type": "phi4flash",
        "vocab_size": 200064,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 32,
    }
    config |= {
        "num_attention_heads": 40,
        "num_key_value_heads": 20,
        "sliding_window": 512,
        "mb_per_layer": 2,
    }
    spec = spec_from_config(config)
    d = 2560
    d_ssm = 5120
    rank = 160
    kv = 20 * 64
    mamba = (
        d * 2 * d_ssm  # in_proj
        + d_ssm * (4 + 1)  # the convolution and its bias
        + d_ssm * (rank + 32)  # x_proj: dt, B and C
        + (rank + 1) * d_ssm  # dt_proj
        + d_ssm * (16 + 1)  # A and D
        + d_ssm * d  # out_proj
    )
    diff = 4 * 64 + 128  # lambda's four vectors and the norm of a pair of heads
    queries = (d + 1) * d
    out = (d + 1) * d
    keys_and_values = (d + 1) * 2 * kv
    attention = queries + keys_and_values + out + diff
    cross = queries + out + diff
    gate = 2 * d * d_ssm
    feed_forward = 3 * d * 10240
    norms = 2 * 2 * d  # two LayerNorms, each with a weight and a bias
    expected = (
        9 * mamba
        + 9 * attention
        + 7 * cross
        + 7 * gate
        + 32 * (feed_forward + norms)
        + 2 * d  # the last norm
        + 200064 * d
    )
    assert model_costs(spec).params().total == expected
    assert spec.pattern == "mD" * 9 + "UD" * 7
    kept = 8 * 512 + 8192
    assert model_costs(spec).cache_bytes(8192, "paper") == 2 * (
        kept * 2 * kv + 9 * d_ssm * (16 + 4)
    )


def test_mamba_ssms_own_config_pads_the_vocabulary_and_knows_mamba_1() -> None:
    config = {
        "d_model": 768,
        "n_layer": 24,
        "vocab_size": 50277,
        "ssm_cfg": {},
        "pad_vocab_size_multiple": 8,
    }
    assert (
        model_costs(spec_from_config(config)).params().total == 129_135_360
    )  # state-spaces/mamba-130m, its model card's 130M


# ---------------------------------------------------------------- what is not understood

MODELS = PROFILES / "models" / "configs"
JAMBA = read_config(MODELS / "Jamba-v0.1.json")
NEMOTRON_H = read_config(MODELS / "Nemotron-H-8B.json")
GRANITE = read_config(MODELS / "Granite-4.0-H-tiny.json")
BAMBA = read_config(MODELS / "Bamba-9B.json")
HYMBA = read_config(MODELS / "Hymba-1.5B-Base.json")
BAD: list[tuple[dict[str, Any], str]] = [
    (
        JAMBA | {"trust_remote_code": True},
        "trust_remote_code: True - unknown field, which may change what the model computes",
    ),
    (JAMBA | {"model_type": "rwkv7"}, "model_type: 'rwkv7' - must be one of "),
    ({"hidden_size": 8}, "model_type: missing - this field is required"),
    (JAMBA | {"hidden_size": -4096}, "hidden_size: -4096 - must be a positive whole number"),
    (JAMBA | {"rms_norm_eps": float("nan")}, "rms_norm_eps: nan - must be a finite number above 0"),
    (
        JAMBA | {"num_hidden_layers": 10**9},
        "num_hidden_layers: 1000000000 - must be a positive whole number up to 1,024",
    ),
    (
        JAMBA | {"num_attention_heads": 30},
        "num_attention_heads: 30 - must be divisible by num_key_value_heads (8)",
    ),
    (JAMBA | {"rms_norm_eps": 5}, "rms_norm_eps: 5.0 - must be less than or equal to 0.1"),
    (
        JAMBA | {"num_experts_per_tok": 17},
        "num_experts_per_tok: 17 - must not exceed num_experts (16)",
    ),
    (
        HYMBA | {"num_key_value_heads": 3},
        "num_attention_heads: 25 - must be divisible by num_key_value_heads (3)",
    ),
    (
        # d_ssm / head_dim is worked out from several fields, so it keeps our name
        BAMBA | {"mamba_n_groups": 3},
        "ssm.d_ssm / head_dim: 128 - must be divisible by n_groups (3)",
    ),
    (JAMBA | {"mlp_bias": True}, "mlp_bias: True - must be False"),
    (JAMBA | {"sliding_window": 512}, "sliding_window: 512 - must be None"),
    (
        NEMOTRON_H | {"num_hidden_layers": 50},
        "hybrid_override_pattern: 'M-M-M-M*-M-M-M-M-M*",
    ),
    (NEMOTRON_H | {"hybrid_override_pattern": "M?" * 26}, "hybrid_override_pattern: 'M?M?"),
    (
        GRANITE | {"layer_types": ["mamba"] * 41},
        "layer_types: ['mamba', 'mamba'",
    ),
    (
        GRANITE | {"mamba_n_heads": 47},
        "mamba_n_heads: 47 - must divide mamba_expand * hidden_size (3072)",
    ),
    (
        GRANITE | {"layer_types": {"a": 1}},
        "layer_types: {'a': 1} - must be a list with one name per layer",
    ),
    (
        HYMBA | {"kv_reuse_group": [[1, 99]]},
        "kv_reuse_group: [[1, 99]] - must name layers from 0 to 31, each once",
    ),
    (HYMBA | {"global_attn_idx": [32]}, "global_attn_idx: [32] - layer 32 is not one of 0 to 31"),
]


@pytest.mark.parametrize(
    ("config", "line"),
    BAD,
    ids=[line.split(" - ")[0][:40] for _, line in BAD],
)
def test_a_config_that_is_not_understood_is_refused_in_one_line(
    config: dict[str, Any], line: str
) -> None:
    with pytest.raises(SpecError) as error:
        spec_from_config(config)
    assert str(error.value).startswith(line)
    assert len(str(error.value).splitlines()) == 1


def test_a_config_json_is_named_after_its_folder() -> None:
    assert published.config_name(Path("models/zamba/config.json")) == "zamba"
    assert published.config_name(Path("models/Bamba-9B.json")) == "Bamba-9B"


def test_layers_that_contradict_their_number_are_counted() -> None:
    with pytest.raises(SpecError, match=r"has 52 entries, must have num_hidden_layers \(50\)"):
        spec_from_config(NEMOTRON_H | {"num_hidden_layers": 50})


TEXTS = {
    "not JSON": (b"{model_type: llama}", "not JSON - line 1: "),
    "no config": (b"[1, 2]", "[1, 2] - a config is a mapping of fields to values"),
    "no text": (b"\xff\xfe\x00", "not UTF-8 text (byte 0)"),
    "bomb": (b"[" * 200_000 + b"]" * 200_000, "nested deeper than 20 levels"),
    "deep": (b'{"a":' * 40 + b"1" + b"}" * 40, "nested deeper than 20 levels"),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}", "not JSON - a number has thousands of digits"),
    "large": (b" " * (MAX_BYTES + 1), "1,000,001 bytes - a config may have at most 1,000,000"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_config_is_refused_with_exit_code_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, line = TEXTS[name]
    with pytest.raises(SpecError) as error:
        parse_config(text)
    assert str(error.value).startswith(line)
    path = tmp_path / "config.json"
    path.write_bytes(text)
    assert main(["import", str(path), "-o", str(tmp_path / "spec.yaml")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "spec.yaml").exists()


def test_a_huge_file_is_refused_without_being_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(100_000_000)
    assert main(["import", str(tmp_path / "huge.json")]) == 2
    assert "100,000,000 bytes - a config may have at most 1,000,000" in capsys.readouterr().err


# ---------------------------------------------------------------- levels, and the command line


def test_a_design_that_is_costed_only_says_why_and_is_not_built(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from hybrid_core.live.modules.model import build

    spec = published.models()["Qwen3-Next-80B-A3B"].spec
    assert not_built(spec) == "Gated DeltaNet"
    with pytest.raises(SpecError, match="Gated DeltaNet - costed, not built"):
        build(spec, "meta")
    assert main(["profile", "Qwen3-Next-80B-A3B"]) == 2
    assert "costed, not built" in capsys.readouterr().err


def test_import_writes_a_design_that_cost_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, spec = str(MODELS / "Jamba-v0.1.json"), tmp_path / "jamba.yaml"
    assert main(["import", config, "-o", str(spec), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["params"]["total"] == 51_570_323_328
    assert record["yaml"] == spec.read_text()
    assert main(["cost", str(spec), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["params"]["active"] == 12_110_311_296


def test_presets_show_quoted_beside_computed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--json"]) == 0
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert records["Zamba-7B-v1"]["quoted"] == records["Zamba-7B-v1"]["computed"]
    assert records["Zamba-7B-v1"]["source"].startswith("huggingface.co/Zyphra")
    assert main(["presets"]) == 0
    assert "Hymba-1.5B-Base" in capsys.readouterr().out


ODD_VALUES: list[Any] = [
    -1,
    0,
    3,
    True,
    2.5,
    10**30,
    1e30,
    float("nan"),
    None,
    "x",
    [],
    [1],
    ["x"],
    [None],
    [[]],
    {},
    {"a": 1},
]


def test_any_value_of_any_field_is_taken_or_refused_in_one_line() -> None:
    configs = [read_config(path) for path in sorted(MODELS.glob("*.json"))]
    configs += map(config_of, UNSEEN)
    for config in configs:
        for key in config:
            for value in ODD_VALUES:
                try:
                    spec_from_config(config | {key: value})
                except SpecError as error:
                    assert len(str(error).splitlines()) == 1, (key, value)
