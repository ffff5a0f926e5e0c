import pytest
import torch
from torch import Tensor

from kernels.dispatch import use
from kernels.selective_scan import reference, selective_scan, selective_scan_step
from tests.kernels.against_truth import (
    TOLERANCE,
    assert_agree,
    assert_gradients_agree,
    on_device,
    token_by_token,
)
from tests.kernels.test_selective_scan import INPUTS, Case

pytestmark = pytest.mark.usefixtures("nan_filled")
CASES = [
    Case(1),
    Case(1, state=True),
    Case(9, 40, 16, state=True),
    Case(23, 1, 1),
    Case(23, 5, 17, state=True),
]


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few tokens are several pieces."""
    from kernels.selective_scan import triton_kernel

    monkeypatch.setattr(triton_kernel, "PIECE", 8)


def run(case: Case, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
    with use("selective_scan", "triton"):
        return selective_scan(*tensors[:6], state=tensors[6] if case.state else None)


def truth(case: Case, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
    return reference.selective_scan(*tensors[:6], state=tensors[6] if case.state else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_recurrence(case: Case, dtype: torch.dtype, rng: torch.Generator) -> None:
    tensors = on_device(case.tensors(rng, dtype))
    y, state = run(case, tensors)
    assert (y.dtype, state.dtype) == (dtype, torch.float32)
    assert_agree("y state", (y, state), truth(case, tensors), TOLERANCE[dtype])


@pytest.mark.parametrize("segments", [2, 3, 5])
@pytest.mark.parametrize("state", [False, True], ids=["fresh", "continued"])
def test_segments_change_nothing(segments: int, state: bool, rng: torch.Generator) -> None:
    from kernels.selective_scan.triton_kernel import _forward

    case = Case(23, 5, 4, state=state)
    tensors = on_device(case.tensors(rng, torch.float32))
    out = _forward(*tensors[:6], tensors[6] if state else None, segments)[:2]
    assert_agree("y state", out, truth(case, tensors), TOLERANCE[torch.float32])


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[4], Case(16, 3, 2)], ids=str)
def test_has_the_gradients_of_the_recurrence(case: Case, rng: torch.Generator) -> None:
    tensors = on_device(case.tensors(rng, torch.float32))
    if case.t == 1:  # without a state before it A decays nothing
        x, dt, A, *rest = tensors[:6]
        with use("selective_scan", "triton"):
            leaves = [v.requires_grad_() for v in (x, dt, A)]
            assert (
                torch.autograd.grad(selective_scan(*leaves, *rest)[0].sum(), A)[0].abs().max() == 0
            )
        return
    tensors = tensors if case.state else tensors[:6]
    names = INPUTS if case.state else INPUTS.removesuffix(" state")
    assert_gradients_agree(
        names, lambda *v: run(case, v), lambda *v: truth(case, v), tensors, rng, 1e-4
    )  # type: ignore[arg-type]


def test_is_near_the_gradients_of_the_recurrence_in_bfloat16(rng: torch.Generator) -> None:
    case = Case(11, 5, 4, state=True)
    tensors = on_device(case.tensors(rng, torch.bfloat16))
    assert_gradients_agree(
        INPUTS, lambda *v: run(case, v), lambda *v: truth(case, v), tensors, rng, 2e-2
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", [Case(3, state=True), Case(3, 40, 17, state=True)], ids=str)
def test_steps_follow_the_recurrence_and_update_the_state_in_place(
    case: Case, held: torch.dtype, rng: torch.Generator
) -> None:
    tensors = on_device(case.tensors(rng, torch.float32))
    tensors[6] = tensors[6].to(held)
    expected = truth(case, tensors)
    with use("selective_scan_step", "triton"):
        y = token_by_token(selective_scan_step, *tensors)
    assert_agree("y state", (y, tensors[6]), expected, TOLERANCE[held])
