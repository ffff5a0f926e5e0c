from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.counting import FORMULAS
from kernels.ssd import reference, ssd, ssd_step
from tests.conftest import DTYPES, TOLERANCE, assert_close, assert_same_gradients, case_id
from tests.kernels.against_truth import token_by_token

pytestmark = pytest.mark.usefixtures("nan_filled")
INPUTS = "x dt A B C D state"


class Case(NamedTuple):
    t: int
    chunk: int
    h: int = 4
    g: int = 1
    p: int = 5
    n: int = 3
    state: bool = False

    def __str__(self) -> str:
        return case_id(self)

    def tensors(self, rng: torch.Generator, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """x, dt, A, B, C, D, state; dt, A and the state in float32 at least, as Mamba-2 has
        them."""
        exact = torch.promote_types(dtype, torch.float32)

        def normal(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=rng).to(dtype)

        dt, A = (
            F.softplus(normal(2, self.t, self.h, dtype=exact)),
            -normal(self.h, dtype=exact).exp(),
        )
        x, B, C = (
            normal(2, self.t, self.h, self.p),
            normal(2, self.t, self.g, self.n),
            normal(2, self.t, self.g, self.n),
        )
        return [x, dt, A, B, C, normal(self.h), normal(2, self.h, self.p, self.n, dtype=exact)]


CASES = [
    Case(1, 8),
    Case(7, 8, state=True),
    Case(7, 1, g=2, state=True),
    Case(7, 4, g=4),
    Case(63, 16),
    Case(63, 16, g=2, state=True),
    Case(63, 64, g=4, state=True),
    Case(64, 16, h=6, g=3, state=True),
    Case(63, 1024),
]


def run(case: Case, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
    return ssd(*tensors[:6], chunk_size=case.chunk, state=tensors[6] if case.state else None)


def truth(case: Case, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
    return reference.ssd(*tensors[:6], state=tensors[6] if case.state else None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_recurrence(case: Case, dtype: torch.dtype, rng: torch.Generator) -> None:
    tensors = case.tensors(rng, dtype)
    (y, state), (true_y, true_state) = run(case, tensors), truth(case, tensors)
    assert y.dtype == state.dtype == dtype
    assert_close("y", y, true_y, TOLERANCE[dtype])
    assert_close("state", state, true_state, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_decays_too_strong_for_the_number_format_are_no_decays_too_many(
    dtype: torch.dtype, rng: torch.Generator
) -> None:
    """exp(-24 t) leaves the range of float32 after four tokens."""
    case = Case(63, 16, state=True)
    tensors = case.tensors(rng, dtype)
    tensors[1], tensors[2] = (
        torch.ones_like(tensors[1]),
        torch.tensor([-24.0, -1.0, -0.01, -200.0], dtype=tensors[2].dtype),
    )
    for name, actual, expected in zip(
        ("y", "state"), run(case, tensors), truth(case, tensors), strict=True
    ):
        assert_close(name, actual, expected, TOLERANCE[dtype])


def test_is_near_the_recurrence_in_bfloat16_and_keeps_a_float32_state(rng: torch.Generator) -> None:
    case = CASES[5]
    tensors = case.tensors(rng, torch.bfloat16)
    (y, state), (true_y, true_state) = run(case, tensors), truth(case, tensors)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert_close("y", y, true_y, TOLERANCE[torch.bfloat16])
    assert_close("state", state, true_state, TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("case", [CASES[2], CASES[5], CASES[7]], ids=str)
def test_has_the_gradients_of_the_recurrence(case: Case, rng: torch.Generator) -> None:
    inputs = [x.requires_grad_() for x in case.tensors(rng)]
    others = [x.detach().clone().requires_grad_() for x in inputs]
    weights = [
        torch.randn(x.shape, dtype=torch.float64, generator=rng) for x in (inputs[0], inputs[6])
    ]
    paths = ((run, inputs), (truth, others))
    actual, expected = (
        sum((w * out).sum() for w, out in zip(weights, f(case, x), strict=True)) for f, x in paths
    )
    assert_same_gradients(INPUTS, actual, expected, inputs, others)


@pytest.mark.parametrize("split", [1, 16, 37])
def test_two_calls_continue_each_other(split: int, rng: torch.Generator) -> None:
    case = CASES[5]
    x, dt, A, B, C, D, state = tensors = case.tensors(rng)
    first, held = ssd(
        x[:, :split], dt[:, :split], A, B[:, :split], C[:, :split], D, chunk_size=16, state=state
    )
    second, held = ssd(
        x[:, split:], dt[:, split:], A, B[:, split:], C[:, split:], D, chunk_size=16, state=held
    )
    true_y, true_state = truth(case, tensors)
    assert_close("y", torch.cat([first, second], 1), true_y, 1e-11)
    assert_close("state", held, true_state, 1e-11)


@pytest.mark.parametrize("g", [1, 2, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_follow_the_recurrence_and_update_the_state_in_place(
    g: int, dtype: torch.dtype, rng: torch.Generator
) -> None:
    case = Case(7, 8, g=g, state=True)
    *inputs, state = tensors = case.tensors(rng, dtype)
    true_y, true_state = truth(case, tensors)
    held = state.clone()
    assert_close("y", token_by_token(ssd_step, *inputs, held), true_y, TOLERANCE[dtype])
    assert_close("state", held, true_state, TOLERANCE[dtype])


def test_a_decay_to_nothing_within_one_step_stays_finite(rng: torch.Generator) -> None:
    case = Case(63, 16, state=True)
    x, dt, A, *rest = case.tensors(rng, torch.float32)
    inputs = [x.requires_grad_(), dt * 100, A * 10, *rest]
    (y, state), (true_y, true_state) = run(case, inputs), truth(case, inputs)
    assert_close("y", y, true_y, TOLERANCE[torch.float32])
    assert_close("state", state, true_state, TOLERANCE[torch.float32])
    assert torch.autograd.grad(y.sum(), inputs[0])[0].isfinite().all()


@pytest.mark.parametrize("wrong", range(6), ids=INPUTS.split()[:6])
def test_refuses_shapes_that_do_not_fit_and_names_them(wrong: int, rng: torch.Generator) -> None:
    tensors = CASES[1].tensors(rng)
    tensors[wrong] = torch.cat([tensors[wrong]] * 2)
    with pytest.raises(ValueError, match=r"^ssd: ") as error:
        ssd(*tensors[:6], chunk_size=8)
    assert all(
        f"{name} {tuple(tensor.shape)}" in str(error.value)
        for name, tensor in zip(INPUTS.split()[:6], tensors, strict=False)
    )


def test_refuses_groups_that_do_not_divide_the_heads(rng: torch.Generator) -> None:
    tensors = Case(7, 8, h=4, g=3).tensors(rng)
    with pytest.raises(ValueError, match=r"x \(2, 7, 4, 5\).* B \(2, 7, 3, 3\)"):
        ssd(*tensors[:6], chunk_size=8)


def test_refuses_another_state(rng: torch.Generator) -> None:
    tensors = CASES[1].tensors(rng)
    with pytest.raises(ValueError, match=r"^ssd: .* state \(1, .* do not fit together"):
        ssd(*tensors[:6], chunk_size=8, state=tensors[6][:1])


@pytest.mark.parametrize("chunk", [-8, 0, 7, 96])
def test_refuses_a_chunk_that_is_no_power_of_two(chunk: int, rng: torch.Generator) -> None:
    with pytest.raises(ValueError, match=f"^ssd: chunk_size {chunk} - must be a power of two$"):
        ssd(*CASES[1].tensors(rng)[:6], chunk_size=chunk)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_flops_are_what_torch_counts_on_the_chunked_form_plus_the_carry(
    case: Case, rng: torch.Generator
) -> None:
    tensors = case.tensors(rng, torch.float32)
    with FlopCounterMode(display=False) as products:
        run(case, tensors)
    chunks = len(range(0, case.t, case.chunk))
    expected = (
        products.get_total_flops() + 2 * chunks * 2 * case.h * case.n * case.p
    )  # batch 2; a multiply-add per state element and chunk
    shapes = [x.shape for x in tensors[:6]]
    assert FORMULAS["hybrid::ssd"](*shapes, case.chunk, None) == expected
    with FlopCounterMode(display=False) as counter:
        y, state = run(case, [x.to("meta") for x in tensors])
    assert counter.get_total_flops() == expected
    assert (y.shape, state.shape) == (tensors[0].shape, tensors[6].shape)


def test_flops_of_a_step_are_five_per_state_element(rng: torch.Generator) -> None:
    tensors = [x.to("meta") for x in Case(1, 1, h=4, g=2, p=5, n=3).tensors(rng, torch.float32)]
    with FlopCounterMode(display=False) as counter:
        ssd_step(*tensors)
    assert (
        counter.get_total_flops()
        == FORMULAS["hybrid::ssd_step"](*(x.shape for x in tensors))
        == 5 * 2 * 4 * 5 * 3
    )
