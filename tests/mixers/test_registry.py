"""What every kind of layer says of itself."""

import pytest

from hybrid_core.costs.model import model_costs
from hybrid_core.design.quantization import MATRICES, NOT_LINEAR
from hybrid_core.design.spec import ArchSpec
from hybrid_core.factors import Factors, scaled
from hybrid_core.loading import load
from hybrid_core.mixers.attention import AttentionMixer, n_small_heads
from hybrid_core.mixers.fusion import fusible
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.registry import MIXERS, WRITTEN, composable
from tests.designs import MAMBA1, TINY, design, tiny


def test_letters_and_names_are_unique_and_a_letter_is_one_ascii_character() -> None:
    letters = [kind.entry.letter for kind in MIXERS]
    assert all(len(letter) == 1 and letter.isascii() for letter in letters)
    assert len(set(letters)) == len({kind.entry.name for kind in MIXERS}) == len(MIXERS)


def test_the_letters_of_written_patterns_are_those_of_saved_designs() -> None:
    written = "".join(WRITTEN)
    assert written == "ASMHDN-"


@pytest.mark.parametrize(
    ("kind", "letter"),
    [("mamba1", "m"), ("mla", "L"), ("gated_deltanet", "G"), ("side_by_side", "P")],
)
def test_a_resolved_layer_has_the_letter_of_its_kind(kind: str, letter: str) -> None:
    assert tiny(kind).pattern == 2 * letter


def test_m_in_a_written_pattern_is_the_mamba_of_the_section() -> None:
    assert design("AM").pattern == "AM"
    assert design("AM", ssm=MAMBA1).letters == "AM"
    assert design("AM", ssm=MAMBA1).pattern == "Am"


@pytest.mark.parametrize("kind", MIXERS, ids=lambda kind: kind.entry.name)
def test_every_kind_has_a_tiny_design_and_a_line_in_the_glossary(kind: type) -> None:
    name = kind.entry.name
    assert name in TINY or name == "none"
    assert kind.entry.meaning.endswith(".")


@pytest.mark.parametrize("kind", TINY)
def test_a_design_of_one_kind_is_read_back_from_its_yaml(kind: str) -> None:
    spec = tiny(kind)
    assert ArchSpec.from_yaml(spec.to_yaml()) == spec
    assert {layer.mixer.kind for layer in spec.stack} == {kind}


@pytest.mark.parametrize("kind", TINY)
def test_every_matrix_of_a_kind_can_be_stored_in_a_format(kind: str) -> None:
    (layer, _), *_ = model_costs(tiny(kind)).distinct()
    products = {term.name for term in layer.mixer.decode_flops(1) if term.kind == "product"}
    assert products <= set(MATRICES[kind])


def test_routers_and_the_gates_of_rg_lru_are_no_linear_layers() -> None:
    assert sorted(NOT_LINEAR) == ["rg_lru.gates", "router"]


def test_black_words_stand_on_light_colours() -> None:
    """Contrast by WCAG 2.2, worked out by hand: 0.2126 R + 0.7152 G + 0.0722 B of linear light."""
    light = {kind.entry.name for kind in MIXERS if kind.entry.light}
    assert "diff_mamba2" in light  # yellow, luminance 0.75
    assert "rg_lru" not in light  # dark blue, luminance 0.03


def test_compose_offers_a_mamba1_of_the_published_proportions() -> None:
    """Falcon-Mamba 7B: d_model 4096, d_ssm 8192, dt_rank 256, d_state 16."""
    offered = composable(4096)["m"]
    assert offered == Mamba1Mixer(d_ssm=8192, dt_rank=256, d_state=16)


def test_a_size_shrinks_to_the_nearest_multiple() -> None:
    assert scaled(100, 0.25) == 25
    assert scaled(100, 0.25, multiple=16) == 32
    assert scaled(100, 0.01, multiple=4, least=8) == 8
    assert Factors(width=0.5, length=1 / 16).state == 0.25


def test_a_name_is_loaded_where_it_is_used() -> None:
    assert load("hybrid_core.mixers.mamba1:Mamba1Mixer") is Mamba1Mixer


@pytest.mark.parametrize(
    ("pattern", "span"),
    [("A", None), ("S", 6), ("D", None)],  # the window's 4 positions and 2 sinks
)
def test_the_span_is_how_many_tokens_a_query_may_see(pattern: str, span: int | None) -> None:
    mixer = design(pattern).stack[0].mixer
    assert isinstance(mixer, AttentionMixer)
    assert mixer.span == span


def test_small_heads_are_16_channels_wide_and_even_in_number() -> None:
    assert [n_small_heads(width) for width in (8, 47, 64, 100)] == [2, 2, 4, 6]


def test_branches_of_different_widths_combine_only_by_concatenation() -> None:
    fusible("add", "separate", "separate", d_ssm=64, width=64)
    fusible("concat", "separate", "joint", d_ssm=96, width=64)
    with pytest.raises(ValueError, match="d_ssm: 96 - fusion 'add' before a joint projection"):
        fusible("add", "separate", "joint", d_ssm=96, width=64)
    with pytest.raises(ValueError, match="needs out 'joint'"):
        fusible("concat", "separate", "separate", d_ssm=64, width=64)
