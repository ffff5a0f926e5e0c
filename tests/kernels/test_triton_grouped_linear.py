import pytest
import torch
from torch import Tensor

from kernels.dispatch import use
from kernels.grouped_linear import grouped_linear, reference
from tests.kernels.against_truth import TOLERANCE, assert_agree, assert_gradients_agree, random
from tests.kernels.conftest import DEVICE

pytestmark = pytest.mark.usefixtures("nan_filled")

# Rows of each group, inputs, outputs: one group, one row, empty groups first, between and last,
# more than a tile of rows and channels.
CASES = [
    ((7,), 6, 5),
    ((1, 0, 0), 6, 5),
    ((0, 0, 1), 6, 5),
    ((3, 0, 4, 1), 17, 33),
    ((40, 0, 22, 70), 6, 5),
    ((5, 9), 70, 130),
]


def run(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    with use("grouped_linear", "triton"):
        return grouped_linear(x, weight, counts)


def tensors(
    case: tuple[tuple[int, ...], int, int], rng: torch.Generator, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    counts, d_in, d_out = case
    return (
        random(rng, sum(counts), d_in, dtype=dtype),
        random(rng, len(counts), d_out, d_in, dtype=dtype),
        torch.tensor(counts, device=DEVICE),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(
    case: tuple[tuple[int, ...], int, int], dtype: torch.dtype, rng: torch.Generator
) -> None:
    inputs = tensors(case, rng, dtype)
    out = run(*inputs)
    assert out.dtype == dtype
    assert_agree("out", out, reference.grouped_linear(*inputs), TOLERANCE[dtype])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_has_the_gradients_of_the_reference(
    case: tuple[tuple[int, ...], int, int], rng: torch.Generator
) -> None:
    x, weight, counts = tensors(case, rng, torch.float32)
    paths = (
        (lambda a, b: run(a, b, counts)),
        (lambda a, b: reference.grouped_linear(a, b, counts)),
    )
    assert_gradients_agree("x weight", *paths, [x, weight], rng, 1e-4)
