"""What families share: letters of layers, parts of a stack, differences, names of tensors."""

import json
from typing import Any

import pytest

from hybrid_core.data import PROFILES
from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop import published
from hybrid_core.interop.config_keys import with_config_keys
from hybrid_core.interop.families import shared, tensors, writing, zamba
from hybrid_core.interop.families.registry import FAMILIES, NATIVE, TENSORS, WRITTEN
from hybrid_core.interop.families.table import (
    Table,
    activation,
    count,
    derived,
    flag,
    optional_count,
)
from hybrid_core.interop.fields import Fields, at, every, is_real, is_whole
from hybrid_core.interop.huggingface import spec_from_config
from hybrid_core.interop.roundtrip import first_difference, require_same
from hybrid_core.interop.stack_parts import first_attention, first_of, kinds, ssm_parts
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.swa import SwaMixer
from hybrid_core.validation import SpecError
from tests.designs import design


def test_a_letter_a_layer() -> None:
    assert every(8, 4, 3, "A", "M") == "MMMAMMMA"
    assert every(3, 8, 4, "A", "M") == "MMM"
    assert at(5, [1, 1, 4], "A", "M") == "MAMMA"
    assert at(3, range(9), "F", "E") == "FFF"


def test_every_family_is_listed_under_its_own_name() -> None:
    for name, family in (FAMILIES | NATIVE).items():
        assert family.name == name
    assert set(WRITTEN) <= set(FAMILIES)
    assert set(TENSORS) <= set(WRITTEN)


SIZES = Table(
    count("n_heads", "num_heads", 8, older=("n_head", "heads")),
    derived("d_ff", "ffn_dim"),
    flag("bias", "use_bias", True),
    activation("act"),
)


@pytest.mark.parametrize(
    ("config", "section"),
    [
        ({}, {"n_heads": 8, "bias": True, "activation": "silu"}),
        ({"heads": 3, "use_bias": None}, {"n_heads": 3, "bias": False, "activation": "silu"}),
        ({"n_head": 4, "heads": 3}, {"n_heads": 4, "bias": True, "activation": "silu"}),
        (
            {"num_heads": 5, "n_head": 4, "act": "gelu_new"},
            {"n_heads": 5, "bias": True, "activation": "gelu_tanh"},
        ),
    ],
)
def test_a_table_reads_newer_names_before_older_ones_and_then_the_default(
    config: dict[str, Any], section: dict[str, Any]
) -> None:
    assert SIZES.read(Fields(config)) == section


def test_a_count_that_may_be_missing_is_none_then() -> None:
    rank = Table(optional_count("q_rank", "q_lora_rank"))
    assert rank.read(Fields({})) == rank.read(Fields({"q_lora_rank": None})) == {"q_rank": None}
    assert rank.read(Fields({"q_lora_rank": 1536})) == {"q_rank": 1536}


@pytest.mark.parametrize(
    ("value", "whole", "real"),
    [
        (3, True, True),
        (3.0, False, True),
        (True, False, False),
        ("3", False, False),
        (None, False, False),
    ],
)
def test_true_is_no_number_in_a_config(value: object, whole: bool, real: bool) -> None:
    assert (is_whole(value), is_real(value)) == (whole, real)


def test_of_two_tables_the_second_wins_and_a_part_inside_another_has_a_path() -> None:
    joined = SIZES | Table(count("n_heads", "attention_heads"))
    assert joined.read(Fields({"attention_heads": 2}))["n_heads"] == 2
    assert list(joined.inside("attention").fields)[:2] == ["attention.n_heads", "attention.d_ff"]


def test_a_value_that_the_config_does_not_hold_keeps_our_name_in_a_refusal() -> None:
    """A sixth of ffn_dim is not ffn_dim, and a default is no field of the config."""
    tables = {SwiGLU: Table(count("d_ff", "ffn_dim"))}
    line = "ffn.d_ff: 4 - must be divisible by 3"
    design = {"ffn": {"d_ff": 4}}
    assert with_config_keys(line, design, {"ffn_dim": 24}, tables) == line
    assert with_config_keys(line, design, {}, tables) == line
    named = with_config_keys(line, design, {"ffn_dim": 4}, tables)
    assert named == "ffn_dim: 4 - must be divisible by 3"


def test_parts_of_a_stack() -> None:
    intra = design("MH")
    attention = first_attention(intra)
    assert attention is not None
    assert attention == first_of(intra, IntraMixer).attention
    assert first_attention(design("M")) is None
    # the mixers of both layers, then what is inside them
    assert [type(part) for part in ssm_parts(intra)] == [
        Mamba2Mixer,
        IntraMixer,
        type(None),
        Mamba2Mixer,
    ]
    assert first_of(design("SA"), AttentionMixer) == design("SA").stack[1].mixer
    assert kinds(design("MS")) == {Mamba2Mixer: "mamba2", SwiGLU: "swiglu", SwaMixer: "swa"}


DIFFERENCES: list[tuple[str, str, dict[str, Any], str]] = [
    ("AM", "AMM", {}, "n_layers: 2"),
    ("AM", "MA", {}, "layer 1: attention"),
    ("AM", "AM", {"ssm": {"d_state": 4}}, "layer 2: mamba2.d_state: 8"),
    ("AM", "AM", {"norm_eps": 1e-3}, "norm_eps: 1e-05"),
    ("AM", "AM", {"ffn": None}, "layer 1: ffn swiglu"),
]


@pytest.mark.parametrize(("one", "other", "changes", "line"), DIFFERENCES)
def test_the_first_difference_is_named_with_the_designs_own_value(
    one: str, other: str, changes: dict[str, Any], line: str
) -> None:
    assert first_difference(design(one), design(other, **changes)) == line
    assert first_difference(design(one), design(one)) is None


def test_what_was_read_back_must_be_the_same_model() -> None:
    spec = design("AM")
    same = spec.model_dump(by_alias=True)
    require_same(spec, same, "a format")
    with pytest.raises(SpecError, match=r"^norm_eps: 1e-05 - a format cannot express it$"):
        require_same(spec, same | {"norm_eps": 1e-3}, "a format")


def names_of(name: str, ours: str) -> list[str]:
    model = published.models()[name]
    path = PROFILES / "models" / "configs" / f"{name}.json"
    config = json.loads(path.read_text())
    return TENSORS[config["model_type"]].of(ours, model.spec)


def test_names_are_those_of_the_published_checkpoints() -> None:
    """From the index files of meta-llama/Llama-3.2-1B, ai21labs/Jamba-v0.1 and
    Zyphra/Zamba2-2.7B."""
    attention = "model.layers.3.self_attn"
    assert names_of("Llama-3.2-1B", "layers.3.mixer.qkv.weight") == [
        f"{attention}.q_proj.weight",
        f"{attention}.k_proj.weight",
        f"{attention}.v_proj.weight",
    ]
    experts = names_of("Jamba-v0.1", "layers.1.ffn.gate_up")
    assert len(experts) == 2 * 16
    assert experts[3] == "model.layers.1.feed_forward.experts.1.up_proj.weight"
    # Zamba2-2.7B: hybrid layers are 6, 12, 18, ...; two blocks in turn, so 18 shares that of 6
    assert names_of("Zamba2-2.7B", "layers.18.mixer.block.norm.weight") == [
        "model.layers.6.shared_transformer.input_layernorm.weight"
    ]
    assert names_of("Zamba2-2.7B", "layers.18.mixer.ffn_adapter.narrow.weight") == [
        "model.layers.6.shared_transformer.feed_forward.gate_up_proj_adapter_list.2.0.weight"
    ]
    with pytest.raises(KeyError):
        names_of("Llama-3.2-1B", "layers.3.mixer.A_log")


def test_a_shared_block_is_kept_under_its_first_layer() -> None:
    """Zamba2-2.7B: layer 18 is the third hybrid one, and two blocks alternate."""
    zamba2 = published.models()["Zamba2-2.7B"].spec
    assert [tensors.first_layer(zamba2, layer) for layer in (6, 12, 18, 24)] == [6, 12, 6, 12]


def test_hybrid_layers_of_zamba_take_the_shared_blocks_in_turn() -> None:
    found = zamba.hybrid_layers("MZMZZ", 2, {"ssm": {"d_ssm": 8}})
    assert found["layers"] == {"pattern": "M0M10"}
    assert {letter: mixer["block"] for letter, mixer in found["mixers"].items()} == {"0": 0, "1": 1}
    named = Fields({"layers_block_type": ["mamba", "hybrid"]})
    assert zamba.named_layers(named, 2) == "MZ"
    assert zamba.named_layers(Fields({}), 2) is None


def test_zambas_attention_is_twice_as_wide_as_the_model() -> None:
    """Zamba2-2.7B: 32 heads of 160 over 2 * 2560; scores times (160 / 2) ** -0.5."""
    section = zamba.block_attention(Fields({"num_attention_heads": 32}), 2560)
    assert (section["n_kv_heads"], section["head_dim"], section["d_input"]) == (32, 160, 5120)
    assert section["softmax_scale"] == pytest.approx(0.1118034)
    with pytest.raises(SpecError, match=r"^num_attention_heads: 3 - must give heads that add up"):
        zamba.block_attention(Fields({"num_attention_heads": 3}), 2560)


def test_the_mamba_layer_of_a_hybrid_layer_is_one_level_deeper() -> None:
    """From the index file of Zyphra/Zamba2-2.7B."""
    names = zamba.block_names("shared_transformer", {"mixer.D": ["mamba_decoder.mamba.D"]}, {})
    assert names["mixer.ssm.D"] == ["mamba_decoder.mamba.D"]
    assert names["mixer.block.attention.out.weight"] == [
        "shared_transformer.self_attn.o_proj.weight"
    ]


def test_bambas_mamba_has_the_heads_of_its_config() -> None:
    """ibm-ai-platform/Bamba-9B: 128 heads of 64 over 2 * 4096."""
    section = shared.bamba_ssm(Fields({"mamba_n_heads": 128, "mamba_d_state": 128}), 4096)
    assert (section["d_ssm"], section["head_dim"], section["d_state"]) == (8192, 64, 128)


def test_fields_that_follow_from_the_whole_design() -> None:
    """64-wide heads that divide d_model, for a class that needs some: 7 heads fit into 448."""
    mamba = design("MM", d_model=448)
    assert writing.spare_heads(mamba)["num_attention_heads"] == 7
    assert writing.spare_heads(design("AM")) == {}
    names = writing.layer_names("layer_types", A="attention", M="mamba")
    assert names(design("AM")) == {"layer_types": ["attention", "mamba"]}
    rope = {"rope_theta": 1e4, "rope_fraction": 0.5}
    parameters = writing.partial_rope(design("A", attention=rope, intra=None))["rope_parameters"]
    assert parameters["partial_rotary_factor"] == 0.5
    assert writing.partial_rope(design("A", attention={"position": "nope"})) == {}


def test_the_rank_of_dt_is_a_sixteenth_of_the_width_unless_it_is_given() -> None:
    """Mamba-1: ceil(d_model / 16); 2560 / 16 = 160 in Phi-4-mini-flash."""
    assert shared.dt_rank(Fields({"rank": "auto"}), "rank", 2560) == 160
    assert shared.dt_rank(Fields({}), "rank", 100) == 7
    assert shared.dt_rank(Fields({"rank": 5}), "rank", 2560) == 5
    with pytest.raises(SpecError, match=r"^rank: None - must be a positive whole number$"):
        shared.dt_rank(Fields({"rank": None}), "rank", 2560)


@pytest.mark.parametrize("value", [[1], {"a": 1}, 3, "float8"])
def test_a_dtype_of_states_that_is_none_is_refused_in_one_line(value: object) -> None:
    with pytest.raises(SpecError, match=r"^mamba_ssm_dtype: .* - must be float32 or bfloat16"):
        spec_from_config({"model_type": "mamba", "mamba_ssm_dtype": value})


def test_several_shared_experts_are_the_same_as_one_of_their_width() -> None:
    moe = {"kind": "moe", "n_routed": 4, "top_k": 1, "d_expert": 20}
    two = design("A", ffn=moe | {"n_shared": 2})
    one = design("A", ffn=moe | {"n_shared": 1, "d_shared": 40})
    assert isinstance(two, ArchSpec)
    assert first_of(two, MoE).shared_width == 40
    assert first_difference(two, one) is None
