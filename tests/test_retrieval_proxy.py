"""The proxy keeps what a design is: kinds, their shares and places, heads' ratio, axes; lengths shrink with the context."""

import pytest

from hybrid_core import presets
from hybrid_core.costs.model import model_costs
from hybrid_core.retrieval.proxy import proxy, thin
from hybrid_core.spec import ArchSpec, LayersSection, Mamba2Section, MoE
from tests.designs import design


def small(name: str) -> ArchSpec:
    return proxy(presets.get(name).spec, 64, 256, 145)


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_has_a_proxy_of_the_same_kinds(name: str) -> None:
    spec, made = presets.get(name).spec, small(name)
    assert set(made.pattern) == set(spec.pattern)
    for kind in set(spec.pattern):
        assert made.pattern.count(kind) / made.n_layers == pytest.approx(spec.pattern.count(kind) / spec.n_layers, abs=0.03)
    assert made.d_model == 64 and made.vocab_size == 145
    assert model_costs(made).params().total < 2_000_000


@pytest.mark.parametrize("letters", ["A", "S", "M", "H", "D", "N", "AMHSDN"])
def test_every_kind_of_layer_has_a_proxy(letters: str) -> None:
    spec = design(letters)
    assert set(proxy(spec, 64, 256, 145).pattern) == set(letters)


def test_lengths_shrink_with_the_context_and_the_state_by_the_square_root() -> None:
    made = small("swa-1to5-1b")
    assert made.swa and (made.swa.window, made.swa.sink, made.swa.rope_theta) == (16, 2, 312.5)
    assert made.attention and made.attention.rope_theta == 500_000 / 32
    assert made.attention.rope_scaling and made.attention.rope_scaling.original_context_len == 256
    assert isinstance(made.ssm, Mamba2Section) and made.ssm.d_state == 23  # 128 / sqrt(32) = 22.6
    assert made.attention.n_heads == 4 * made.attention.n_kv_heads


@pytest.mark.parametrize(
    ("pattern", "n_layers", "expected"),
    [
        ("MMMAMMMAMMMMM", 6, "MMAMMM"),  # two of thirteen become one of six, between their places
        ("AMMMMM" * 2, 6, "AMMMMM"),  # attention first stays first
        ("AMMMMMMMMMMM", 6, "AMMMMM"),
        ("MMMMMMMMMMMA", 6, "MMMMMA"),
        ("AMAMAMAMAMAM", 6, "AMMAAM"),
    ],
)
def test_patterns_are_thinned_in_order(pattern: str, n_layers: int, expected: str) -> None:
    made = thin(pattern, n_layers)
    assert made.count("A") == expected.count("A")
    if expected.count("A") == 1:
        assert made == expected


def test_ratio_and_placement_compile_anew() -> None:
    spec = presets.get("inter-1to5-1b").spec
    for placement in ("front", "end", "middle"):
        made = proxy(spec.replace(layers=LayersSection(strategy="inter", ratio="1:5", placement=placement)), 64, 256, 145)
        assert made.layers.placement == placement and made.n_layers == 6
    assert made.pattern == "MMMAMM"


def test_axes_of_fusion_and_experts_stay() -> None:
    spec, made = presets.get("intra-1to5-moe-1b").spec, small("intra-1to5-moe-1b")
    assert spec.intra and made.intra
    for axis in ("norm", "scalar", "fusion", "value", "out"):
        assert getattr(made.intra, axis) == getattr(spec.intra, axis)
    assert isinstance(spec.ffn, MoE) and isinstance(made.ffn, MoE)
    assert (made.ffn.n_routed, made.ffn.top_k, made.ffn.n_shared) == (spec.ffn.n_routed, spec.ffn.top_k, spec.ffn.n_shared)
