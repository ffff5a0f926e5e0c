"""Differential mixers against their formulas written out, and Mamba-1 against transformers and its
own definition."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DiffLlamaConfig, DiffLlamaForCausalLM, MambaConfig, MambaForCausalLM

from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.modules.attention import Attention
from hybrid_core.live.modules.diff_attention import DiffAttention
from hybrid_core.live.modules.diff_mamba2 import DiffMamba2
from hybrid_core.live.modules.generate import generate
from hybrid_core.live.modules.mamba1 import Mamba1
from hybrid_core.live.modules.mamba2 import Mamba2Heads
from hybrid_core.live.modules.model import build
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from tests.conftest import assert_close
from tests.designs import MAMBA1, design

DIFFS = [
    {"norm": norm, "scalar": scalar, "fusion": fusion}
    for norm in ("none", "group")
    for scalar in ("diff_t", "none")
    for fusion in ("diff", "add")
]
EPS = 1e-5


def diff_id(diff: dict[str, str]) -> str:
    return "-".join(diff.values())


def mixer(spec: ArchSpec, index: int = 0) -> Any:
    """One mixer in float64 whose every parameter shows in its output."""
    module = build(spec, dtype=torch.float64).layers[index].mixer
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            )
    return module


def some_input(length: int = 11) -> Tensor:
    return torch.randn(
        2, length, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )


def lambda_of(vectors: Tensor, layer: int) -> Tensor:
    """Equation 2 of arXiv 2410.05258; layers from 1."""
    q1, k1, q2, k2 = vectors
    return torch.exp(q1 @ k1) - torch.exp(q2 @ k2) + start_of(layer)


def start_of(layer: int) -> float:
    return 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()


# ---------------------------------------------------------------- differential attention


def softmax_map(q: Tensor, k: Tensor) -> Tensor:
    """Causal softmax of q [B, T, D] over k [B, T, D]."""
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    return scores.masked_fill(
        torch.ones_like(scores[0], dtype=torch.bool).triu(1), -torch.inf
    ).softmax(-1)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("diff", DIFFS, ids=diff_id)
@torch.no_grad()
def test_differential_attention_is_its_formula(diff: dict[str, str], layer: int) -> None:
    """4 heads in 2 pairs, 4 key heads of which pair i has i and i + 2, values of neighbouring heads
    side by side."""
    module = mixer(design("DD", diff=diff, attention={"n_kv_heads": 4}), layer - 1)
    q, k, v = module.project(some_input(), 0)
    scale = lambda_of(module.scalar.vectors, layer) if module.scalar else 1.0
    heads = []
    for pair in range(2):
        value = torch.cat([v[:, :, 2 * pair], v[:, :, 2 * pair + 1]], -1)
        first, second = (softmax_map(q[:, :, head], k[:, :, head]) for head in (pair, pair + 2))
        heads.append(
            (first - scale * second if diff["fusion"] == "diff" else first + scale * second) @ value
        )
    if diff["norm"] == "group":
        kept = 1 - start_of(layer) if module.scalar else 1.0
        heads = [
            kept * rms(head) * weight
            for head, weight in zip(heads, module.norm.weight.chunk(2), strict=True)
        ]
    assert_close(
        "out", module(some_input()), F.linear(torch.cat(heads, -1), module.out.weight), 1e-12
    )


@torch.no_grad()
def test_with_lambda_zero_differential_attention_is_attention_with_the_first_maps() -> None:
    """As 2 heads of 1 key head, whose values are as wide as two of its queries."""
    module = mixer(design("D"))
    module.scalar.start = 0.0
    module.scalar.vectors.zero_()  # exp(0) - exp(0)
    s = module.spec
    fields = s.model_dump(include={"head_dim", "position", "rope_theta"})
    half = AttentionMixer(n_heads=2, n_kv_heads=1, v_head_dim=16, **fields)
    plain = Attention(half, 32, 0).double()
    q, k, v = module.qkv.weight.split(module.widths)
    plain.qkv.weight.copy_(torch.cat([q[:16], k[:8], v]))
    plain.out.weight.copy_(module.out.weight)
    assert_close("out", module(some_input()), plain(some_input()), 1e-12)


def test_the_parameters_are_those_of_attention_but_for_lambda_and_norm() -> None:
    plain, diff, normed = (
        build(spec, "meta")
        for spec in (design("A"), design("D"), design("D", diff={"norm": "group"}))
    )
    counts = [
        sum(parameter.numel() for parameter in model.parameters())
        for model in (plain, diff, normed)
    ]
    assert [count - counts[0] for count in counts] == [0, 4 * 8, 4 * 8 + 32]


@torch.no_grad()
def test_differential_attention_is_the_differential_transformers() -> None:
    """DiffLlama in transformers: it pairs value heads i and i + G/2 where here neighbours are a
    pair."""
    config = DiffLlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=EPS,
        tie_word_embeddings=False,
        rope_theta=1e4,
        attn_implementation="eager",
        lambda_std_dev=0.3,
    )
    torch.manual_seed(0)
    theirs = DiffLlamaForCausalLM(config).eval()
    ours = build(
        design("DDD", diff={"norm": "group"}, attention={"rope_theta": 1e4}, tie_embeddings=False)
    )
    ours.embed.weight.copy_(theirs.model.embed_tokens.weight)
    ours.norm.weight.copy_(theirs.model.norm.weight)
    ours.head.weight.copy_(theirs.lm_head.weight)
    for block, source in zip(ours.layers, theirs.model.layers, strict=True):
        attention, feed_forward = source.self_attn, source.mlp
        block.mixer.qkv.weight.copy_(
            torch.cat([getattr(attention, f"{name}_proj").weight for name in "qkv"])
        )
        block.mixer.out.weight.copy_(attention.o_proj.weight)
        vectors = [getattr(attention, f"lambda_{name}") for name in ("q1", "k1", "q2", "k2")]
        block.mixer.scalar.vectors.copy_(torch.stack(vectors))
        block.mixer_norm.weight.copy_(source.input_layernorm.weight)
        block.ffn_norm.weight.copy_(source.post_attention_layernorm.weight)
        block.ffn.gate_up.weight.copy_(
            torch.cat([feed_forward.gate_proj.weight, feed_forward.up_proj.weight])
        )
        block.ffn.down.weight.copy_(feed_forward.down_proj.weight)
    tokens = torch.randint(0, 50, (2, 23), generator=torch.Generator().manual_seed(1))
    assert (ours(tokens) - theirs(tokens).logits).abs().max() < 1e-4


# ---------------------------------------------------------------- differential Mamba-2


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("diff", DIFFS, ids=diff_id)
@torch.no_grad()
def test_differential_mamba_is_two_mambas_of_half_the_width(
    diff: dict[str, str], groups: int
) -> None:
    """Each branch is built on its own, with its rows of the fused projections."""
    module = mixer(design("MN", diff=diff, ssm={"n_groups": groups}, intra=None), 1)
    assert isinstance(module, DiffMamba2)
    s, x = module.spec, some_input()
    assert (s.d_ssm, s.n_heads, s.n_groups) == (64, 4, 2 * groups)
    fields = {
        "d_ssm": 32,
        "head_dim": 16,
        "d_state": 8,
        "d_conv": 4,
        "n_groups": groups,
        "chunk_size": 8,
    }
    z, xs, b, c, dt = module.in_proj.weight.split([64, 64, 16 * groups, 16 * groups, 4])
    conv = {
        name: getattr(module, f"conv_{name}").split([64, 16 * groups, 16 * groups])
        for name in ("weight", "bias")
    }
    outs = []
    for i in range(2):
        branch = Mamba2Heads(Mamba2Mixer(**fields), 32).double()
        branch.in_proj.weight.copy_(torch.cat([part.chunk(2)[i] for part in (z, xs, b, c, dt)]))
        branch.conv_weight.copy_(torch.cat([part.chunk(2)[i] for part in conv["weight"]]))
        branch.conv_bias.copy_(torch.cat([part.chunk(2)[i] for part in conv["bias"]]))
        for name in ("A_log", "D", "dt_bias"):
            getattr(branch, name).copy_(getattr(module, name).chunk(2)[i])
        y, gate = branch.scan(x, None)
        out = y * F.silu(gate)
        if diff["norm"] == "group":
            out = rms(out.unflatten(-1, (2, 16))).flatten(-2) * module.norm.weight.chunk(2)[i]
        outs.append(F.linear(out, module.out.weight.chunk(2, 1)[i]))
    scale = lambda_of(module.scalar.vectors, 2) if module.scalar else 1.0
    expected = outs[0] - scale * outs[1] if diff["fusion"] == "diff" else outs[0] + scale * outs[1]
    assert_close("out", module(x), expected, 1e-12)


# ---------------------------------------------------------------- Mamba-1


def parts(module: Mamba1) -> dict[str, Tensor]:
    """Their names of our parameters."""
    state = module.state_dict()
    state["conv1d.weight"] = state.pop("conv_weight").unsqueeze(1)
    return {
        name.replace("conv_bias", "conv1d.bias").replace("out.", "out_proj."): value
        for name, value in state.items()
    }


@torch.no_grad()
def test_mamba1_is_transformers_mamba() -> None:
    """A model of theirs with our weights: float32 logits, and 32 greedy tokens."""
    spec = design("MMM", ssm=MAMBA1 | {"d_ssm": 64}, ffn=None, tie_embeddings=True)
    ours = build(spec)
    for parameter in ours.parameters():
        parameter.add_(
            0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
        )
    config = MambaConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        state_size=5,
        time_step_rank=3,
        conv_kernel=4,
        layer_norm_epsilon=EPS,
        expand=2,
        tie_word_embeddings=True,
    )
    theirs = MambaForCausalLM(config).eval()
    backbone = theirs.backbone
    backbone.embeddings.weight.copy_(ours.embed.weight)
    backbone.norm_f.weight.copy_(ours.norm.weight)
    for block, source in zip(ours.layers, backbone.layers, strict=True):
        source.norm.weight.copy_(block.mixer_norm.weight)
        source.mixer.load_state_dict(parts(block.mixer))
    theirs.tie_weights()
    tokens = torch.randint(0, 50, (2, 23), generator=torch.Generator().manual_seed(1))
    assert (ours(tokens) - theirs(tokens).logits).abs().max() < 1e-4
    theirs.generation_config.eos_token_id = None
    greedy = theirs.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=32,
        do_sample=False,
        pad_token_id=0,
    )
    assert torch.equal(generate(ours, tokens, 32), greedy[:, 23:])


@torch.no_grad()
def test_mamba1_norms_dt_at_its_rank_and_b_and_c() -> None:
    """Against the recurrence written out."""
    module, x = mixer(design("M", ssm=MAMBA1 | {"dt_bc_norm": True})), some_input()
    u, z = module.in_proj(x).chunk(2, -1)
    padded = F.pad(u, (0, 0, 3, 0))
    u = F.silu(
        module.conv_bias + sum(padded[:, j : j + 11] * module.conv_weight[:, j] for j in range(4))
    )
    dt, b, c = (
        rms(v) * norm.weight
        for v, norm in zip(
            module.x_proj(u).split([3, 5, 5], -1),
            (module.dt_norm, module.B_norm, module.C_norm),
            strict=True,
        )
    )
    dt = F.softplus(module.dt_proj(dt))
    held, ys = torch.zeros(2, 48, 5, dtype=torch.float64), []
    for t in range(11):
        held = (
            held * torch.exp(-dt[:, t, :, None] * module.A_log.exp())
            + (dt * u)[:, t, :, None] * b[:, t, None]
        )
        ys.append((held * c[:, t, None]).sum(-1) + module.D * u[:, t])
    assert_close("out", module(x), module.out(torch.stack(ys, 1) * F.silu(z)), 1e-12)


@torch.no_grad()
def test_mamba1_starts_as_the_reference() -> None:
    """A = -1 .. -N in every channel, dt log-uniform in [0.001, 0.1] at zero input, D = 1."""
    module = build(design("M", ssm=MAMBA1 | {"d_ssm": 512})).layers[0].mixer
    dt = F.softplus(module.dt_proj.bias)
    assert_close("A", module.A_log.exp(), torch.arange(1.0, 6.0).expand(512, 5), 1e-6)
    assert 1e-3 - 1e-6 <= dt.min() < 1.2e-3
    assert 0.08 < dt.max() <= 0.1 + 1e-6
    assert module.dt_proj.weight.abs().max() == pytest.approx(3**-0.5, rel=0.01)
    assert (module.D == 1).all()


def test_each_letter_is_built_as_its_module() -> None:
    assert type(build(design("D"), "meta").layers[0].mixer) is DiffAttention
    assert type(build(design("N"), "meta").layers[0].mixer) is DiffMamba2
    assert type(build(design("M", ssm=MAMBA1), "meta").layers[0].mixer) is Mamba1
