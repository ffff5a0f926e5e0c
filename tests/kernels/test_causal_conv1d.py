import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.causal_conv1d import causal_conv1d, reference
from kernels.counting import FORMULAS
from tests.conftest import DTYPES, TOLERANCE, assert_close, assert_same_gradients

pytestmark = pytest.mark.usefixtures("nan_filled")
LENGTHS, WIDTHS = (1, 2, 7, 63), (1, 2, 4)


def tensors(
    t: int, w: int, rng: torch.Generator, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """x, weight, bias and state of 5 channels."""
    return [
        torch.randn(*shape, dtype=torch.float64, generator=rng).to(dtype)
        for shape in ((2, t, 5), (5, w), (5,), (2, w - 1, 5))
    ]


@pytest.mark.parametrize("dtype", [*DTYPES, pytest.param(torch.bfloat16, id="bfloat16")])
@pytest.mark.parametrize("given", [False, True], ids=["fresh", "continued"])
@pytest.mark.parametrize("w", WIDTHS, ids="w{}".format)
@pytest.mark.parametrize("t", LENGTHS, ids="t{}".format)
def test_equals_the_reference(
    t: int, w: int, given: bool, dtype: torch.dtype, rng: torch.Generator
) -> None:
    x, weight, bias, state = tensors(t, w, rng, dtype)
    y, after = causal_conv1d(x, weight, bias, state if given else None)
    true_y, true_after = reference.causal_conv1d(x, weight, bias, state if given else None)
    assert y.dtype == dtype
    assert_close("y", y, true_y, TOLERANCE[dtype])
    assert_close("state", after, true_after, 0.0)


@pytest.mark.parametrize("w", WIDTHS, ids="w{}".format)
def test_equals_torchs_convolution_padded_on_the_left(w: int, rng: torch.Generator) -> None:
    x, weight, bias, _ = tensors(63, w, rng)
    padded = F.pad(x.transpose(1, 2), (w - 1, 0))
    expected = F.silu(F.conv1d(padded, weight[:, None], bias, groups=5)).transpose(1, 2)
    assert_close("y", causal_conv1d(x, weight, bias)[0], expected, 1e-12)


@pytest.mark.parametrize("t", [1, 7], ids="t{}".format)
def test_has_the_gradients_of_the_reference(t: int, rng: torch.Generator) -> None:
    inputs = [x.requires_grad_() for x in tensors(t, 4, rng)]
    others = [x.detach().clone().requires_grad_() for x in inputs]
    weights = [torch.randn(2, n, 5, dtype=torch.float64, generator=rng) for n in (t, 3)]
    paths = ((causal_conv1d, inputs), (reference.causal_conv1d, others))
    actual, expected = (
        sum((w * out).sum() for w, out in zip(weights, f(*x), strict=True)) for f, x in paths
    )
    assert_same_gradients("x weight bias state", actual, expected, inputs, others)


@pytest.mark.parametrize("split", [1, 2, 40])
def test_two_calls_continue_each_other(split: int, rng: torch.Generator) -> None:
    x, weight, bias, state = tensors(63, 4, rng)
    first, held = causal_conv1d(x[:, :split], weight, bias, state)
    second, held = causal_conv1d(x[:, split:], weight, bias, held)
    true_y, true_state = reference.causal_conv1d(x, weight, bias, state)
    assert_close("y", torch.cat([first, second], 1), true_y, 1e-12)
    assert_close("state", held, true_state, 0.0)


WRONG = {
    "weight": (1, (4, 4)),
    "bias": (2, (4,)),
    "state length": (3, (2, 4, 5)),
    "state batch": (3, (1, 3, 5)),
}


@pytest.mark.parametrize(("wrong", "shape"), WRONG.values(), ids=WRONG)
def test_refuses_shapes_that_do_not_fit_and_names_them(
    wrong: int, shape: tuple[int, ...], rng: torch.Generator
) -> None:
    inputs = tensors(7, 4, rng)
    inputs[wrong] = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"^causal_conv1d: ") as error:
        causal_conv1d(*inputs)
    assert all(
        f"{name} {tuple(x.shape)}" in str(error.value)
        for name, x in zip(("x", "weight", "bias"), inputs, strict=False)
    )


@pytest.mark.parametrize("w", WIDTHS, ids="w{}".format)
def test_flops_are_a_multiply_add_per_tap(w: int, rng: torch.Generator) -> None:
    x, weight, bias, state = (v.to("meta") for v in tensors(7, w, rng, torch.float32))
    with FlopCounterMode(display=False) as counter:
        y, after = causal_conv1d(x, weight, bias, state)
    assert counter.get_total_flops() == 2 * 7 * 5 * w * 2
    assert (
        FORMULAS["hybrid::causal_conv1d"](x.shape, weight.shape, bias.shape, state.shape)
        == 2 * 7 * 5 * w * 2
    )
    assert (y.shape, after.shape) == (x.shape, state.shape)
