import pytest
import torch
from torch import Tensor

from kernels.causal_conv1d import causal_conv1d, reference
from kernels.dispatch import use
from tests.kernels.against_truth import TOLERANCE, assert_agree, assert_gradients_agree, random

pytestmark = pytest.mark.usefixtures("nan_filled")
# Tokens, channels and taps. A block has 32 tokens and 128 channels.
SHAPES = [
    (1, 5, 4),
    (2, 5, 4),
    (3, 20, 4),
    (31, 33, 2),
    (33, 5, 3),
    (34, 130, 4),
    (7, 5, 1),
]


def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    with use("causal_conv1d", "triton"):
        return causal_conv1d(*inputs)


def tensors(
    shape: tuple[int, int, int],
    state: bool,
    rng: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    t, c, w = shape
    shapes = ((2, t, c), (c, w), (c,), (2, w - 1, c))
    return [random(rng, *shape, dtype=dtype) for shape in shapes[: 4 if state else 3]]


@pytest.mark.parametrize("state", [False, True], ids=["fresh", "continued"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(
    shape: tuple[int, int, int], state: bool, rng: torch.Generator
) -> None:
    inputs = tensors(shape, state, rng)
    y, after = run(*inputs)
    true_y, true_after = reference.causal_conv1d(*inputs)
    assert_agree("y", y, true_y, TOLERANCE[torch.float32])
    assert_agree("state", after, true_after, 0.0)


def test_is_near_the_reference_in_bfloat16(rng: torch.Generator) -> None:
    inputs = tensors((33, 5, 4), True, rng, torch.bfloat16)
    y, after = run(*inputs)
    assert y.dtype == after.dtype == torch.bfloat16
    assert_agree("y state", (y, after), reference.causal_conv1d(*inputs), TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("state", [False, True], ids=["fresh", "continued"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_has_the_gradients_of_the_reference(
    shape: tuple[int, int, int], state: bool, rng: torch.Generator
) -> None:
    inputs = tensors(shape, state and shape[2] > 1, rng)
    names = "x weight bias state" if len(inputs) == 4 else "x weight bias"
    assert_gradients_agree(names, run, reference.causal_conv1d, inputs, rng, 1e-4)


def test_reads_a_slice_of_a_wider_projection_in_place(rng: torch.Generator) -> None:
    x, *rest = tensors((33, 5, 4), True, rng)
    wide = torch.cat([x + 1, x, x - 1], -1)
    assert_agree(
        "y state",
        run(wide[..., 5:10], *rest),
        reference.causal_conv1d(x, *rest),
        TOLERANCE[torch.float32],
    )
