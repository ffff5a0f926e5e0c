import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels.attention.reference
import kernels.causal_conv1d.reference
import kernels.ssd.reference
from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.interop.huggingface import spec_from_config
from hybrid_core.live.modules.cache import TORCH_DTYPES, Cache
from hybrid_core.live.modules.generate import generate, prefilled
from hybrid_core.live.modules.intra import IntraHybrid, ScaledSsm
from hybrid_core.live.modules.mamba2 import Mamba2Heads
from hybrid_core.live.modules.model import HybridLM, _seeded, build
from hybrid_core.live.modules.moe import MixtureOfExperts
from hybrid_core.live.modules.norm import RMSNorm
from hybrid_core.live.modules.rope import Rope, inverse_frequencies
from hybrid_core.mixers.attention import RopeScaling
from hybrid_core.validation import SpecError
from tests.conftest import assert_close
from tests.designs import (
    INTRA_COMBINATIONS,
    MAMBA1,
    MOE,
    PATTERNS,
    REUSING,
    SECTIONS,
    TINY_BUILT,
    TINY_HYMBA,
    TINY_SAMBA,
    axes_id,
    design,
    intra_design,
)

pytestmark = pytest.mark.usefixtures("nan_filled")
LENGTH = 23
RAGGED = (1, 5, 3, 9, 1, 4)  # pieces of LENGTH, some longer than the window and the chunk

# Zamba's layer: attention over twice the width, whose weights layers share, then a Mamba of the
# layer's own.
SHARED_BLOCK = {
    "kind": "shared_block",
    "attention": {"kind": "attention", "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_input": 64},
    "ffn": {"kind": "swiglu", "d_ff": 24, "activation": "gelu"},
}
SHARED = {
    "z": SHARED_BLOCK
    | {
        "ssm": {"kind": "mamba2"} | SECTIONS["ssm"],
        "adapter_rank": 3,
        "attention_adapters": True,
        "block": 0,
    },
    "w": SHARED_BLOCK | {"ssm": {"n_heads": 2} | MAMBA1, "block": 1},
}

VARIANTS: dict[str, ArchSpec] = {
    **{pattern: design(pattern) for pattern in PATTERNS},
    **TINY_BUILT,
    "MoE": design("AM", ffn=MOE),
    "plain experts behind a latent": design(
        "AM", ffn=MOE | {"gated": False, "activation": "relu2", "d_latent": 12, "d_shared": 24}
    ),
    "no FFN, untied": design("MA", ffn=None, tie_embeddings=False),
    "two groups, conv of one": design("MH", ssm={"n_groups": 2, "d_conv": 1}, intra={"d_ssm": 64}),
    "no RoPE": design("AH", attention={"position": "nope"}),
    "Mamba-1": design("MA", ssm=MAMBA1),
    "Mamba-1 with norms, conv of one": design("M", ssm=MAMBA1 | {"dt_bc_norm": True, "d_conv": 1}),
    "differential with norms": design(
        "DN", diff={"norm": "group", "fusion": "add"}, ssm={"n_groups": 2}, intra=None
    ),
    "differential without lambda": design(
        "DN", diff={"scalar": "none"}, attention={"position": "nope"}
    ),
    "Hymba": spec_from_config(TINY_HYMBA),
    "Samba": spec_from_config(TINY_SAMBA),
    "shared blocks": design("zMzw", mixers=SHARED),
    "reused keys and values": design(
        "AxSyM", mixers=REUSING, attention={"qk_norm": True}, layers={"pattern": "AxSyM"}
    ),
    **{
        f"window {w}, sink {s}": design("S", swa={"window": w, "sink": s})
        for w, s in ((1, 0), (3, 0), (2, 1), (5, 9), (3, 30), (30, 2))
    },
}


def some_tokens(length: int = LENGTH, batch: int = 2) -> Tensor:
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(1))


def lively(spec: ArchSpec, dtype: torch.dtype = torch.float64, spread: float = 0.3) -> HybridLM:
    """A model whose weights are large enough that every part shows in the logits, norms and skips
    included."""
    model = build(spec, dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            own_spread = 0.05 if name.endswith(("A_log", "dt_bias")) else spread
            parameter.add_(
                own_spread
                * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
            )
    return model


@torch.no_grad()
def in_pieces(
    model: HybridLM, tokens: Tensor, pieces: tuple[int, ...], **dtypes: torch.dtype
) -> Tensor:
    cache = model.new_cache(
        tokens.shape[0], tokens.shape[1], **({"state_dtype": torch.float64} | dtypes)
    )
    before = cache.nbytes
    logits = torch.cat([model(piece, cache) for piece in tokens.split(list(pieces), 1)], 1)
    assert (cache.length, cache.nbytes) == (tokens.shape[1], before)
    return logits


# ---------------------------------------------------------------- prefill == decode


@torch.no_grad()
def decode_agrees(spec: ArchSpec) -> None:
    model, tokens = lively(spec), some_tokens()
    whole = model(tokens)
    tolerance = (
        1e-6 if isinstance(spec.ffn, MoE) else 1e-10
    )  # a router's scores are float32 in any model
    assert_close("step by step", in_pieces(model, tokens, (1,) * LENGTH), whole, tolerance)
    assert_close("ragged pieces", in_pieces(model, tokens, RAGGED), whole, tolerance)
    assert_close(
        "prompt, then steps", in_pieces(model, tokens, (17, 1, 1, 1, 1, 1, 1)), whole, tolerance
    )
    assert_close("last only", model(tokens, last_only=True), whole[:, -1:], 1e-12)


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_prefill_equals_decode_step_by_step_and_in_ragged_pieces(spec: ArchSpec) -> None:
    decode_agrees(spec)


@pytest.mark.parametrize("axes", INTRA_COMBINATIONS, ids=axes_id)
def test_prefill_equals_decode_for_every_combination_of_axes(axes: dict[str, str]) -> None:
    decode_agrees(intra_design(axes))


@pytest.mark.parametrize(
    ("kv", "state", "tolerance"),
    [("bf16", "fp32", 0.02), ("fp16", "bf16", 0.02), ("fp8", "fp16", 0.1)],
)
def test_decode_over_a_narrow_cache_stays_near(kv: str, state: str, tolerance: float) -> None:
    model, tokens = build(design("AMSH")), some_tokens()
    logits = in_pieces(
        model,
        tokens,
        (17, 1, 1, 1, 1, 1, 1),
        kv_dtype=TORCH_DTYPES[kv],
        state_dtype=TORCH_DTYPES[state],
    )
    assert_close("logits", logits, model(tokens), tolerance)


CHUNKS = (8, 4, 16, 1)  # of LENGTH tokens; none divides it but 1, which is decode


@torch.no_grad()
def chunk_by_chunk(
    model: HybridLM, tokens: Tensor, chunk: int | None, kv: torch.dtype | None = None
) -> tuple[Tensor, Cache]:
    """The last logits and the cache after a prefill, all at once or in chunks."""
    state = torch.promote_types(model.embed.weight.dtype, torch.float32)
    cache = model.new_cache(*tokens.shape, kv, state)
    return prefilled(model, tokens, cache, chunk), cache


def chunks_agree(
    spec: ArchSpec, dtype: torch.dtype, tolerance: float, kv: torch.dtype | None = None
) -> None:
    model, tokens = lively(spec, dtype), some_tokens()
    expected, whole = chunk_by_chunk(model, tokens, None, kv)
    for chunk in CHUNKS:
        logits, cache = chunk_by_chunk(model, tokens, chunk, kv)
        assert cache.length == whole.length == LENGTH
        assert_close(f"logits, {chunk} tokens at a time", logits, expected, tolerance)
        for index, (actual, held) in enumerate(zip(cache.tensors(), whole.tensors(), strict=True)):
            assert_close(
                f"cache tensor {index}, {chunk} tokens at a time",
                actual.double(),
                held.double(),
                tolerance,
            )


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_a_prefill_in_chunks_leaves_what_one_shot_and_decode_leave(spec: ArchSpec) -> None:
    chunks_agree(spec, torch.float64, 1e-6 if isinstance(spec.ffn, MoE) else 1e-10)
    chunks_agree(spec, torch.float32, 1e-4)


def test_a_prefill_in_chunks_over_fp8_keys_and_values_stays_near() -> None:
    """Later chunks see rounded keys and values where one shot over a window saw them as they were
    made."""
    chunks_agree(design("AMSH"), torch.float32, 0.13, TORCH_DTYPES["fp8"])
    chunks_agree(design("AMH"), torch.float32, 0.02, TORCH_DTYPES["fp8"])


def test_a_model_in_bfloat16_is_near_the_same_in_float32() -> None:
    model, tokens = build(design("AMSH")), some_tokens()
    half = build(design("AMSH"), dtype=torch.bfloat16)
    half.load_state_dict(model.state_dict())
    assert_close("logits", half(tokens), model(tokens), 0.05)


def test_a_full_cache_refuses_more_and_stays_as_it_was() -> None:
    model, tokens = build(design("AM")), some_tokens(6)
    cache = model.new_cache(2, 5)
    model(tokens[:, :4], cache)
    with pytest.raises(ValueError, match=r"room for 5 tokens and holds 4: 2 more do not fit"):
        model(tokens[:, 4:], cache)
    assert cache.length == 4


# ---------------------------------------------------------------- attention


@torch.no_grad()
def last_logits(model: HybridLM, tokens: Tensor) -> Tensor:
    return model(tokens)[:, -1]


def changed_by(model: HybridLM, tokens: Tensor, position: int) -> bool:
    """Whether another token at `position` changes the last logits."""
    other = tokens.clone()
    other[:, position] = (other[:, position] + 1) % 50
    return not torch.equal(last_logits(model, tokens), last_logits(model, other))


@pytest.mark.parametrize(("window", "sink"), [(4, 2), (1, 0), (3, 0), (1, 3), (100, 0)])
def test_a_window_sees_itself_its_past_and_the_sinks_and_nothing_else(
    window: int, sink: int
) -> None:
    model, tokens = lively(design("S", swa={"window": window, "sink": sink})), some_tokens(12)
    seen = [position for position in range(12) if changed_by(model, tokens, position)]
    assert seen == [position for position in range(12) if position > 11 - window or position < sink]


def test_global_attention_sees_all_of_the_past_and_nothing_of_the_future() -> None:
    model, tokens = lively(design("A")), some_tokens(12)
    assert all(changed_by(model, tokens, position) for position in range(12))
    with torch.no_grad():
        assert_close("logits", model(tokens[:, :7]), model(tokens)[:, :7], 1e-12)


@pytest.mark.parametrize("length", [3, 6, 40])
def test_a_windows_cache_has_no_more_slots_than_window_and_sinks(length: int) -> None:
    cache = build(design("SA")).new_cache(2, length)
    assert {tensor.shape[1] for tensor in cache.layers[0].tensors()} == {min(length, 4 + 2)}
    assert {tensor.shape[1] for tensor in cache.layers[1].tensors()} == {length}


@pytest.mark.parametrize(("position", "ordered"), [("rope", True), ("nope", False)])
def test_only_rope_tells_the_order_of_the_past(position: str, ordered: bool) -> None:
    model, tokens = lively(design("A", attention={"position": position})), some_tokens(12)
    shuffled = torch.cat([tokens[:, :11].flip(1), tokens[:, 11:]], 1)
    difference = (last_logits(model, tokens) - last_logits(model, shuffled)).abs().max()
    assert (difference > 1e-6) == ordered


def test_rope_turns_each_pair_by_its_angle() -> None:
    x = torch.randn(1, 5, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    turned = Rope(6, 100.0, None)(x, start=7)
    for i, pair in ((i, pair) for i in range(5) for pair in range(3)):
        turn = torch.polar(
            torch.tensor(1.0).double(), torch.tensor((7 + i) * 100.0 ** (-2 * pair / 6)).double()
        )
        expected = (
            torch.view_as_complex(torch.stack([x[0, i, :, pair], x[0, i, :, pair + 3]], -1)) * turn
        )
        actual = torch.view_as_complex(
            torch.stack([turned[0, i, :, pair], turned[0, i, :, pair + 3]], -1)
        )
        assert_close(
            f"position {7 + i}, pair {pair}",
            torch.view_as_real(actual),
            torch.view_as_real(expected),
            1e-5,
        )  # angles are float32


@pytest.mark.parametrize(
    ("factor", "low", "high", "original"),
    [(32.0, 1.0, 4.0, 8192), (8.0, 1.0, 4.0, 8192), (4.0, 0.5, 16.0, 512)],
)
def test_llama_3_frequency_scaling_is_that_of_transformers(
    factor: float, low: float, high: float, original: int
) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
    }
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        rope_parameters=rope | {"original_max_position_embeddings": original},
    )
    scaling = RopeScaling(
        factor=factor, low_freq_factor=low, high_freq_factor=high, original_context_len=original
    )
    theirs = LlamaRotaryEmbedding(config).inv_freq
    ours = inverse_frequencies(64, 500_000.0, scaling)
    assert_close("relative frequencies", ours / theirs, torch.ones(32), 1e-5)
    assert not torch.allclose(ours, inverse_frequencies(64, 500_000.0, None))


# ---------------------------------------------------------------- intra-hybrid


def per_head_rms(x: Tensor, norm: nn.Module, head_dim: int) -> Tensor:
    """RMS over each head, learnt weight; nothing where the axis is `none`."""
    if not isinstance(norm, RMSNorm):
        return x
    heads = x.unflatten(-1, (-1, head_dim))
    return (heads / (heads.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(-2) * norm.weight


def naive_intra(block: IntraHybrid, x: Tensor, layer_index: int) -> Tensor:
    """Appendix D step by step, with the sequential kernels; without position encoding."""
    s, a, m = block.spec, block.spec.attention, block.spec.ssm
    shapes = [(a.n_heads, a.head_dim), (a.n_kv_heads, a.head_dim), (a.n_kv_heads, a.v_head_dim)]
    rows = block.attention.qkv.weight.split([heads * width for heads, width in shapes])
    q, k, v = (
        (x @ weight.T).unflatten(-1, shape) for weight, shape in zip(rows, shapes, strict=True)
    )
    attention = kernels.attention.reference.attention(q, k, v).flatten(2)

    d_x = m.d_ssm if s.value == "separate" else 0
    parts = (x @ block.ssm.in_proj.weight.T).split(
        [m.d_ssm, d_x, m.d_state, m.d_state, m.n_heads], -1
    )
    z, own_x, B, C, dt = parts
    shared = torch.cat([v[:, :, head * a.n_kv_heads // a.n_heads] for head in range(a.n_heads)], -1)
    inputs = torch.cat([own_x if s.value == "separate" else shared, B, C], -1)
    inputs, _ = kernels.causal_conv1d.reference.causal_conv1d(
        inputs, block.ssm.conv_weight, block.ssm.conv_bias
    )
    xs, B, C = inputs.split([m.d_ssm, m.d_state, m.d_state], -1)
    dt, A = torch.log1p(torch.exp(dt + block.ssm.dt_bias)), -torch.exp(block.ssm.A_log)
    y, _ = kernels.ssd.reference.ssd(
        xs.unflatten(-1, (m.n_heads, -1)), dt, A, B[:, :, None], C[:, :, None], block.ssm.D
    )
    ssm = y.flatten(2) * z * torch.sigmoid(z)

    attention, ssm = (
        per_head_rms(attention, block.attention_norm, a.v_head_dim),
        per_head_rms(ssm, block.ssm_norm, m.head_dim),
    )
    if s.scalar == "scale":
        attention, ssm = attention * block.scalar.attention, ssm * block.scalar.ssm
    elif s.scalar == "gate":
        gates = torch.sigmoid(x @ block.scalar.proj.weight.T)
        attention = attention * gates[..., : a.n_heads].repeat_interleave(a.v_head_dim, -1)
        ssm = ssm * gates[..., a.n_heads :].repeat_interleave(m.head_dim, -1)
    elif s.scalar == "diff_t":
        q1, k1, q2, k2 = block.scalar.vectors
        ssm = ssm * (
            torch.exp(q1 @ k1) - torch.exp(q2 @ k2) + 0.8 - 0.6 * math.exp(-0.3 * layer_index)
        )
    sign = -1 if s.fusion == "diff" else 1
    if s.out == "separate":
        return attention @ block.attention_out.weight.T + sign * ssm @ block.ssm_out.weight.T
    fused = torch.cat([attention, ssm], -1) if s.fusion == "concat" else attention + sign * ssm
    return fused @ block.out.weight.T


@pytest.mark.parametrize("axes", INTRA_COMBINATIONS, ids=axes_id)
@torch.no_grad()
def test_an_intra_block_does_what_appendix_d_says(axes: dict[str, str]) -> None:
    model = lively(intra_design(axes, "HH", attention={"position": "nope"}))
    x = torch.randn(2, 9, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for index, layer in enumerate(model.layers):
        assert_close(
            f"layer {index}",
            layer.mixer(x),
            naive_intra(layer.mixer, x, index),
            1e-6 if axes["scalar"] == "diff_t" else 1e-10,
        )


@torch.no_grad()
def test_lambda_of_the_first_layer_starts_at_a_fifth() -> None:
    mixer = design("H").stack[0].mixer
    lambdas = [ScaledSsm(mixer, 32, index) for index in (0, 1)]
    x = torch.ones(1, 1, 48)
    assert lambdas[0](x, x, x)[1][0, 0, 0] == pytest.approx(0.2)
    assert lambdas[1](x, x, x)[1][0, 0, 0] == pytest.approx(0.8 - 0.6 * math.exp(-0.3))
    assert torch.equal(lambdas[0](x, x, x)[0], x)


# ---------------------------------------------------------------- Hymba (not in transformers)


def whole_rms(x: Tensor, norm: nn.Module) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


def turned_by_position(heads: Tensor) -> Tensor:
    """[positions, heads, 8], the pair i of halves turned by position * theta^(-i/4), with the theta
    that NTK scaling by 4 makes."""
    theta = 1e4 * (2 * 8192 / 2048 - 1) ** (8 / 6)
    angle = torch.arange(len(heads), dtype=torch.float64)[:, None, None] * theta ** (
        -torch.arange(4, dtype=torch.float64) / 4
    )
    a, b = heads.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def naive_mamba1(ssm: nn.Module, x: Tensor) -> Tensor:
    """One token after the other, one position of the convolution after the other."""
    (inner, z), out = (x @ ssm.in_proj.weight.T).chunk(2, -1), []
    state = torch.zeros(64, 5, dtype=torch.float64)
    for t in range(len(x)):
        taps = [
            inner[t - 3 + tap] * ssm.conv_weight[:, tap] for tap in range(4) if t - 3 + tap >= 0
        ]
        u = F.silu(sum(taps) + ssm.conv_bias)
        dt, B, C = (ssm.x_proj.weight @ u).split([3, 5, 5])
        dt = F.softplus(ssm.dt_proj.weight @ whole_rms(dt, ssm.dt_norm) + ssm.dt_proj.bias)[:, None]
        state = (
            torch.exp(-dt * ssm.A_log.exp()) * state + dt * whole_rms(B, ssm.B_norm) * u[:, None]
        )
        out.append((state @ whole_rms(C, ssm.C_norm) + ssm.D * u) * F.silu(z[t]))
    return torch.stack(out)


@torch.no_grad()
def test_hymba_is_what_its_config_says_step_by_step() -> None:
    """Everything but the weights is read from the config here: layers 1 to 3 and 4 to 5 share keys
    and values, three meta tokens are before all others and never fall out of a window of 4."""
    model, tokens = lively(spec_from_config(TINY_HYMBA)), some_tokens(12, 1)
    x = torch.cat([model.meta, model.embed.weight[tokens[0]]])
    near = torch.tensor([[j <= i and (i - j < 4 or j < 3) for j in range(15)] for i in range(15)])
    for i, layer in enumerate(model.layers):
        block, normed = layer.mixer, whole_rms(x, layer.mixer_norm)
        qkv = normed @ block.attention.qkv.weight.T
        q = turned_by_position(qkv[:, :32].unflatten(-1, (4, 8)))
        if i not in (2, 3, 5):
            k = turned_by_position(qkv[:, 32:48].unflatten(-1, (2, 8))).repeat_interleave(2, 1)
            v = qkv[:, 48:].unflatten(-1, (2, 16)).repeat_interleave(2, 1)
        mask = near if i in (1, 2, 3) else torch.ones(15, 15, dtype=torch.bool).tril()
        scores = (
            torch.einsum("ihd,jhd->hij", q, k).div(8**0.5).masked_fill(~mask, -math.inf).softmax(-1)
        )
        attention = torch.einsum("hij,jhd->ihd", scores, v).flatten(1)
        fused = whole_rms(attention, block.attention_norm) + whole_rms(
            naive_mamba1(block.ssm, normed), block.ssm_norm
        )
        x = x + fused @ block.out.weight.T
        gate, up = (whole_rms(x, layer.ffn_norm) @ layer.ffn.gate_up.weight.T).chunk(2, -1)
        x = x + F.silu(gate) * up @ layer.ffn.down.weight.T
    logits = whole_rms(x[3:], model.norm) @ model.embed.weight.T
    assert_close("logits", model(tokens)[0], logits, 1e-5)  # our rotations are float32


def test_keys_and_values_are_reused_only_from_a_layer_alike() -> None:
    for pattern, why in (
        ("xA", "no earlier layer computes any"),
        ("Sx", "other heads or another window"),
    ):
        with pytest.raises(SpecError, match=rf"^reuse_kv: True - layer \d needs .* {why}$"):
            design(pattern, mixers=REUSING, layers={"pattern": pattern})


# ---------------------------------------------------------------- mixture of experts


def experts(spec: dict[str, object] = MOE) -> MixtureOfExperts:
    module = lively(design("A", ffn=spec)).layers[0].ffn
    assert isinstance(module, MixtureOfExperts)
    return module


def naive_moe(moe: MixtureOfExperts, row: Tensor) -> tuple[Tensor, list[int]]:
    """One token through each expert that it chose, and which those are."""
    scores = torch.sigmoid(moe.router.weight @ row)
    chosen = sorted(
        range(moe.spec.n_routed), key=lambda e: float(scores[e] + moe.bias[e]), reverse=True
    )[: moe.spec.top_k]

    def gated(gate_up: Tensor, down: Tensor) -> Tensor:
        gate, up = (gate_up @ row).chunk(2)
        return down @ (gate * torch.sigmoid(gate) * up)

    out = sum(
        (scores[e] * gated(moe.gate_up[e], moe.down[e]) for e in chosen), torch.zeros_like(row)
    )
    return (
        out + gated(moe.shared.gate_up.weight, moe.shared.down.weight) if moe.shared else out
    ), chosen


@pytest.mark.parametrize(
    "spec",
    [MOE, MOE | {"top_k": 1}, MOE | {"top_k": 4}, MOE | {"n_shared": 0}, MOE | {"n_shared": 2}],
    ids=str,
)
@torch.no_grad()
def test_a_mixture_equals_a_loop_over_tokens_and_experts(spec: dict[str, object]) -> None:
    moe = experts(spec)
    moe.bias.copy_(torch.tensor([0.3, -0.2, 0.0, 0.1]))  # moves the choice, not the weights
    x = torch.randn(2, 9, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    expected = torch.stack([naive_moe(moe, row)[0] for row in x.flatten(0, 1)]).view_as(x)
    assert_close("out", moe(x), expected, 1e-6)  # scores are float32


@torch.no_grad()
def test_balancing_lifts_the_bias_of_underloaded_experts_in_training_only() -> None:
    moe, x = (
        experts(),
        torch.randn(2, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(6)),
    )
    moe(x)
    assert moe.load.sum() == 0
    moe.train()
    moe(x)
    chosen = [e for row in x.flatten(0, 1) for e in naive_moe(moe, row)[1]]
    load = [chosen.count(e) for e in range(4)]
    assert moe.load.tolist() == load
    assert len(set(load)) > 1
    moe.update_balance()
    mean = sum(load) / 4
    assert moe.bias.tolist() == pytest.approx([1e-3 * ((n < mean) - (n > mean)) for n in load])
    assert moe.load.sum() == 0


# ---------------------------------------------------------------- training


def every_gradient_is_finite(spec: ArchSpec) -> None:
    """Finite for each parameter, and not all zero."""
    model = lively(spec, torch.float32).train()
    tokens = some_tokens()
    F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_every_parameter_gets_a_finite_gradient(spec: ArchSpec) -> None:
    every_gradient_is_finite(spec)


@pytest.mark.parametrize("axes", INTRA_COMBINATIONS, ids=axes_id)
def test_every_parameter_gets_a_finite_gradient_for_every_combination_of_axes(
    axes: dict[str, str],
) -> None:
    every_gradient_is_finite(intra_design(axes))


# ---------------------------------------------------------------- initialisation


@torch.no_grad()
def test_initialisation_is_the_papers() -> None:
    model = build(design("MH" * 8, ssm={"head_dim": 2}, intra={"ssm_head_dim": 2}))
    heads = [module for module in model.modules() if isinstance(module, Mamba2Heads)]
    A = torch.cat([module.A_log.exp() for module in heads])
    dt = torch.cat([F.softplus(module.dt_bias) for module in heads])
    assert len(A) == 8 * (32 + 24)
    assert 0.01 - 1e-6 <= A.min() < 0.1
    assert 1.9 < A.max() <= 2 + 1e-6
    assert A.mean() == pytest.approx(1.005, abs=0.1)
    assert 1e-3 - 1e-6 <= dt.min() < 1.2e-3
    assert 0.08 < dt.max() <= 0.1 + 1e-6
    assert dt.log10().mean() == pytest.approx(-2, abs=0.1)
    assert all((module.D == 1).all() for module in heads)


@torch.no_grad()
def test_weights_start_at_their_standard_deviation_and_norms_at_one() -> None:
    model = build(design("AM" * 4, ffn=MOE, tie_embeddings=False))
    parameters = dict(model.named_parameters())
    assert all(value.isfinite().all() for value in [*parameters.values(), *model.buffers()])
    for name in ("embed", "head", "layers.0.mixer.qkv", "layers.1.mixer.in_proj"):
        assert parameters[f"{name}.weight"].std() == pytest.approx(0.02, rel=0.1), name
    for name in (
        "layers.0.mixer.out.weight",
        "layers.1.mixer.out.weight",
        "layers.0.ffn.down",
        "layers.0.ffn.shared.down.weight",
    ):
        assert parameters[name].std() == pytest.approx(0.02 / math.sqrt(2 * 8), rel=0.1), name
    assert all((value == 1).all() for name, value in parameters.items() if "norm" in name)


def test_one_seed_makes_one_model_and_leaves_the_global_generator_alone() -> None:
    spec = design("AMSH", ffn=MOE)
    torch.manual_seed(7)
    untouched = torch.rand(1)
    torch.manual_seed(7)
    first, same, other = (build(spec, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.rand(1) == untouched
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert not torch.equal(first["embed.weight"], other["embed.weight"])


@pytest.mark.parametrize("index", [None, 0, 1], ids=["cpu", "cuda:0", "cuda:1"])
def test_a_seed_is_one_devices_alone(index: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generators of two CUDA devices are stood in for by a CPU's; whoever draws from them
    meanwhile goes on undisturbed."""
    monkeypatch.setattr(
        torch.cuda, "manual_seed_all", lambda seed: pytest.fail("all devices were seeded")
    )
    cuda = tuple(torch.Generator().manual_seed(n) for n in (1, 2))
    monkeypatch.setattr(torch.cuda, "default_generators", cuda)
    everyone = [torch.default_generator, *cuda]
    seeded = torch.default_generator if index is None else cuda[index]
    states = [generator.get_state() for generator in everyone]
    with _seeded(5, torch.device("cpu") if index is None else torch.device("cuda", index)):
        assert [generator.initial_seed() == 5 for generator in everyone] == [
            generator is seeded for generator in everyone
        ]
        torch.rand(3, generator=seeded)
    assert all(
        torch.equal(generator.get_state(), state)
        for generator, state in zip(everyone, states, strict=True)
    )


# ---------------------------------------------------------------- generation


@torch.no_grad()
def repeated(model: HybridLM, prompt: Tensor, n_tokens: int) -> Tensor:
    """Greedy by a whole forward pass per token."""
    tokens = prompt
    for _ in range(n_tokens):
        tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], 1)
    return tokens[:, prompt.shape[1] :]


def continued(model: HybridLM, prompt: Tensor) -> Tensor:
    """The first part of the prompt is already in the cache."""
    cache = model.new_cache(2, 21)
    with torch.no_grad():
        model(prompt[:, :4], cache)
    return generate(model, prompt[:, 4:], 12, cache)


GREEDY: dict[str, Callable[[HybridLM, Tensor], Tensor]] = {
    "own cache": lambda model, prompt: generate(model, prompt, 12),
    "given cache": lambda model, prompt: generate(model, prompt, 12, model.new_cache(2, 21)),
    "continued": continued,
    "almost cold": lambda model, prompt: generate(model, prompt, 12, temperature=1e-6),
}


@pytest.mark.parametrize("greedy", GREEDY.values(), ids=GREEDY)
@pytest.mark.parametrize("pattern", ["AMSH", "S"])
def test_generation_is_the_argmax_of_repeated_forward_passes(
    pattern: str, greedy: Callable[[HybridLM, Tensor], Tensor]
) -> None:
    model, prompt = lively(design(pattern)), some_tokens(9)
    assert greedy(model, prompt).tolist() == repeated(model, prompt, 12).tolist()


def test_generation_into_a_cache_without_room_is_refused() -> None:
    model = build(design("AM"))
    with pytest.raises(ValueError, match="room for 10 tokens"):
        generate(model, some_tokens(9), 3, model.new_cache(2, 10))


def test_training_goes_on_after_generation() -> None:
    model = build(design("AH"))
    generate(model, torch.tensor([[1, 2, 3]]), 4)
    model.train()(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9]])).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_balancing_keeps_its_precision_in_bf16() -> None:
    model = build(design("A", ffn=MOE), dtype=torch.bfloat16)
    moe = model.layers[0].ffn
    moe.bias.fill_(0.6)
    moe.load.copy_(torch.tensor([0.0, 1000.0, 500.0, 500.0]))
    moe.update_balance()
    assert moe.bias[:2].tolist() == pytest.approx([0.601, 0.599])
