"""Triton at sizes that the interpreter could not do: several tiles, chunks and segments, in every
precision, with gradients.

The small and ragged cases are in tests/kernels; on a CUDA device `-m gpu` runs those too.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import attention
from kernels.dispatch import ran, use
from kernels.selective_scan import reference as selective_reference
from kernels.selective_scan import selective_scan
from kernels.ssd import reference as ssd_reference
from kernels.ssd import ssd
from tests.gpu.conftest import DEVICE
from tests.kernels.against_truth import assert_agree, assert_gradients_agree, random

pytestmark = pytest.mark.gpu

PRECISIONS = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"]
)
FORWARD = {torch.float32: 5e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
BACKWARD = {torch.float32: 3e-4, torch.bfloat16: 4e-2, torch.float16: 1e-2}


def size(on_gpu: int, in_rehearsal: int) -> int:
    return on_gpu if DEVICE == "cuda" else in_rehearsal


def scan_inputs(rng: torch.Generator, dtype: torch.dtype) -> list[Tensor]:
    """x, dt, A, B, C, D, state of heads that remember for hundreds of tokens; several segments of
    several chunks, the last one ragged."""
    t, h, p, n = size(700, 70), size(8, 2), size(128, 32), size(128, 16)
    x, B, C = (
        random(rng, 2, t, h, p, dtype=dtype),
        random(rng, 2, t, 2, n, dtype=dtype),
        random(rng, 2, t, 2, n, dtype=dtype),
    )
    dt, A = 0.05 * F.softplus(random(rng, 2, t, h)), -random(rng, h).exp()
    return [x, dt, A, B, C, random(rng, h, dtype=dtype), random(rng, 2, h, p, n)]


@PRECISIONS
def test_the_scan_equals_the_recurrence_with_its_gradients(
    dtype: torch.dtype, device: torch.device, rng: torch.Generator
) -> None:
    inputs = scan_inputs(rng, dtype)

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return ssd(*tensors[:6], chunk_size=size(128, 32), state=tensors[6])

    with use("ssd", "triton"):
        y, state = run(*inputs)
        assert (y.dtype, state.dtype) == (dtype, torch.float32)
        assert_agree("y state", (y, state), ssd_reference.ssd(*inputs), FORWARD[dtype])
        assert_gradients_agree(
            "x dt A B C D state", run, ssd_reference.ssd, inputs, rng, BACKWARD[dtype]
        )


def attention_in_float64(window: int, sink: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax over an explicit mask, by torch itself."""
    t, heads_per_group = q.shape[1], q.shape[2] // k.shape[2]
    query, key = torch.arange(t, device=q.device)[:, None], torch.arange(t, device=q.device)
    seen = key <= query
    if window:
        seen &= (key > query - window) | (key < sink)
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(heads_per_group, 1) for x in (k, v))
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


@PRECISIONS
@pytest.mark.parametrize(("width", "v_width"), [(64, 64), (72, 128)])
@pytest.mark.parametrize(("window", "sink"), [(0, 0), (300, 64)], ids=["global", "window"])
def test_attention_equals_the_masked_softmax_with_its_gradients(
    window: int,
    sink: int,
    width: int,
    v_width: int,
    dtype: torch.dtype,
    device: torch.device,
    rng: torch.Generator,
) -> None:
    t, heads, groups = size(1100, 90), size(8, 2), size(2, 1)
    window, sink = size(window, window // 10), size(sink, sink // 10)
    shapes = ((1, t, heads, width), (1, t, groups, width), (1, t, groups, v_width))
    inputs = [random(rng, *shape, dtype=dtype) for shape in shapes]

    def run(*tensors: Tensor) -> Tensor:
        return attention(*tensors, window=window, sink=sink)

    def truth(*tensors: Tensor) -> Tensor:
        return attention_in_float64(window, sink, *tensors)

    with use("attention", "triton"):
        assert_agree("out", run(*inputs), truth(*inputs), FORWARD[dtype])
        assert_gradients_agree("q k v", run, truth, inputs, rng, BACKWARD[dtype])


@PRECISIONS
def test_the_selective_scan_equals_the_recurrence_with_its_gradients(
    dtype: torch.dtype, device: torch.device, rng: torch.Generator
) -> None:
    t, channels, n = size(300, 40), size(512, 24), 16
    x, B, C = (
        random(rng, 2, t, channels, dtype=dtype),
        random(rng, 2, t, n, dtype=dtype),
        random(rng, 2, t, n, dtype=dtype),
    )
    dt, A = 0.05 * F.softplus(random(rng, 2, t, channels)), -random(rng, channels, n).exp()
    inputs = [x, dt, A, B, C, random(rng, channels, dtype=dtype), random(rng, 2, channels, n)]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(*tensors[:6], state=tensors[6])

    with use("selective_scan", "triton"):
        assert_agree(
            "y state", run(*inputs), selective_reference.selective_scan(*inputs), FORWARD[dtype]
        )
        assert_gradients_agree(
            "x dt A B C D state",
            run,
            selective_reference.selective_scan,
            inputs,
            rng,
            BACKWARD[dtype],
        )
    assert "triton" in ran()["selective_scan"]
