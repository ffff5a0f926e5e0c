from typing import Any, NamedTuple

import pytest
import yaml

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.mixers.attention import AttentionMixer, RopeScaling
from hybrid_core.mixers.diff_attention import DiffAttentionMixer
from hybrid_core.mixers.diff_mamba2 import DiffMamba2Mixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.swa import SwaMixer
from hybrid_core.validation import SpecError
from hybrid_core.workload import Workload
from tests import designs
from tests.designs import (
    ALL_AXES,
    INTRA_COMBINATIONS,
    SECTIONS,
    axes_id,
    complaint,
    design,
    intra_design,
    mapping,
)

TEXT = yaml.safe_dump(mapping("AMSH"), default_flow_style=None, sort_keys=False, width=1000)


class Bad(NamedTuple):
    """One change to TEXT, and what the message must then name: the key, the value, and a part of
    the rule."""

    id: str
    old: str
    new: str
    key: str
    value: str
    rule: str


LAYERS = "{strategy: custom, pattern: AMSH}"
SSM = "{d_ssm: 64, head_dim: 16, d_state: 8, d_conv: 4, chunk_size: 8}"
MAMBA1 = "{kind: mamba1, d_ssm: 9, dt_rank: 2}"
PAIRS = "must be divisible by 2, for the pairs of kind D (2)"
NEEDS_MAMBA2 = "kind N has Mamba-2 branches and needs ssm.kind 'mamba2'"
NEEDS_DIFF = "there are layers of kind D, which need the section 'diff'"
BRANCHES = "must be divisible by 2 * n_groups, for the two branches of kind N"
WHOLE, LEAST = "must be a whole number", "must be greater than or equal to 1"

BAD = [
    Bad(
        "unknown key",
        "name:",
        "n_layer: 3\nname:",
        "n_layer",
        "3",
        "unknown key (did you mean n_layers?)",
    ),
    Bad(
        "unknown key without a likeness",
        "name:",
        "colour: red\nname:",
        "colour",
        "'red'",
        "unknown key",
    ),
    Bad(
        "unknown key in a section",
        "window: 4",
        "windw: 4",
        "swa.windw",
        "4",
        "unknown key (did you mean window?)",
    ),
    Bad("bool for int", "d_model: 32", "d_model: true", "d_model", "True", WHOLE),
    Bad("bool for int in a section", "window: 4", "window: yes", "swa.window", "True", WHOLE),
    Bad("float for int", "d_model: 32", "d_model: 32.0", "d_model", "32.0", WHOLE),
    Bad("text for int", "d_model: 32", "d_model: wide", "d_model", "'wide'", WHOLE),
    Bad("int for text", "name: small-AMSH", "name: 12", "name", "12", "valid string"),
    Bad(
        "int for bool", "name:", "tie_embeddings: 1\nname:", "tie_embeddings", "1", "valid boolean"
    ),
    Bad(
        "bool for float",
        "head_dim: 8}",
        "head_dim: 8, rope_theta: true}",
        "attention.rope_theta",
        "True",
        "valid number",
    ),
    Bad(
        "text for float",
        "head_dim: 8}",
        "head_dim: 8, rope_theta: fast}",
        "attention.rope_theta",
        "'fast'",
        "valid number",
    ),
    Bad("text for a section", "{window: 4, sink: 2}", "wide", "swa", "'wide'", "valid dictionary"),
    Bad("negative", "d_model: 32", "d_model: -32", "d_model", "-32", LEAST),
    Bad(
        "negative sink",
        "sink: 2",
        "sink: -1",
        "swa.sink",
        "-1",
        "must be greater than or equal to 0",
    ),
    Bad("zero", "d_model: 32", "d_model: 0", "d_model", "0", LEAST),
    Bad("zero layers", "n_layers: 4", "n_layers: 0", "n_layers", "0", LEAST),
    Bad("zero in a section", "d_conv: 4", "d_conv: 0", "ssm.d_conv", "0", LEAST),
    Bad(
        "huge",
        "d_model: 32",
        "d_model: 1000000000",
        "d_model",
        "1000000000",
        "must be less than or equal to 131072",
    ),
    Bad(
        "huge depth",
        "n_layers: 4",
        "n_layers: 1000000000",
        "n_layers",
        "1000000000",
        "must be less than or equal to 1024",
    ),
    Bad(
        "not a number",
        "head_dim: 8}",
        "head_dim: 8, rope_theta: .nan}",
        "attention.rope_theta",
        "nan",
        "finite number",
    ),
    Bad(
        "infinite",
        "head_dim: 8}",
        "head_dim: 8, rope_theta: .inf}",
        "attention.rope_theta",
        "inf",
        "finite number",
    ),
    Bad(
        "kv heads",
        "n_kv_heads: 2, head",
        "n_kv_heads: 3, head",
        "attention.n_heads",
        "4",
        "divisible by n_kv_heads (3)",
    ),
    Bad(
        "intra kv heads",
        "n_kv_heads: 2, qk",
        "n_kv_heads: 3, qk",
        "intra.n_heads",
        "4",
        "divisible by n_kv_heads (3)",
    ),
    Bad(
        "ssm heads",
        "head_dim: 16, d_state",
        "head_dim: 24, d_state",
        "ssm.d_ssm",
        "64",
        "divisible by head_dim (24)",
    ),
    Bad(
        "intra ssm heads",
        "ssm_head_dim: 16",
        "ssm_head_dim: 20",
        "intra.d_ssm",
        "48",
        "divisible by the SSM's head_dim (20)",
    ),
    Bad(
        "chunk", "chunk_size: 8", "chunk_size: 96", "ssm.chunk_size", "96", "must be a power of two"
    ),
    Bad(
        "groups",
        "chunk_size: 8",
        "n_groups: 3",
        "ssm.d_ssm / head_dim",
        "4",
        "divisible by n_groups (3)",
    ),
    Bad(
        "intra groups",
        "chunk_size: 8",
        "n_groups: 2",
        "intra.d_ssm / head_dim",
        "3",
        "divisible by ssm.n_groups (2)",
    ),
    Bad(
        "odd head for rope",
        "head_dim: 8}",
        "head_dim: 7}",
        "attention.head_dim",
        "7",
        "divisible by 2, for RoPE",
    ),
    Bad(
        "odd intra head for rope",
        "qk_head_dim: 6",
        "qk_head_dim: 7",
        "intra.qk_head_dim",
        "7",
        "divisible by 2, for RoPE",
    ),
    Bad(
        "half a pair",
        "head_dim: 8}",
        "head_dim: 8, rope_fraction: 0.3}",
        "attention.head_dim",
        "8",
        "times rope_fraction (0.3)",
    ),
    Bad(
        "odd part",
        "head_dim: 8}",
        "head_dim: 8, rope_fraction: 0.5}",
        "intra.qk_head_dim",
        "6",
        "times rope_fraction (0.5)",
    ),
    Bad(
        "no part",
        "head_dim: 8}",
        "head_dim: 8, rope_fraction: 0.0}",
        "attention.rope_fraction",
        "0.0",
        "must be greater than 0",
    ),
    Bad(
        "beyond the head",
        "head_dim: 8}",
        "head_dim: 8, rope_fraction: 2.0}",
        "attention.rope_fraction",
        "2.0",
        "less than or equal to 1",
    ),
    Bad(
        "no epsilon",
        "d_model: 32",
        "norm_eps: 0.0\nd_model: 32",
        "norm_eps",
        "0.0",
        "must be greater than 0",
    ),
    Bad(
        "ratio 0:0",
        LAYERS,
        '{strategy: inter, ratio: "0:0"}',
        "layers.ratio",
        "'0:0'",
        "must not be 0:0",
    ),
    Bad(
        "ratio unquoted",
        LAYERS,
        "{strategy: inter, ratio: 1:5}",
        "layers.ratio",
        "65",
        'in quotes, e.g. "1:5"',
    ),
    Bad(
        "ratio malformed",
        LAYERS,
        "{strategy: inter, ratio: 1/5}",
        "layers.ratio",
        "'1/5'",
        'two whole numbers "a:b"',
    ),
    Bad(
        "index out of range",
        LAYERS,
        "{strategy: inter, indices: [2, 5]}",
        "layers.indices",
        "5",
        "from 1 to n_layers (4)",
    ),
    Bad(
        "index twice",
        LAYERS,
        "{strategy: inter, indices: [2, 2]}",
        "layers.indices",
        "[2, 2]",
        "layer 2 is listed twice",
    ),
    Bad("index zero", LAYERS, "{strategy: inter, indices: [3, 0]}", "layers.indices.1", "0", LEAST),
    Bad(
        "indices of a uniform strategy",
        LAYERS,
        "{strategy: mamba, indices: [1]}",
        "layers.indices",
        "(1,)",
        "takes neither",
    ),
    Bad(
        "indices and ratio",
        LAYERS,
        '{strategy: inter, ratio: "1:1", indices: [1]}',
        "layers.ratio",
        "'1:1'",
        "takes indices",
    ),
    Bad(
        "placement custom",
        LAYERS,
        '{strategy: inter, ratio: "1:1", placement: custom}',
        "layers.placement",
        "'custom'",
        "needs indices",
    ),
    Bad(
        "unknown placement",
        LAYERS,
        '{strategy: inter, ratio: "1:1", placement: top}',
        "layers.placement",
        "'top'",
        "must be 'middle'",
    ),
    Bad(
        "unknown strategy",
        LAYERS,
        '{strategy: mixed, ratio: "1:1"}',
        "layers.strategy",
        "'mixed'",
        "must be 'transformer'",
    ),
    Bad(
        "pattern too long",
        LAYERS,
        "{pattern: AMSHM}",
        "layers.pattern",
        "'AMSHM'",
        "5 letters, must have n_layers (4)",
    ),
    Bad(
        "pattern empty",
        LAYERS,
        "{pattern: ''}",
        "layers.pattern",
        "''",
        "0 letters, must have n_layers (4)",
    ),
    Bad(
        "pattern of other letters",
        LAYERS,
        "{pattern: AMSX}",
        "layers.pattern",
        "'AMSX'",
        "only A (attention), S (window)",
    ),
    Bad(
        "shared values of another width",
        "d_ssm: 48",
        "value: shared, d_ssm: 64",
        "intra.d_ssm",
        "64",
        "n_heads * v_head_dim (48)",
    ),
    Bad(
        "sum of two widths",
        "d_ssm: 48",
        "out: joint, d_ssm: 64",
        "intra.d_ssm",
        "64",
        "n_heads * v_head_dim (48)",
    ),
    Bad(
        "concat of two outputs",
        "d_ssm: 48",
        "fusion: concat, d_ssm: 48",
        "intra.fusion",
        "'concat'",
        "needs out 'joint'",
    ),
    Bad(
        "unknown ssm",
        "d_ssm: 64",
        "kind: mamba3, d_ssm: 64",
        "ssm.kind",
        "'mamba3'",
        "must be 'mamba2' or 'mamba1'",
    ),
    Bad(
        "unknown ffn",
        "kind: swiglu",
        "kind: dense",
        "ffn.kind",
        "'dense'",
        "must be 'swiglu' or 'mlp' or 'moe'",
    ),
    Bad(
        "key of Mamba-2 in Mamba-1",
        SSM,
        "{kind: mamba1, d_ssm: 9, dt_rank: 2, head_dim: 3}",
        "ssm.head_dim",
        "3",
        "unknown key",
    ),
    Bad(
        "intra of Mamba-1",
        SSM,
        MAMBA1,
        "ssm.kind",
        "'mamba1'",
        "kind H has Mamba-2 branches and needs ssm.kind 'mamba2'",
    ),
    Bad(
        "unknown norm",
        "d_ssm: 48",
        "norm: layer, d_ssm: 48",
        "intra.norm",
        "'layer'",
        "must be 'group' or 'none'",
    ),
    Bad(
        "more experts than there are",
        "swiglu, d_ff: 40",
        "moe, n_routed: 4, top_k: 5, d_expert: 3",
        "ffn.top_k",
        "5",
        "n_routed (4)",
    ),
    Bad("schema 2", "schema: 1", "schema: 2", "schema", "2", "must be 1"),
    Bad("no name", "name: small-AMSH", "name: ''", "name", "''", "at least 1 character"),
    Bad(
        "name over two lines",
        "name: small-AMSH",
        'name: "a\\nb"',
        "name",
        "'a\\nb'",
        "string should match",
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=[bad.id for bad in BAD])
def test_a_bad_value_yields_one_line_with_key_value_and_rule(bad: Bad) -> None:
    assert TEXT.count(bad.old) == 1
    message = complaint(TEXT.replace(bad.old, bad.new))
    assert message.startswith(f"{bad.key}: {bad.value} - "), message
    assert bad.rule in message


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("schema", "schema: missing - a design starts with 'schema: 1'"),
        ("name", "name: missing - this key is required"),
        ("layers", "layers: missing - this key is required"),
        (
            "attention",
            "attention: missing - there are layers of kind A, which need the section 'attention'",
        ),
        ("swa", "swa: missing - there are layers of kind S, which need the section 'swa'"),
        ("ssm", "ssm: missing - there are layers of kind H, which need the section 'ssm'"),
        ("intra", "intra: missing - there are layers of kind H, which need the section 'intra'"),
    ],
)
def test_what_is_missing_is_named(section: str, message: str) -> None:
    assert (
        complaint(
            "".join(
                line
                for line in TEXT.splitlines(keepends=True)
                if not line.startswith(f"{section}:")
            )
        )
        == message
    )


@pytest.mark.parametrize(
    ("pattern", "changes", "message"),
    [
        ("D", {"attention": {"n_heads": 3, "n_kv_heads": 3}}, f"attention.n_heads: 3 - {PAIRS}"),
        ("D", {"attention": {"n_kv_heads": 1}}, f"attention.n_kv_heads: 1 - {PAIRS}"),
        ("N", {"ssm": {"d_ssm": 48}}, f"ssm.d_ssm / head_dim: 3 - {BRANCHES} (2)"),
        ("N", {"ssm": {"n_groups": 4}, "intra": None}, f"ssm.d_ssm / head_dim: 4 - {BRANCHES} (8)"),
        ("N", {"ssm": designs.MAMBA1}, f"ssm.kind: 'mamba1' - {NEEDS_MAMBA2}"),
        ("D", {"diff": None}, f"diff: missing - {NEEDS_DIFF}"),
        ("N", {"diff": {"scalar": "scale"}}, "diff.scalar: 'scale' - must be 'diff_t' or 'none'"),
        ("N", {"diff": {"fusion": "concat"}}, "diff.fusion: 'concat' - must be 'diff' or 'add'"),
    ],
)  # fmt: skip
def test_what_a_differential_mixer_needs_is_said(
    pattern: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError) as error:
        design(pattern, **changes)
    assert str(error.value) == message


def test_sections_that_no_layer_uses_do_not_have_to_fit_each_other() -> None:
    """Odd heads without differential layers; an intra-hybrid block's widths beside Mamba-1."""
    assert design("AN", attention={"n_heads": 3, "n_kv_heads": 1}).pattern == "AN"
    assert design("AM", ssm=designs.MAMBA1).intra is not None


def test_the_first_of_several_broken_rules_is_shown_and_the_rest_counted() -> None:
    assert (
        complaint(TEXT.replace("d_model: 32", "d_model: 0").replace("window: 4", "window: 0"))
        == f"d_model: 0 - {LEAST} (and 1 more)"
    )


def test_an_unused_section_may_be_left_out() -> None:
    assert design("M", attention=None, swa=None, intra=None, ffn=None).pattern == "M"


@pytest.mark.parametrize("axes", ALL_AXES, ids=axes_id)
def test_every_combination_of_axes_is_valid_but_concat_of_separate_outputs(
    axes: dict[str, str],
) -> None:
    if axes in INTRA_COMBINATIONS:
        mixer = intra_design(axes).stack[0].mixer
        assert {axis: getattr(mixer, axis) for axis in axes} == axes
    else:
        with pytest.raises(SpecError, match="concat"):
            intra_design(axes)


def test_there_are_two_norms_four_scalars_two_values_and_five_fusions_with_their_outputs() -> None:
    assert len(INTRA_COMBINATIONS) == 2 * 4 * 2 * 5


def test_each_layer_of_the_stack_is_complete_in_itself() -> None:
    scaling = RopeScaling(factor=8.0)
    spec = design(
        "AMSH",
        attention={"rope_theta": 3e5, "rope_scaling": scaling.model_dump()},
        ssm={"n_groups": 1},
    )
    attention = {"n_heads": 4, "n_kv_heads": 2, "position": "rope"}
    ssm = {"head_dim": 16, "d_state": 8, "d_conv": 4, "n_groups": 1, "chunk_size": 8}
    inner = AttentionMixer(
        **attention, head_dim=6, v_head_dim=12, rope_theta=3e5, rope_scaling=scaling
    )
    axes = {
        "norm": "group",
        "scalar": "none",
        "fusion": "diff",
        "value": "separate",
        "out": "separate",
    }
    assert [layer.mixer for layer in spec.stack] == [
        AttentionMixer(**attention, head_dim=8, v_head_dim=8, rope_theta=3e5, rope_scaling=scaling),
        Mamba2Mixer(**ssm, d_ssm=64),
        SwaMixer(
            **attention,
            head_dim=8,
            v_head_dim=8,
            rope_theta=1e4,
            rope_scaling=None,
            window=4,
            sink=2,
        ),  # its own theta, unscaled
        IntraMixer(attention=inner, ssm=Mamba2Mixer(**ssm, d_ssm=48), **axes),
    ]
    assert {layer.ffn for layer in spec.stack} == {SwiGLU(d_ff=40)}
    assert "".join(layer.letter for layer in spec.stack) == spec.pattern == "AMSH"


def test_m_is_the_mamba_that_the_section_says_and_differential_layers_are_derived() -> None:
    heads = {
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 8,
        "v_head_dim": 8,
        "position": "rope",
        "rope_theta": 5e5,
    }
    ssm = {"d_ssm": 64, "head_dim": 16, "d_state": 8, "d_conv": 4, "chunk_size": 8}
    diff = {"norm": "none", "scalar": "diff_t", "fusion": "diff"}
    assert [layer.mixer for layer in design("DN").stack] == [
        DiffAttentionMixer(**heads, **diff),
        DiffMamba2Mixer(**ssm, n_groups=2, **diff),
    ]
    one = Mamba1Mixer(d_ssm=48, d_state=5, d_conv=4, dt_rank=3, dt_bc_norm=False)
    assert {
        layer.mixer
        for layer in design("MM", ssm=designs.MAMBA1, layers={"strategy": "mamba"}).stack
    } == {one}


def test_the_ssm_of_an_intra_block_has_the_common_head_width_unless_it_has_its_own() -> None:
    mixer = design("H", intra={"ssm_head_dim": None}).stack[0].mixer
    own = design("H", intra={"ssm_head_dim": 8}).stack[0].mixer
    assert isinstance(mixer, IntraMixer)
    assert isinstance(own, IntraMixer)
    assert (mixer.ssm.n_heads, own.ssm.n_heads) == (3, 6)


def test_replace_validates_again_and_changes_only_what_it_names() -> None:
    spec = design("AM")
    wider = spec.replace(
        d_model=64, swa=None, ssm=spec.ssm.model_copy(update={"d_state": 3}) if spec.ssm else None
    )
    assert (wider.d_model, wider.swa, wider.ssm and wider.ssm.d_state, wider.attention) == (
        64,
        None,
        3,
        spec.attention,
    )
    with pytest.raises(
        SpecError, match=r"^layers\.pattern: 'AM' - has 2 letters, must have n_layers \(3\)$"
    ):
        spec.replace(n_layers=3)


def test_equal_designs_are_one_key_and_none_can_be_changed() -> None:
    assert len({design("AM"), design("AM"), design("MA")}) == 2
    with pytest.raises(ValueError, match="frozen"):
        design("AM").n_layers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ({"strategy": "transformer"}, "AAAAA"),
        ({"strategy": "mamba"}, "MMMMM"),
        ({"strategy": "inter", "ratio": "1:3"}, "MMAMM"),
        ({"strategy": "inter", "ratio": "1:1", "placement": "front"}, "AMAMA"),
        ({"strategy": "intra", "ratio": "1:5", "placement": "end"}, "MMMMH"),
        ({"strategy": "swa", "ratio": "2:3", "placement": "sandwich"}, "ASSSA"),
        ({"strategy": "swa", "ratio": "0:1"}, "SSSSS"),
        ({"strategy": "inter", "indices": [4, 2]}, "MAMAM"),
        ({"strategy": "inter", "indices": [4], "placement": "custom"}, "MMMAM"),
    ],
    ids=str,
)
def test_strategies_resolve_to_letters(layers: dict[str, object], expected: str) -> None:
    assert ArchSpec.from_mapping(mapping("AAAAA", layers=layers)).pattern == expected


# ---------------------------------------------------------------- suggestions, and one line

FORGIVEN = {
    "a key of another model": ({"hardwares": 1}, "hardwares: 1 - unknown key"),
    "a field of a workload": ({"batch_siz": 1}, "batch_siz: 1 - unknown key"),
    "a key of the design": (
        {"vocab_sise": 1},
        "vocab_sise: 1 - unknown key (did you mean vocab_size?)",
    ),
    "a key of a section": (
        {"attention": {"n_heds": 4}},
        "attention.n_heds: 4 - unknown key (did you mean n_heads?)",
    ),
    "a key of one kind of feed-forward": (
        {"ffn": {"kind": "moe", "top": 1}},
        "ffn.top: 1 - unknown key (did you mean top_k?)",
    ),
    "a key of another kind of feed-forward": (
        {"ffn": {"kind": "swiglu", "n_routd": 1}},
        "ffn.n_routd: 1 - unknown key",
    ),
    "a key of a mixer": (
        {"mixers": {"Q": {"kind": "mla", "kv_rnk": 4}}},
        "mixers.Q.kv_rnk: 4 - unknown key (did you mean kv_rank?)",
    ),
    "a key of a list": (
        {"quantization": [{"format": "int4", "part": ["linear"]}]},
        "part: ['linear'] - unknown key (did you mean parts?)",
    ),
}


@pytest.mark.parametrize(("changes", "says"), FORGIVEN.values(), ids=FORGIVEN)
def test_a_suggestion_is_a_key_of_what_is_being_read(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as error:
        ArchSpec.from_mapping(mapping("AM") | changes)
    line = str(error.value).partition(" (and ")[0]
    assert line.endswith(says)


def test_the_constructor_says_in_one_line_what_is_wrong() -> None:
    with pytest.raises(SpecError, match=r"^n_layers: 'three' - must be a whole number$"):
        ArchSpec(**(mapping("AM") | {"n_layers": "three"}))
    with pytest.raises(SpecError, match=r"^n_heads: 3 - must be divisible by n_kv_heads \(2\)$"):
        AttentionMixer(n_heads=3, n_kv_heads=2, head_dim=4)
    with pytest.raises(SpecError, match=r"^batch_size: 0 - must be greater than or equal to 1$"):
        Workload(batch_size=0)


QUANTISED = {
    "format": (
        {"format": "int9", "parts": ["linear"]},
        "quantization.0.format: 'int9' - must be 'fp8'",
    ),
    "part": (
        {"format": "int4", "parts": ["lineal"]},
        "quantization.0.parts.0: 'lineal' - must be one of linear, ",
    ),
    "no part": ({"format": "int4", "parts": []}, "quantization.0.parts: [] - "),
    "layer": (
        {"format": "int4", "parts": ["linear"], "layers": [9]},
        "quantization.layers: 9 - must be from 1 to n_layers (2)",
    ),
    "layer twice": (
        {"format": "int4", "parts": ["linear"], "layers": [1, 1]},
        "a layer is listed twice",
    ),
    "group": (
        {"format": "int4", "parts": ["linear"], "columns": -1},
        "columns: -1 - must be greater than or equal to 0",
    ),
}


@pytest.mark.parametrize(("rule", "says"), QUANTISED.values(), ids=QUANTISED)
def test_a_bad_rule_of_storage_is_one_line(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as error:
        ArchSpec.from_mapping(mapping("AM") | {"quantization": [rule]})
    assert says in str(error.value) and len(str(error.value).splitlines()) == 1


def without_sense() -> dict[str, tuple[dict[str, Any], str]]:
    """Changes to a small design that a careful author would refuse, and how the refusal begins."""
    heads = mapping("A")["attention"]
    moe = {"kind": "moe", "d_expert": 8}
    spelt: dict[str, dict[str, Any]] = {
        "gated_deltanet": {"n_k_heads": 3, "n_v_heads": 4, "k_head_dim": 8, "v_head_dim": 8},
        "rg_lru": {"width": 10, "n_blocks": 3},
    }
    return {
        "epsilon of 63": ({"norm_eps": 63.0}, "norm_eps: 63.0 - must be less than or equal to 0.1"),
        "epsilon that float32 rounds away": (
            {"norm_eps": 1e-300},
            "norm_eps: 1e-300 - must be at least 1e-20",
        ),
        "factor of 1e-300": (
            {"attention": heads | {"rope_scaling": {"factor": 1e-300}}},
            "attention.rope_scaling.factor: 1e-300 - ",
        ),
        "factor that speeds up": (
            {"attention": heads | {"rope_scaling": {"factor": 0.5}}},
            "attention.rope_scaling.factor: 0.5 - ",
        ),
        "tiny low frequency": (
            {"attention": heads | {"rope_scaling": {"low_freq_factor": 1e-300}}},
            "attention.rope_scaling.low_freq_factor: 1e-300 - ",
        ),
        "no ramp": (
            {"attention": heads | {"rope_scaling": {"low_freq_factor": 4.0}}},
            "attention.rope_scaling.high_freq_factor: 4.0 - must be above low_freq_factor (4.0)",
        ),
        "no original context": (
            {"attention": heads | {"rope_scaling": {"original_context_len": 0}}},
            "attention.rope_scaling.original_context_len: 0 - ",
        ),
        "wavelengths that shrink": (
            {"attention": heads | {"rope_theta": 0.5}},
            "attention.rope_theta: 0.5 - must be greater than 1",
        ),
        "softmax of 1e9": (
            {"attention": heads | {"softmax_scale": 1e9}},
            "attention.softmax_scale: 1000000000.0 - ",
        ),
        "sink beyond any context": (
            {"swa": {"sink": 2**30}},
            "swa.sink: 1073741824 - must be less than or equal to 131072",
        ),
        "smallest dt of 1e9": (
            {"ssm": {"d_ssm": 64, "head_dim": 16, "dt_min": 1e9}},
            "ssm.dt_min: 1000000000.0 - ",
        ),
        "experts times 1e-300": ({"ffn": moe | {"scale": 1e-300}}, "ffn.scale: 1e-300 - "),
        "logits over nothing": (
            {"constants": {"logits_scaling": 0}},
            "constants.logits_scaling: 0 - must be a number from 1e-06 to",
        ),
        "factor that is a word": (
            {"constants": {"key_multiplier": "x"}},
            "constants.key_multiplier: 'x' - must be a number",
        ),
        "too few factors": (
            {"constants": {"ssm_multipliers": [1.0]}},
            "constants.ssm_multipliers: [1.0] - must be 5 numbers",
        ),
        "NaN deep inside": (
            {"constants": {"a": [{"b": float("nan")}]}},
            "constants.a: [{'b': nan}] - must be finite numbers",
        ),
        **{
            kind: (
                {"mixers": {"X": {"kind": kind} | fields}, "layers": {"pattern": "X"}},
                f"mixers.X.{key}: ",
            )
            for (kind, fields), key in zip(spelt.items(), ("n_v_heads", "width"), strict=True)
        },
    }


WITHOUT_SENSE = without_sense()


@pytest.mark.parametrize("case", WITHOUT_SENSE)
def test_a_number_that_no_author_means_is_refused(case: str) -> None:
    changes, says = WITHOUT_SENSE[case]
    with pytest.raises(SpecError) as error:
        ArchSpec.from_mapping(mapping("A") | changes)
    assert str(error.value).startswith(says)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"name": "\x1b[31mred\n"}, "name: "),
        ({"d_model": "x" * 10_000}, "d_model: "),
        ({"layers": {"strategy": "inter", "ratio": "9" * 5000}}, "layers.ratio: "),
        ({"layers": {"pattern": "A" * 900}}, "layers.pattern: "),
        ({"ffn": {"kind": "\x1b" * 5000}}, "ffn.kind: "),
        ({"x" * 5000: 1}, "xxx"),
        ({"\x1b]0;title\x07": 1}, "\\x1b]0;title\\x07: "),
        ({"mixers": {"X": {"kind": "y" * 5000}}}, "mixers.X"),
        ({"constants": {"a" * 3000: float("inf")}}, "constants."),
    ],
    ids=lambda value: None if isinstance(value, dict) else repr(value),
)
def test_a_refusal_is_one_line_of_bounded_length_that_a_terminal_does_not_obey(
    changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(SpecError) as error:
        ArchSpec.from_mapping(mapping("A") | changes)
    line = str(error.value)
    assert line.startswith(key)
    assert line.isprintable()
    assert len(line) <= 400


@pytest.mark.parametrize("word", ["lama", "llama4", "x" * 9000, 17, None])
def test_of_many_known_names_a_refusal_shows_the_nearest(word: object) -> None:
    from hybrid_core.interop.families.registry import FAMILIES
    from hybrid_core.interop.huggingface import spec_from_config

    with pytest.raises(SpecError, match=r"^model_type: .* - must be one of ") as error:
        spec_from_config({"model_type": word})
    assert sum(f"{name}," in str(error.value) for name in FAMILIES) < 9
    assert len(str(error.value)) < 300
    assert ("did you mean llama?" in str(error.value)) == (word in ("lama", "llama4"))


def test_equal_layers_of_a_stack_are_one_object_and_counted_once() -> None:
    same_as_a = {"kind": "attention", **SECTIONS["attention"]}
    spec = design("AMxAM", mixers={"x": same_as_a})
    attention, mamba = spec.stack[:2]
    assert [layer is attention for layer in spec.stack] == [True, False, True, True, False]
    assert list(spec.distinct.items()) == [(attention, 3), (mamba, 2)]
