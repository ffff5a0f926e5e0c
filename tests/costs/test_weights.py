"""Weights as they are stored: against file sizes, sums by hand, and the formats' own
definitions."""

import json
from typing import Any

import pytest

from hybrid_core.cli.main import main
from hybrid_core.costs.model import model_costs, same_size_llama
from hybrid_core.costs.weights import stored_as, weight_bytes
from hybrid_core.design.quantization import MATRICES, StoredWeights, up_to
from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.interop import published
from hybrid_core.interop.huggingface import spec_from_config
from hybrid_core.interop.module_names import parts_of
from hybrid_core.interop.quantization.stored import stored_weights
from hybrid_core.mixers.registry import MIXERS
from hybrid_core.speed import hardware
from hybrid_core.speed.roofline import predict
from hybrid_core.stored import USUAL
from hybrid_core.validation import SpecError
from hybrid_core.workload import Workload
from tests.designs import MOE, design

# openai/gpt-oss-120b as it is published; its file has 65,248,815,744 bytes of weights.
GPT_OSS_120B: dict[str, Any] = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201_088,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "tie_word_embeddings": False,
    "swiglu_limit": 7.0,
    "rope_theta": 150_000,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}
PLAIN = Workload()


def test_gpt_oss_takes_as_many_bytes_as_its_file() -> None:
    spec = spec_from_config(GPT_OSS_120B)
    assert model_costs(spec).params().total == 116_829_156_672
    assert weight_bytes(spec, PLAIN).total == 65_248_815_744
    assert stored_as(spec, PLAIN) == "mxfp4"
    assert weight_bytes(spec, Workload(weight_dtype="bf16")).total == 2 * 116_829_156_672


def test_gpt_oss_120b_has_room_on_one_h100(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GPT_OSS_120B))
    assert main(["cost", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["fit"]["fits"] and record["engine"]["ideal"]["batch_size"] > 10
    assert record["params"]["total"] == 116_829_156_672


# Layer of d_model 32: q 32 x 32, k and v 32 x 16, out 32 x 32; gate and up 32 x 40, down 40 x 32;
# embedding 50 x 32.
ELEMENTS = 32 * 64 + 32 * 32 + 32 * 80 + 40 * 32
KEPT = 50 * 32 + 3 * 32  # embedding and three norms


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("bf16", 16 * ELEMENTS),
        ("fp32", 32 * ELEMENTS),
        ("fp8", 8 * ELEMENTS + 7 * 32),  # a float32 scale for each of seven matrices
        ("int8", 8 * ELEMENTS + 16 * (64 + 32 + 80 + 32)),  # 16 bits an output channel
        ("int4", 4 * ELEMENTS + 16 * (64 + 32 + 80 + 32)),  # rows are shorter than a group of 128
        (
            "mxfp4",
            4 * ELEMENTS + 8 * (64 + 32 + 80 + 2 * 32),
        ),  # 8 bits for 32 elements; 40 are two groups
        (
            "nvfp4",
            4 * ELEMENTS + 8 * (2 * 64 + 2 * 32 + 2 * 80 + 3 * 32) + 7 * 32,
        ),  # 8 bits for 16, and 32 a matrix
    ],
)
def test_each_format_by_hand(dtype: str, bits: int) -> None:
    element = 4 if dtype == "fp32" else 2
    expected = bits / 8 + element * KEPT
    assert weight_bytes(design("A"), Workload.make(weight_dtype=dtype)).total == expected


def test_a_router_stays_as_it_is_and_experts_shrink() -> None:
    """Router 32 x 4, four experts of 32 x 40 and 20 x 32, one shared of as many: all but the router
    in int4."""
    inside = 32 * 64 + 32 * 32 + 5 * (32 * 40 + 20 * 32)
    channels = 64 + 32 + 5 * (40 + 32)
    expected = (4 * inside + 16 * channels) / 8 + 2 * (KEPT + 32 * 4)
    assert weight_bytes(design("A", ffn=MOE), Workload(weight_dtype="int4")).total == expected


def test_blocks_that_layers_share_are_stored_once() -> None:
    spec = published.resolve("Zamba2-2.7B")
    quarter = weight_bytes(spec, Workload(weight_dtype="int4")).total
    linear = model_costs(spec).params().non_embedding
    assert quarter == pytest.approx(
        linear * 4.125 / 8 + 2 * model_costs(spec).params().embedding, rel=0.01
    )


def test_a_step_reads_weights_as_they_are_stored() -> None:
    """With memory as the limit, MXFP4 reads 17/64 of what bf16 reads of the layers."""
    spec, device = published.resolve("Llama-3.2-1B"), hardware.get("h100_sxm")
    work = Workload(context_len=1)
    plain = predict(spec, work, device).decode_step_s
    packed = predict(spec, work.model_copy(update={"weight_dtype": "mxfp4"}), device).decode_step_s
    head = 2 * spec.vocab_size * spec.d_model / device.bandwidth_bytes_per_s
    assert (packed - head) / (plain - head) == pytest.approx(17 / 64, rel=0.01)


def test_products_are_in_fp8_where_the_device_has_units_for_it() -> None:
    spec, work = published.resolve("Llama-3.2-1B"), Workload(weight_dtype="fp8")
    bf16 = predict(spec, Workload(), hardware.get("h100_sxm")).prefill_s
    assert predict(spec, work, hardware.get("h100_sxm")).prefill_s == pytest.approx(
        bf16 / 2, rel=0.01
    )
    plain = predict(spec, Workload(), hardware.get("a100_80gb_sxm")).prefill_s
    assert predict(spec, work, hardware.get("a100_80gb_sxm")).prefill_s == pytest.approx(
        plain, rel=0.01
    )


# ---------------------------------------------------------------- published schemes


def read(config: dict[str, Any], spec: ArchSpec | None = None) -> dict[str, list[str]]:
    """Format -> its parts, of a design of attention, Mamba-2 and experts."""
    rules = stored_weights(config, spec or design("AM", ffn=MOE))
    return {f"{rule.format} {rule.layers or 'all'}": list(rule.parts) for rule in rules}


ALL = ["linear"]
SCHEMES: dict[str, tuple[dict[str, Any], dict[str, list[str]]]] = {
    "fp8 blocks": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, {"fp8 all": ALL}),
    "fp8 without attention": (
        {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.self_attn"]},
        {"fp8 all": ["experts", "shared", "mamba2"]},
    ),
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
        {"int4 all": ALL},
    ),
    "gptq of 8 bits": ({"quant_method": "gptq", "bits": 8, "group_size": -1}, {"int8 all": ALL}),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
        {"int4 all": ALL},
    ),
    "auto-round": (
        {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True},
        {"int4 all": ALL},
    ),
    "bitsandbytes, 8 bits": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"int8 all": ALL},
    ),
    "bitsandbytes, 4 bits": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"nf4 all": ALL},
    ),
    "mlx": ({"group_size": 64, "bits": 4}, {"int4 all": [*ALL, "router", "embedding"]}),
    "mlx with an override": (
        {
            "group_size": 64,
            "bits": 4,
            "model.layers.0.mlp.gate": {"group_size": 64, "bits": 8},
            "model.embed_tokens": False,
        },
        {"int8 (1,)": ["router"], "int4 all": ALL, "int4 (2,)": ["router"]},
    ),
    "modelopt": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head", "*vision*"]},
        {"nvfp4 all": ALL},
    ),
    "modelopt, mixed": (
        {
            "quant_method": "modelopt",
            "quant_algo": "MIXED_PRECISION",
            "quantized_layers": {
                **{
                    f"model.layers.0.self_attn.{part}_proj": {"quant_algo": "FP8"}
                    for part in "qkvo"
                },
                "model.layers.0.mlp.experts": {"quant_algo": "NVFP4"},
                "model.layers.1.mlp.experts": {"quant_algo": "NVFP4"},
            },
        },
        {"fp8 all": ["attention"], "nvfp4 all": ["experts"]},
    ),
    "compressed-tensors, pack-quantized": (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 4, "type": "int", "group_size": 32},
                }
            },
            "ignore": ["lm_head", "re:.*self_attn.*", "re:.*mamba.*"],
        },
        {"int4 all": ["experts", "shared"]},
    ),
    "compressed-tensors, nvfp4": (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 4, "type": "float", "group_size": 16},
                }
            },
            "ignore": ["lm_head"],
        },
        {"nvfp4 all": ALL},
    ),
    "only later layers": (
        {
            "quant_method": "fp8",
            "modules_to_not_convert": ["model.layers.0.mlp", "model.layers.0.self_attn"],
        },
        {"fp8 all": ["mamba2"], "fp8 (2,)": ["experts", "shared"]},
    ),
}


@pytest.mark.parametrize(("config", "expected"), SCHEMES.values(), ids=SCHEMES)
def test_a_scheme_is_read_as_its_writers_lay_it_out(
    config: dict[str, Any], expected: dict[str, list[str]]
) -> None:
    assert read(config) == expected


BAD: dict[str, tuple[Any, str]] = {
    "unknown method": (
        {"quant_method": "gtpq", "bits": 4},
        "quant_method: 'gtpq' - must be one of .*did you mean gptq",
    ),
    "unknown algorithm": (
        {"quant_method": "modelopt", "quant_algo": "NVFP5"},
        "quant_algo: 'NVFP5' .*did you mean NVFP4",
    ),
    "no mapping": ("int4", "quantization_config: 'int4' - must be a mapping"),
    "bits": ({"quant_method": "gptq", "bits": 7}, "bits: 7 - must be one of 2, 3, 4, 5, 6, 8"),
    "block": (
        {"quant_method": "fp8", "weight_block_size": [0, 128]},
        "weight_block_size: .* must be two whole numbers above 0",
    ),
    "groups": (
        {"quant_method": "compressed-tensors"},
        "config_groups: None - must be a mapping of groups",
    ),
    "an expression that looks back": (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"a": {"weights": {}}},
            "ignore": [r"re:(a)\1"],
        },
        "not a regular expression",
    ),
    "targets": (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"a": {"targets": 5, "weights": {}}},
        },
        "config_groups.a.targets: 5 - must be a list of module names",
    ),
    "a group": (
        {"quant_method": "compressed-tensors", "config_groups": {"a": None}},
        "config_groups.a: None - must be a mapping",
    ),
    "sparse weights": (
        {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}},
        "sparsity_config.format: 'sparse-24-bitmask' - must be dense",
    ),
    "a mode of MLX": ({"bits": 4, "mode": "foo"}, "mode: 'foo' - must be affine or mxfp4"),
    "a group of nothing": (
        {"quant_method": "gptq", "bits": 4, "group_size": 0},
        "group_size: 0 - must be from 8 to",
    ),
    "text for a flag": (
        {"quant_method": "bitsandbytes", "load_in_8bit": "false"},
        "load_in_8bit: 'false' - must be true or false",
    ),
    "a block of text": (
        {"quant_method": "fp8", "weight_block_size": [True, 128]},
        "weight_block_size: .* must be two whole numbers",
    ),
    "too many patterns": (
        {"quant_method": "fp8", "ignored_layers": [f"*a{i}*" for i in range(3000)]},
        "patterns - there may be at most 2,000",
    ),
    "no expression": (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"a": {"weights": {}}},
            "ignore": ["re:(a"],
        },
        "not a regular expression",
    ),
    "names": (
        {"quant_method": "fp8", "modules_to_not_convert": "lm_head"},
        "must be a list of module names",
    ),
}


@pytest.mark.parametrize(("config", "says"), BAD.values(), ids=BAD)
def test_what_is_not_known_is_one_line(config: Any, says: str) -> None:
    with pytest.raises(SpecError, match=says) as error:
        spec_from_config({"model_type": "llama", "quantization_config": config})
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 400


def test_every_matrix_of_every_kind_has_its_modules() -> None:
    """Every product of a kind has a row in the table of modules, or is no linear layer."""
    for spec in [
        *(model.spec for model in published.models().values()),
        *(design(kind) for kind in "ASDMNH"),
    ]:
        for layer in model_costs(spec).layers:
            products = {
                f"{layer.kind.name}.{term.name}"
                for term in layer.mixer.decode_flops(1)
                if term.kind == "product"
            }
            unquantised = {"intra.gate", "declared.matrices", "rg_lru.gates"}
            assert products <= set(parts_of(layer.layer)) | unquantised
            assert {part.partition(".")[2] for part in products} <= set(
                MATRICES.get(layer.kind.name, ())
            )
    assert {kind.entry.name for kind in MIXERS} - {"none"} <= set(MATRICES)


LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128_256,
    "tie_word_embeddings": True,
}
# Elements of the linear layers of one: 2048 x (2048 + 512 + 512 + 2048) + 3 x 2048 x 8192.
A_LAYER = 60_817_408
HEADS = 2048 * (2 * 2048 + 2 * 512)  # of which attention's
AROUND = 2 * (128_256 * 2048 + 33 * 2048)  # embedding and norms


def llama_bytes(config: dict[str, Any]) -> int:
    return weight_bytes(spec_from_config(LLAMA | {"quantization_config": config}), PLAIN).total


NVFP4 = 4.5 / 8  # bytes an element: 4 bits, and 8 for 16; 4 more bytes a matrix


def nvfp4(ignore: list[str]) -> dict[str, Any]:
    return {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ignore}


def in_nvfp4(plain: int, matrices: int) -> int:
    """Bytes of the model where so many elements stay in bf16 and so many matrices do not."""
    return int(AROUND + 2 * plain + NVFP4 * (16 * A_LAYER - plain) + 4 * matrices)


PATTERNS = {
    "nothing": (["lm_head"], in_nvfp4(0, 112)),
    "a whole layer": (["model.layers.1"], in_nvfp4(A_LAYER, 105)),
    "layers that begin with 1": (["model.layers.1*"], in_nvfp4(7 * A_LAYER, 63)),
    "a class of numbers": (["model.layers.[01].*"], in_nvfp4(2 * A_LAYER, 98)),
    "a part in every layer": (["*.self_attn.*"], in_nvfp4(16 * HEADS, 48)),
    "a glob of a branch": (["model.layers.*.self_attn"], in_nvfp4(16 * HEADS, 48)),
    "an expression": ([r"re:^model\.layers\.\d+\.self_attn.*"], in_nvfp4(16 * HEADS, 48)),
    "an expression with another root": (
        [r"re:model\.language_model\.layers\.\d+\.self_attn.*"],
        in_nvfp4(16 * HEADS, 48),
    ),
    "one of three": (["model.layers.0.self_attn.k_proj"], in_nvfp4(2048 * 512, 111)),
    "what stands outside": (
        ["mtp.layers.0.self_attn.q_proj", "vision_tower.encoder.layers.3.mlp.down_proj"],
        in_nvfp4(0, 112),
    ),
}


@pytest.mark.parametrize(("ignore", "expected"), PATTERNS.values(), ids=PATTERNS)
def test_patterns_mean_the_modules_that_their_writers_mean(
    ignore: list[str], expected: int
) -> None:
    assert llama_bytes(nvfp4(ignore)) == expected


def test_overrides_by_expression_and_by_module() -> None:
    """GPTQModel's dynamic rules, AutoRound's extra_config, MLX' overrides: attention left out, and
    the way down in more bits."""
    group = 20 / 128 / 8  # bytes of a scale and a zero point for 128 elements
    four = 0.5 + group
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    left_out = AROUND + 2 * 16 * HEADS + four * 16 * (A_LAYER - HEADS)
    assert llama_bytes(gptq | {"dynamic": {"-:.*attn.*": {}}}) == left_out
    eight = 1 + 24 / 128 / 8
    down = 16 * 2048 * 8192
    mixed = AROUND + four * (16 * A_LAYER - down) + eight * down
    assert llama_bytes(gptq | {"dynamic": {r"+:.*\.down_proj": {"bits": 8}}}) == mixed
    attention = {
        f"model.layers.{i}.self_attn.{part}_proj": {"bits": 16}
        for i in range(16)
        for part in "qkvo"
    }
    assert (
        llama_bytes(
            {"quant_method": "auto-round", "bits": 4, "group_size": 128, "extra_config": attention}
        )
        == left_out
    )
    six = {f"model.layers.{i}.mlp.down_proj": {"group_size": 64, "bits": 6} for i in range(16)}
    table = 128_256 * 2048
    mlx = 2 * 33 * 2048 + 4.5 / 8 * (16 * A_LAYER - down + table) + 6.5 / 8 * down
    assert llama_bytes({"group_size": 64, "bits": 4, **six}) == mlx


def test_a_group_that_names_a_module_comes_before_one_of_every_linear_layer() -> None:
    groups = {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "group_size": 128},
        },
        "group_1": {
            "targets": [r"re:.*down_proj$"],
            "weights": {"num_bits": 8, "type": "int", "group_size": 128},
        },
    }
    down = 16 * 2048 * 8192
    expected = AROUND + (4 + 16 / 128) / 8 * (16 * A_LAYER - down) + (8 + 16 / 128) / 8 * down
    assert (
        llama_bytes(
            {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]}
        )
        == expected
    )


def test_bitsandbytes_leaves_experts_that_are_one_parameter() -> None:
    """transformers replaces linear layers alone, and Granite's experts are one parameter a layer:
    64 experts of 3 x 1536 x 512."""
    spec = published.resolve("Granite-4.0-H-tiny")
    experts = sum(
        layer.ffn.n_routed * 3 * 1536 * layer.ffn.d_expert
        for layer in spec.stack
        if isinstance(layer.ffn, MoE)
    )
    rules = stored_weights(
        {"quant_method": "bitsandbytes", "load_in_8bit": True}, spec, "granitemoehybrid"
    )
    assert weight_bytes(spec.replace(quantization=rules), PLAIN).total > 2 * experts
    assert not any("experts" in rule.parts or "linear" in rule.parts for rule in rules)


def test_no_expression_and_no_list_takes_long() -> None:
    """Expressions that would take a backtracking search for ever are read, or refused, in linear
    time."""
    for expression in (
        ".?" * 30 + "!",
        "(.?)" * 40 + "!",
        ".*" * 20 + "!",
        "(a+)+$",
        "[a-z._0-9]?" * 18 + "!",
    ):
        assert llama_bytes(nvfp4([f"re:{expression}"])) == in_nvfp4(0, 112)
    many = {
        f"model.layers.{i}.mlp.experts.{e}": {"group_size": 64, "bits": 8}
        for i in range(48)
        for e in range(400)
    }
    assert llama_bytes({"group_size": 64, "bits": 4, **many}) > 0


def test_lists_that_name_every_module_of_every_layer_are_read() -> None:
    """As ModelOpt writes them."""
    names = [f"model.layers.{i}.self_attn.{part}_proj" for i in range(100) for part in "qkvo"]
    spec = design("A" * 100, ffn=MOE, name="deep")
    rules = stored_weights(
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": names}, spec
    )
    assert [list(rule.parts) for rule in rules] == [["experts", "shared"]]


def test_quantisation_survives_yaml_and_changes_no_model() -> None:
    spec = spec_from_config(GPT_OSS_120B)
    again = ArchSpec.from_yaml(spec.to_yaml())
    assert again == spec and again.to_yaml() == spec.to_yaml()
    assert spec.replace(quantization=[]).same_model(spec)


def test_every_format_has_a_layout() -> None:
    assert {rule: USUAL[rule].bits for rule in ("fp8", "int8", "int4", "mxfp4", "nvfp4")} == {
        "fp8": 8,
        "int8": 8,
        "int4": 4,
        "mxfp4": 4,
        "nvfp4": 4,
    }


@pytest.mark.parametrize(
    ("dtype", "elements_per_byte"), [("bf16", 0.5), ("fp8", 1), ("int8", 1), ("int4", 2)]
)
def test_keys_and_values_in_fewer_bits(dtype: str, elements_per_byte: float) -> None:
    """Llama-3.2-1B at 8,192 tokens: 16 layers x 2 x 8 x 64 elements a token."""
    bytes_ = model_costs(published.resolve("Llama-3.2-1B")).cache_bytes(
        8192, "exact", Workload.make(kv_cache_dtype=dtype)
    )
    assert bytes_ == 8192 * 16 * 2 * 8 * 64 / elements_per_byte


def test_a_shallower_stack_keeps_what_its_layers_are_stored_in() -> None:
    deep = design("AAAA", quantization=[{"format": "int4", "parts": ["linear"], "layers": [1, 4]}])
    shallow = deep.replace(n_layers=2, layers={"pattern": "AA"})
    assert [rule.layers for rule in shallow.quantization] == [(1,)]
    only_late = design(
        "AAAA", quantization=[{"format": "int4", "parts": ["linear"], "layers": [4]}]
    )
    assert only_late.replace(n_layers=2, layers={"pattern": "AA"}).quantization == ()
    assert same_size_llama(deep).n_layers > 1


def test_rules_of_a_shorter_stack_keep_the_layers_that_are_left() -> None:
    everywhere = StoredWeights(format="fp8", parts=("attention",))
    some = StoredWeights(format="int4", parts=("ffn",), layers=(1, 3, 5))
    last = StoredWeights(format="int8", parts=("ffn",), layers=(6,))
    kept = up_to([everywhere, some, last], 4)
    assert [(rule.format, rule.layers) for rule in kept] == [("fp8", None), ("int4", (1, 3))]
