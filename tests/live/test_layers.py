"""The small modules that layers are made of, against numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.live.modules.cache import BranchCache, KVCache, SSMCache, WindowCache
from hybrid_core.live.modules.diff_lambda import DiffLambda
from hybrid_core.live.modules.ffn import GatedFFN, PlainFFN, activate
from hybrid_core.live.modules.norm import BareRMSNorm, GatedRMSNorm, NormThenGate, RMSNorm
from hybrid_core.live.modules.shared_block import Adapter
from hybrid_core.live.modules.ssm import (
    convolved,
    initialise_conv,
    initialise_dt_bias,
    scan_dtype,
)

SIGMOID_1 = 0.7310585786
RMS_3_4 = [3 / math.sqrt(12.5), 4 / math.sqrt(12.5)]


def values(tensor: Tensor) -> list[float]:
    found: list[float] = tensor.detach().flatten().tolist()
    return found


def fill(linear: nn.Linear, rows: list[list[float]]) -> None:
    linear.weight.data = torch.tensor(rows)


# ---------------------------------------------------------------- feed-forwards


@pytest.mark.parametrize(
    ("activation", "of_1", "of_minus_1"),
    [
        ("silu", SIGMOID_1, SIGMOID_1 - 1),
        ("relu2", 1.0, 0.0),
        ("gelu", 0.8413447461, -0.1586552539),  # the normal distribution's share below 1
        ("gelu_tanh", 0.8411919906, -0.1588080094),
    ],
)
def test_activations_at_one_and_minus_one(activation: str, of_1: float, of_minus_1: float) -> None:
    found = activate(torch.tensor([1.0, -1.0]), activation)  # type: ignore[arg-type]
    assert values(found) == pytest.approx([of_1, of_minus_1], abs=1e-6)


def test_a_gated_feed_forward_multiplies_up_by_the_activated_gate() -> None:
    ffn = GatedFFN(SwiGLU(d_ff=1, activation="relu2"), 1)
    fill(ffn.gate_up, [[2.0], [3.0]])
    fill(ffn.down, [[0.5]])
    # Gate 2 * 2 = 4, squared 16; up 3 * 2 = 6.
    assert values(ffn(torch.tensor([[[2.0]]]))) == [0.5 * 16 * 6]
    # An adapter adds 1 to the gate and 2 to up.
    extra = torch.tensor([[[1.0, 2.0]]])
    assert values(ffn(torch.tensor([[[2.0]]]), extra)) == [0.5 * 25 * 8]


def test_a_plain_feed_forward_activates_up() -> None:
    ffn = PlainFFN(Mlp(d_ff=1, activation="relu2"), 1)
    fill(ffn.up, [[2.0]])
    fill(ffn.down, [[0.5]])
    assert values(ffn(torch.tensor([[[3.0], [-1.0]]]))) == [18.0, 0.0]


def test_an_adapter_is_the_product_of_its_two_matrices() -> None:
    adapter = Adapter(2, 1, 2)
    fill(adapter.narrow, [[1.0, 2.0]])
    fill(adapter.wide, [[3.0], [-1.0]])
    assert values(adapter(torch.tensor([[[5.0, 1.0]]]))) == [21.0, -7.0]


# ---------------------------------------------------------------- norms


def test_a_norm_divides_by_the_root_mean_square_of_each_group() -> None:
    norm = RMSNorm(4, 2)
    norm.eps = 0.0
    assert values(norm(torch.tensor([3.0, 4.0, 6.0, 8.0]))) == pytest.approx(RMS_3_4 * 2)


def test_a_bare_norm_adds_its_own_epsilon() -> None:
    assert values(BareRMSNorm(0.0)(torch.tensor([3.0, 4.0]))) == pytest.approx(RMS_3_4)
    assert values(BareRMSNorm(3.5)(torch.tensor([3.0, 4.0]))) == pytest.approx([0.75, 1.0])


def test_a_gated_norm_gates_before_it_norms_or_after() -> None:
    y = torch.tensor([[3.0, 4.0]])
    z = torch.ones(1, 2)
    before, after = GatedRMSNorm(2), NormThenGate(2)
    before.eps = after.eps = 0.0
    # The same gate on both channels cancels in the norm, and scales the norm's output.
    assert values(before(y, z)) == pytest.approx(RMS_3_4, rel=1e-6)
    assert values(after(y, z)) == pytest.approx([SIGMOID_1 * x for x in RMS_3_4], rel=1e-6)


# ---------------------------------------------------------------- differential, Mamba


def test_lambda_is_that_of_equation_two() -> None:
    scalar = DiffLambda(2, layer_index=1)  # the paper's layer 2
    assert scalar.start == pytest.approx(0.8 - 0.6 * 0.7408182207)
    scalar.vectors.data = torch.tensor([[1.0, 0.0], [1.0, 5.0], [0.0, 2.0], [3.0, 0.0]])
    expected = math.e - 1 + 0.3555090676
    assert scalar.factor(torch.float32).item() == pytest.approx(expected)


def test_the_convolution_continues_from_the_cache_and_replaces_its_inputs() -> None:
    weight = torch.tensor([[1.0, 2.0]])
    bias = torch.zeros(1)
    cache = SSMCache(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    sums = []
    for piece in ([1.0, 2.0], [3.0]):
        x = torch.tensor(piece).view(1, -1, 1)
        sums += values(convolved(x, weight, bias, cache))
    # 2 * 1, then 1 + 2 * 2, then 2 + 2 * 3, each through SiLU.
    expected = [x / (1 + math.exp(-x)) for x in (2, 5, 8)]
    assert sums == pytest.approx(expected)
    assert values(cache.conv) == [3.0]


def test_dt_starts_log_uniform_in_the_papers_range() -> None:
    torch.manual_seed(0)
    bias = torch.empty(20_000)
    initialise_dt_bias(bias)
    dt = torch.log1p(bias.exp())
    assert 0.001 <= dt.min() < 0.00101 and 0.099 < dt.max() <= 0.1001
    assert dt.log().mean().item() == pytest.approx(math.log(0.01), abs=0.03)


def test_a_convolution_starts_within_one_over_the_root_of_its_width() -> None:
    torch.manual_seed(0)
    weight, bias = torch.empty(2_000, 4), torch.empty(2_000)
    initialise_conv(weight, bias)
    for drawn in (weight, bias):
        assert 0.499 < drawn.abs().max() <= 0.5
        assert drawn.mean().abs() < 0.02


@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float16, torch.float32])
def test_a_scan_is_at_least_in_float32(weights: torch.dtype) -> None:
    assert scan_dtype(weights) == torch.float32
    assert scan_dtype(torch.float64) == torch.float64


# ---------------------------------------------------------------- caches


def tokens(*positions: float) -> Tensor:
    """Keys of one head and width 1 that hold their own position."""
    return torch.tensor(positions).view(1, -1, 1, 1)


def test_a_kv_cache_returns_all_tokens_so_far() -> None:
    cache = KVCache(torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 1))
    cache.append(tokens(0.0, 1.0), -tokens(0.0, 1.0), 0)
    k, v = cache.append(tokens(2.0), -tokens(2.0), 2)
    assert values(k) == [0, 1, 2] and values(v) == [0, -1, -2]
    k, v, filled = cache.append_at(tokens(3.0), -tokens(3.0), torch.tensor(3))
    assert values(k) == [0, 1, 2, 3] and filled.item() == 4


def test_a_window_cache_keeps_sinks_and_the_last_positions() -> None:
    cache = WindowCache(torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 1, 1), window=2, sink=1)
    cache.append(tokens(0.0, 1.0, 2.0), tokens(0.0, 1.0, 2.0), 0)
    k, _ = cache.append_one(tokens(3.0), tokens(3.0), 3)
    assert sorted(values(k)) == [0, 2, 3]
    k, _, filled = cache.append_at(tokens(4.0), tokens(4.0), torch.tensor(4))
    assert sorted(values(k)) == [0, 3, 4] and filled.item() == 3
    k, _, missing = cache.append(tokens(5.0, 6.0), tokens(5.0, 6.0), 5)
    assert values(k) == [0, 3, 4, 5, 6] and missing == 2
    assert sorted(values(cache.k)) == [0, 5, 6]


def test_a_branch_cache_holds_the_tensors_of_both_branches() -> None:
    attention = KVCache(torch.zeros(1, 4, 1, 2), torch.zeros(1, 4, 1, 3))
    ssm = SSMCache(torch.zeros(1, 2, 5), torch.zeros(1, 3, 2))
    sizes = [tensor.numel() for tensor in BranchCache(attention, ssm).tensors()]
    assert sizes == [8, 12, 10, 6]
