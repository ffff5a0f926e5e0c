import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.counting import FORMULAS
from kernels.grouped_linear import grouped_linear, reference
from tests.conftest import DTYPES, TOLERANCE, assert_close, assert_same_gradients

pytestmark = pytest.mark.usefixtures("nan_filled")
COUNTS = [(7,), (1, 0, 0), (0, 0, 1), (3, 0, 4, 1), (21, 20, 22)]


def tensors(
    counts: tuple[int, ...], rng: torch.Generator, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(sum(counts), 6, dtype=torch.float64, generator=rng)
    weight = torch.randn(len(counts), 5, 6, dtype=torch.float64, generator=rng)
    return x.to(dtype), weight.to(dtype), torch.tensor(counts)


@pytest.mark.parametrize("dtype", [*DTYPES, pytest.param(torch.bfloat16, id="bfloat16")])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_equals_the_reference(
    counts: tuple[int, ...], dtype: torch.dtype, rng: torch.Generator
) -> None:
    inputs = tensors(counts, rng, dtype)
    out = grouped_linear(*inputs)
    assert out.dtype == dtype
    assert_close("out", out, reference.grouped_linear(*inputs), TOLERANCE[dtype])


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_has_the_gradients_of_the_reference_also_for_groups_without_rows(
    counts: tuple[int, ...], rng: torch.Generator
) -> None:
    x, weight, sizes = tensors(counts, rng)
    inputs = [x.requires_grad_(), weight.requires_grad_()]
    others = [x.detach().clone().requires_grad_() for x in inputs]
    upstream = torch.randn(sum(counts), 5, dtype=torch.float64, generator=rng)
    actual, expected = (
        (grouped_linear(*inputs, sizes) * upstream).sum(),
        (reference.grouped_linear(*others, sizes) * upstream).sum(),
    )
    assert_same_gradients("x weight", actual, expected, inputs, others)


@pytest.mark.parametrize(
    ("weight", "counts"), [((2, 5, 7), (2,)), ((3, 5, 6), (2,))], ids=["width", "groups"]
)
def test_refuses_shapes_that_do_not_fit_and_names_them(
    weight: tuple[int, ...], counts: tuple[int, ...]
) -> None:
    with pytest.raises(
        ValueError, match=r"^grouped_linear: x \(4, 6\), weight \(\d, 5, \d\), counts \(2,\)"
    ):
        grouped_linear(
            torch.zeros(4, 6), torch.zeros(weight), torch.zeros(counts, dtype=torch.long)
        )


def test_flops_do_not_depend_on_how_the_rows_are_grouped() -> None:
    shapes = ((9, 6), (4, 5, 6), (4,))
    x, weight, counts = (torch.empty(shape, device="meta") for shape in shapes)
    with FlopCounterMode(display=False) as counter:
        out = grouped_linear(x, weight, counts)
    assert counter.get_total_flops() == FORMULAS["hybrid::grouped_linear"](*shapes) == 9 * 2 * 5 * 6
    assert out.shape == (9, 5)
