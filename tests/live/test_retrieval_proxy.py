"""The proxy keeps what a design is: kinds, their shares and places, heads' ratio, axes; widths, and
lengths with the context, shrink."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from hybrid_core.costs.model import model_costs
from hybrid_core.design import presets
from hybrid_core.design.built import not_built
from hybrid_core.design.sections import LayersSection
from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import Layer, key_value_heads
from hybrid_core.ffns.base import FeedForward
from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.registry import AnyFfn
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop import published
from hybrid_core.interop.huggingface import spec_from_config
from hybrid_core.live.modules.model import build
from hybrid_core.live.retrieval import task
from hybrid_core.live.retrieval.depth import fewer_layers, thin
from hybrid_core.live.retrieval.evaluate import recalled
from hybrid_core.live.retrieval.proxy import proxy
from hybrid_core.live.retrieval.trainer import Trainer
from hybrid_core.mixers.attention import AttentionMixer, RopeScaling
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.gated_deltanet import GatedDeltaNetMixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.registry import MIXERS
from hybrid_core.mixers.shared_block import SharedBlockMixer
from hybrid_core.mixers.swa import SwaMixer
from tests.designs import TINY, TINY_HYMBA, design, optional_designs, tiny

BUILT = tuple(name for name, model in published.models().items() if model.not_built is None)
NOT_BUILT = tuple(name for name in published.models() if name not in BUILT)


def of_published(name: str, trained_len: int = 512) -> ArchSpec:
    return proxy(published.models()[name].spec, 64, trained_len, task.VOCAB_SIZE)


def small(name: str) -> ArchSpec:
    return proxy(presets.get(name).spec, 64, 256, task.VOCAB_SIZE)


def kinds(spec: ArchSpec, mixer: type[Mixer]) -> list[Any]:
    """The different mixers of a kind, first to last."""
    return [
        found
        for found in dict.fromkeys(layer.mixer for layer in spec.stack)
        if type(found) is mixer
    ]


# ---------------------------------------------------------------- the paper's five

# By hand for d_model 64 of 2,048 (widths / 32) and 512 tokens of 8,192 (lengths / 16, states / 4).
FFN = SwiGLU(d_ff=256)  # 8192 / 32
SCALING = RopeScaling(original_context_len=512)
ATTENTION = AttentionMixer(
    n_heads=4, n_kv_heads=1, head_dim=16, v_head_dim=16, rope_theta=31_250.0, rope_scaling=SCALING
)
WINDOW = SwaMixer(
    n_heads=4, n_kv_heads=1, head_dim=16, v_head_dim=16, rope_theta=625.0, window=32, sink=4
)
MAMBA = Mamba2Mixer(d_ssm=128, head_dim=32, d_state=32, chunk_size=64)
INTRA = IntraMixer(
    attention=AttentionMixer(
        n_heads=2,
        n_kv_heads=1,
        head_dim=16,
        v_head_dim=32,
        rope_theta=31_250.0,
        rope_scaling=SCALING,
    ),
    ssm=Mamba2Mixer(d_ssm=64, head_dim=32, d_state=32, chunk_size=64),
    norm="group",
    scalar="none",
    fusion="diff",
    value="separate",
    out="separate",
)
LAYERS = {
    "A": Layer(ATTENTION, FFN),
    "S": Layer(WINDOW, FFN),
    "M": Layer(MAMBA, FFN),
    "H": Layer(INTRA, FFN),
}


@pytest.mark.parametrize(
    ("name", "pattern"),
    [  # the proxies that the figures of docs/retrieval-log.md were measured on
        ("llama-1b", "AAAAAA"),
        ("swa-1to5-1b", "SSSASS"),
        ("mamba-1b", "MMMMMM"),
        ("inter-1to5-1b", "MMAMMM"),
        ("intra-1to5-1b", "MMHMMM"),
    ],
)
def test_the_papers_designs_have_the_proxies_that_were_measured(name: str, pattern: str) -> None:
    made = proxy(presets.get(name).spec, 64, 512, task.VOCAB_SIZE)
    assert made.stack == tuple(LAYERS[letter] for letter in pattern)


# ---------------------------------------------------------------- every design


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_has_a_proxy_of_the_same_kinds(name: str) -> None:
    spec, made = presets.get(name).spec, small(name)
    keeps_its_shares(spec, made)
    assert made.d_model == 64 and made.vocab_size == task.VOCAB_SIZE
    assert model_costs(made).params().total < 2_000_000
    build(made, "meta")


def keeps_its_shares(spec: ArchSpec, made: ArchSpec) -> None:
    """Of the letters within 3 %, and the same letters."""
    before, after = Counter(spec.pattern), Counter(made.pattern)
    assert set(before) == set(after)
    for letter, n in before.items():
        assert after[letter] / made.n_layers == pytest.approx(n / spec.n_layers, abs=0.03)


@pytest.mark.parametrize("name", BUILT)
def test_every_built_model_has_a_proxy_that_trains_and_recalls(name: str) -> None:
    model = build(of_published(name, trained_len=128), seed=1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    last = task.curriculum(128, 11)[-1]
    training = Trainer(
        model,
        [last],
        lambda length: 2 * length,
        1,
        0,
        math.inf,
        lambda training: None,
    ).run()
    assert training.steps == 1
    assert math.isfinite(training.curve[-1].loss)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not all(
        torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    )
    made = task.contexts(2, 128, 11, torch.Generator().manual_seed(0))
    assert recalled(model, made, torch.device("cpu")).shape == (2, 11, task.VALUE_LEN)


# Numbers that are neither a width nor a length: what stays as it is, or follows from what divides
# what.
NO_SIZE = {"n_routed", "top_k", "n_shared", "d_conv", "n_groups", "block", "mamba1.n_heads"}


def sizes(part: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Every whole number of a mixer or a feed-forward and of what is inside it, as
    `shared_block.attention.n_heads`, its size."""
    kind = f"{name}.{part.kind}" if name else part.kind
    for key in type(part).model_fields:
        value = getattr(part, key)
        if isinstance(value, Mixer | AnyFfn):
            yield from sizes(value, kind)
        elif (
            isinstance(value, int)
            and not isinstance(value, bool)
            and not {key, f"{part.kind}.{key}"} & NO_SIZE
        ):
            yield f"{kind}.{key}", value


def largest(spec: ArchSpec) -> dict[str, int]:
    """The largest number of each name in a design."""
    found: dict[str, int] = {}
    for layer in dict.fromkeys(spec.stack):
        for part in (layer.mixer, layer.ffn):
            for name, size in sizes(part) if part is not None else ():
                found[name] = max(size, found.get(name, 0))
    return found


@pytest.mark.parametrize("name", BUILT)
def test_no_size_of_a_published_model_stays(name: str) -> None:
    spec, made = published.models()[name].spec, of_published(name)
    before, after = largest(spec), largest(made)
    assert set(before) == set(after)
    assert [key for key, size in before.items() if size > 1 and after[key] >= size] == []


@pytest.mark.parametrize("name", BUILT)
def test_a_proxy_is_as_small_as_its_width_says(name: str) -> None:
    """Every matrix shrinks by the width's factor in both directions. Half as much again for sizes
    that are rounded up to whole heads, and for shared blocks, which fewer layers share."""
    spec, made = published.models()[name].spec, of_published(name)
    per_layer = model_costs(spec).params().non_embedding / spec.n_layers
    narrower = (64 / spec.d_model) ** 2
    expected = per_layer * narrower * made.n_layers
    assert model_costs(made).params().non_embedding < 1.5 * expected


@pytest.mark.parametrize("name", BUILT)
def test_every_kind_of_layer_keeps_its_share(name: str) -> None:
    spec, made = published.models()[name].spec, of_published(name)
    keeps_its_shares(spec, made)
    before, after = (sorted(Counter(one.stack).values(), reverse=True) for one in (spec, made))
    assert len(before) == len(after)  # layers of one letter with other mixers are different kinds
    for n, kept in zip(before, after, strict=True):
        assert kept / made.n_layers == pytest.approx(n / spec.n_layers, abs=0.03)


@pytest.mark.parametrize("name", NOT_BUILT)
def test_a_model_that_is_costed_alone_has_a_proxy_that_is_too(name: str) -> None:
    keeps_its_shares(published.models()[name].spec, of_published(name))


def test_constants_that_weights_absorb_stand_in_no_proxys_way() -> None:
    absorbed = design("AM", constants={"embedding_multiplier": 12.0})
    assert not_built(proxy(absorbed, 64, 256, 145)) is None
    capped = design("AM", constants={"final_logit_softcapping": 30.0})
    why = "constants.final_logit_softcapping: 30.0"  # not built, and neither is its proxy
    assert not_built(capped) == why
    assert not_built(proxy(capped, 64, 256, 145)) == why


def test_every_kind_shrinks() -> None:
    for kind in MIXERS:
        assert kind.shrunk is not Mixer.shrunk
    for ffn in (SwiGLU, Mlp, MoE):
        assert ffn.shrunk is not FeedForward.shrunk


@settings(max_examples=60, deadline=None)
@given(spec=optional_designs())
def test_any_design_has_a_proxy_that_builds(spec: ArchSpec) -> None:
    made = proxy(spec, 64, 256, task.VOCAB_SIZE)
    assert set(made.pattern) == set(spec.pattern) and made.n_layers <= spec.n_layers
    assert not_built(made) is None
    build(made, "meta")
    assert ArchSpec.from_yaml(made.to_yaml()) == made


@pytest.mark.parametrize("kind", TINY)
def test_a_proxy_keeps_every_kind_of_layer(kind: str) -> None:
    made = proxy(tiny(kind, n_layers=8), 64, 256, task.VOCAB_SIZE)
    assert {layer.mixer.kind for layer in made.stack} == {kind}
    assert ArchSpec.from_yaml(made.to_yaml()) == made


@pytest.mark.parametrize("letters", ["A", "S", "M", "H", "D", "N", "AMHSDN"])
def test_every_kind_of_layer_has_a_proxy(letters: str) -> None:
    spec = design(letters)
    assert set(proxy(spec, 64, 256, 145).pattern) == set(letters)


# ---------------------------------------------------------------- kinds, by hand


def test_lengths_shrink_with_the_context_and_the_state_by_the_square_root() -> None:
    made = small("swa-1to5-1b")
    (window,), (attention,) = kinds(made, SwaMixer), kinds(made, AttentionMixer)
    assert (window.window, window.sink, window.rope_theta) == (16, 2, 312.5)
    assert (
        attention.rope_theta == 500_000 / 32 and attention.rope_scaling.original_context_len == 256
    )
    assert attention.n_heads == 4 * attention.n_kv_heads
    (mamba,) = kinds(small("mamba-1b"), Mamba2Mixer)
    assert mamba.d_state == 23  # 128 / sqrt(32) = 22.6


def test_granites_experts_and_attention_shrink() -> None:
    made = of_published("Granite-4.0-H-tiny")  # 64 of 1,536: widths / 24
    (attention,) = kinds(made, AttentionMixer)
    ffn = made.stack[0].ffn
    assert isinstance(ffn, MoE)
    # 512 / 24 = 21.3 and 1,024 / 24 = 42.7, in eights
    assert (ffn.d_expert, ffn.d_shared) == (24, 40)
    assert (ffn.n_routed, ffn.top_k) == (64, 6)
    assert attention.softmax_scale == pytest.approx(8**0.5)  # 1 at heads of 128 wide, now 16


def test_zambas_shared_block_shrinks() -> None:
    (block,) = kinds(of_published("Zamba-7B-v1"), SharedBlockMixer)  # 64 of 3,712: widths / 58
    attention, ssm = block.attention, block.ssm
    assert attention.d_input == 128  # twice d_model, as it was
    assert (attention.n_heads, attention.head_dim) == (8, 16)
    assert attention.softmax_scale == pytest.approx((16 / 2) ** -0.5)  # Zamba's (head_dim / 2)^-0.5
    assert block.ffn.d_ff == 256
    assert (ssm.d_ssm, ssm.n_heads, ssm.d_state) == (128, 2, 4)


def test_zambas_blocks_are_still_shared_and_adapted() -> None:
    made = of_published("Zamba2-2.7B")  # 64 of 2,560: widths / 40
    users = Counter(
        layer.mixer.block for layer in made.stack if isinstance(layer.mixer, SharedBlockMixer)
    )
    assert users == {0: 2, 1: 2}
    # 2 of n is within 3 % of 4 of 54 from 20 on, 4 of n within 3 % of 9 of 54 from 21 on
    assert made.n_layers == 21
    assert {block.adapter_rank for block in kinds(made, SharedBlockMixer)} == {3}  # 128 / 40 = 3.2


def test_hymbas_layers_stay_what_they_are() -> None:
    made = of_published("Hymba-1.5B-Base")
    heads = [key_value_heads(layer) for layer in made.stack]
    told = [
        "reuses" if one.reuse_kv else "window" if isinstance(one, SwaMixer) else "global"
        for one in heads
        if one is not None
    ]
    assert Counter(told) == {"global": 1, "window": 4, "reuses": 4}  # 3, 14 and 15 of 32
    window = next(one for one in heads if isinstance(one, SwaMixer))
    assert (
        made.meta_tokens == window.sink == 8 and window.window == 64
    )  # 128 and 1,024 tokens, / 16


def test_a_layer_that_reuses_keys_has_a_maker_before_it() -> None:
    layers = {
        "num_hidden_layers": 40,
        "global_attn_idx": [0, 20, 39],
        "kv_reuse_group": [[i, i + 1] for i in range(1, 19, 2)],
    }
    spec = spec_from_config(TINY_HYMBA | layers, "deep")
    made = proxy(spec, 64, 256, task.VOCAB_SIZE)  # refused where one had none
    assert made.n_layers < 40
    heads = [key_value_heads(layer) for layer in made.stack]
    assert any(one.reuse_kv for one in heads if one is not None)


def test_a_delta_rules_key_is_its_state() -> None:
    made = of_published("Qwen3-Next-80B-A3B")
    (mixer,) = kinds(made, GatedDeltaNetMixer)  # 16 key, 32 value heads of 128; d_model 2,048
    assert (mixer.k_head_dim, mixer.n_k_heads) == (32, 2)  # 128 / 4; 2,048 / 32 = 64 wide together
    assert (mixer.v_head_dim, mixer.n_v_heads) == (32, 4)  # 4,096 / 32 = 128 wide together


def test_rope_turns_whole_pairs_of_a_narrower_head() -> None:
    # 32 of 80 channels, as in Phi-2
    phi = {"head_dim": 80, "rope_fraction": 0.4, "n_heads": 32, "n_kv_heads": 32}
    made = proxy(design("A", d_model=2560, attention=phi, intra=None), 64, 512, 145)
    (attention,) = kinds(made, AttentionMixer)
    assert (attention.head_dim, attention.rope_dim) == (16, 6)  # 6.4 of 16, in pairs


def test_axes_of_fusion_and_experts_stay() -> None:
    spec, made = presets.get("intra-1to5-moe-1b").spec, small("intra-1to5-moe-1b")
    (before,), (after,) = kinds(spec, IntraMixer), kinds(made, IntraMixer)
    for axis in ("norm", "scalar", "fusion", "value", "out"):
        assert getattr(after, axis) == getattr(before, axis)
    ffn = made.stack[0].ffn
    assert isinstance(spec.ffn, MoE) and isinstance(ffn, MoE)
    assert (ffn.n_routed, ffn.top_k, ffn.n_shared) == (
        spec.ffn.n_routed,
        spec.ffn.top_k,
        spec.ffn.n_shared,
    )


# ---------------------------------------------------------------- depth


@pytest.mark.parametrize(
    ("pattern", "n_layers", "expected"),
    [
        ("MMMAMMMAMMMMM", 6, "MMAMMM"),  # two of thirteen become one of six, between their places
        ("AMMMMM" * 2, 6, "AMMMMM"),  # attention first stays first
        ("AMMMMMMMMMMM", 6, "AMMMMM"),
        ("MMMMMMMMMMMA", 6, "MMMMMA"),
        ("AMAMAMAMAMAM", 6, "AMAMAM"),
        ("MAMAMAMAMAMA", 6, "MAMAMA"),  # Mamba first stays first: attention is at one end alone
        ("MMAMMMAMMMAMM", 8, "MMAMMAMM"),
    ],
)
def test_patterns_are_thinned_in_order(pattern: str, n_layers: int, expected: str) -> None:
    assert "".join(thin(pattern, n_layers)) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("MMMMMA" * 4, "MMMMMA"),  # one of six has the same share
        # 1/13 = 0.077: one of nine (0.111) is more than 3 % above it, one of ten (0.100) is not.
        ("MMMMMMAMMMMMM" * 2, "MMMMAMMMMM"),
        ("AMAMSMH", "AMAMSMH"),  # 2/7 = 0.286 of six is 1 (0.167) or 2 (0.333): neither will do
    ],
)
def test_a_stack_gets_as_small_as_its_shares_allow(pattern: str, expected: str) -> None:
    kept = fewer_layers([LAYERS[letter] for letter in pattern])
    assert kept == tuple(LAYERS[letter] for letter in expected)


def test_every_other_layers_experts_stay_every_other_layers() -> None:
    feeds = "".join(
        "E" if isinstance(layer.ffn, MoE) else "F" for layer in of_published("Jamba-v0.1").stack
    )
    assert feeds == "FEFEFEFE"


def test_the_same_layers_have_the_same_proxy_however_they_are_written() -> None:
    spec = presets.get("inter-1to5-1b").spec
    for placement, found in {"front": "AMMMMM", "end": "MMMMMA", "middle": "MMAMMM"}.items():
        short = spec.replace(
            layers=LayersSection(strategy="inter", ratio="1:5", placement=placement)
        )
        long = spec.replace(layers=LayersSection(pattern=short.pattern))
        assert proxy(short, 64, 256, 145).stack == proxy(long, 64, 256, 145).stack
        assert proxy(short, 64, 256, 145).pattern == found
