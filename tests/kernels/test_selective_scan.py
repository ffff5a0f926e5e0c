from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.counting import FORMULAS
from kernels.selective_scan import eager, reference, selective_scan, selective_scan_step
from tests.conftest import DTYPES, TOLERANCE, assert_close, assert_same_gradients, case_id
from tests.kernels.against_truth import token_by_token

pytestmark = pytest.mark.usefixtures("nan_filled")
INPUTS = "x dt A B C D state"
PIECE, LANES = 40, 6  # so that short sequences have several pieces, and lanes that do not fill them


@pytest.fixture(params=["lanes", "one lane"], autouse=True)
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "PIECE", PIECE)
    monkeypatch.setattr(eager, "LANES", LANES)
    monkeypatch.setattr(eager, "CACHED", 2**30 if request.param == "lanes" else 0)


class Case(NamedTuple):
    t: int
    e: int = 6
    n: int = 3
    state: bool = False

    def __str__(self) -> str:
        return case_id(self)

    def tensors(self, rng: torch.Generator, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """x, dt, A, B, C, D, state; dt, A and the state in float32 at least, as Mamba-1 has
        them."""
        exact = torch.promote_types(dtype, torch.float32)

        def normal(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=rng).to(dtype)

        dt, A = (
            F.softplus(normal(2, self.t, self.e, dtype=exact)),
            -normal(self.e, self.n, dtype=exact).exp(),
        )
        x, B, C = normal(2, self.t, self.e), normal(2, self.t, self.n), normal(2, self.t, self.n)
        return [x, dt, A, B, C, normal(self.e), normal(2, self.e, self.n, dtype=exact)]


# One token, fewer than lanes, one piece, a piece and a token, several; the last with one channel of
# one state.
CASES = [
    Case(1),
    Case(1, state=True),
    Case(5, state=True),
    Case(40),
    Case(41, state=True),
    Case(123),
    Case(123, state=True),
    Case(63, 1, 1),
]


def run(case: Case, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
    return selective_scan(*tensors[:6], state=tensors[6] if case.state else None)


def truth(case: Case, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
    return reference.selective_scan(*tensors[:6], state=tensors[6] if case.state else None)


@pytest.mark.parametrize("dtype", [*DTYPES, pytest.param(torch.bfloat16, id="bfloat16")])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_recurrence(case: Case, dtype: torch.dtype, rng: torch.Generator) -> None:
    tensors = case.tensors(rng, dtype)
    (y, state), (true_y, true_state) = run(case, tensors), truth(case, tensors)
    assert (y.dtype, state.dtype) == (dtype, torch.promote_types(dtype, torch.float32))
    assert_close("y", y, true_y, TOLERANCE[dtype])
    assert_close("state", state, true_state, TOLERANCE[dtype])


@pytest.mark.parametrize("case", [CASES[2], CASES[4], CASES[6]], ids=str)
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


@pytest.mark.parametrize("split", [1, 16, 40, 100])
def test_two_calls_continue_each_other(split: int, rng: torch.Generator) -> None:
    case = CASES[6]
    x, dt, A, B, C, D, state = tensors = case.tensors(rng)
    first, held = selective_scan(
        x[:, :split], dt[:, :split], A, B[:, :split], C[:, :split], D, state=state
    )
    second, held = selective_scan(
        x[:, split:], dt[:, split:], A, B[:, split:], C[:, split:], D, state=held
    )
    true_y, true_state = truth(case, tensors)
    assert_close("y", torch.cat([first, second], 1), true_y, 1e-11)
    assert_close("state", held, true_state, 1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_follow_the_recurrence_and_update_the_state_in_place(
    dtype: torch.dtype, rng: torch.Generator
) -> None:
    case = Case(7, state=True)
    *inputs, state = tensors = case.tensors(rng, dtype)
    true_y, true_state = truth(case, tensors)
    held = state.clone()
    assert_close("y", token_by_token(selective_scan_step, *inputs, held), true_y, TOLERANCE[dtype])
    assert_close("state", held, true_state, TOLERANCE[dtype])


def test_agrees_with_mamba_ssms_own_reference(mamba_ssm: object, rng: torch.Generator) -> None:
    x, dt, A, B, C, D, _ = Case(63).tensors(rng)
    transposed = (v.transpose(1, 2) for v in (x, dt))
    y, state = mamba_ssm.selective_scan_ref(
        *transposed, A, B.transpose(1, 2), C.transpose(1, 2), D, return_last_state=True
    )  # type: ignore[attr-defined]
    ours, our_state = selective_scan(x, dt, A, B, C, D)
    assert_close("y", ours, y.transpose(1, 2), 1e-11)
    assert_close("state", our_state, state, 1e-11)


def test_a_decay_to_nothing_within_one_step_stays_finite(rng: torch.Generator) -> None:
    case = Case(123, state=True)
    x, dt, A, *rest = case.tensors(rng, torch.float32)
    inputs = [x.requires_grad_(), dt * 100, A * 10, *rest]
    (y, state), (true_y, true_state) = run(case, inputs), truth(case, inputs)
    assert_close("y", y, true_y, TOLERANCE[torch.float32])
    assert_close("state", state, true_state, TOLERANCE[torch.float32])
    assert torch.autograd.grad(y.sum(), inputs[0])[0].isfinite().all()


def test_a_long_sequence_never_holds_all_its_states(rng: torch.Generator) -> None:
    """What the backward pass keeps, inputs included, is less than the states of all tokens, which a
    plain loop would keep."""
    case = Case(2000, e=4, n=32)
    inputs = [x.requires_grad_() for x in case.tensors(rng)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        selective_scan(*inputs[:6])[0].sum()
    assert sum(kept) < 2 * 2000 * 4 * 32


@pytest.mark.parametrize("wrong", range(6), ids=INPUTS.split()[:6])
def test_refuses_shapes_that_do_not_fit_and_names_them(wrong: int, rng: torch.Generator) -> None:
    tensors = CASES[3].tensors(rng)
    tensors[wrong] = torch.cat([tensors[wrong]] * 2)
    with pytest.raises(ValueError, match=r"^selective_scan: ") as error:
        selective_scan(*tensors[:6])
    assert all(
        f"{name} {tuple(tensor.shape)}" in str(error.value)
        for name, tensor in zip(INPUTS.split()[:6], tensors, strict=False)
    )


def test_refuses_another_state(rng: torch.Generator) -> None:
    tensors = CASES[0].tensors(rng)
    for call in (
        lambda: selective_scan(*tensors[:6], state=tensors[6][:1]),
        lambda: selective_scan_step(*tensors[:6], tensors[6][:1]),
    ):
        with pytest.raises(ValueError, match=r"^selective_scan: "):
            call()


@pytest.mark.parametrize("case", [CASES[0], CASES[6]], ids=str)
def test_flops_are_five_per_token_and_state_element(case: Case, rng: torch.Generator) -> None:
    tensors = case.tensors(rng, torch.float32)
    expected = 5 * 2 * case.t * case.e * case.n
    with FlopCounterMode(display=False) as counter:
        y, state = run(case, [x.to("meta") for x in tensors])
    assert (
        counter.get_total_flops()
        == expected
        == FORMULAS["hybrid::selective_scan"](*(x.shape for x in tensors))
    )
    assert (y.shape, state.shape) == (tensors[0].shape, tensors[6].shape)


def test_flops_of_a_step_are_those_of_one_token(rng: torch.Generator) -> None:
    tensors = [x.to("meta") for x in Case(1).tensors(rng, torch.float32)]
    with FlopCounterMode(display=False) as counter:
        selective_scan_step(*tensors)
    assert (
        counter.get_total_flops()
        == FORMULAS["hybrid::selective_scan_step"](*(x.shape for x in tensors))
        == 5 * 2 * 6 * 3
    )
