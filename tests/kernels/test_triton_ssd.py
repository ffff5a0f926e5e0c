import pytest
import torch
from torch import Tensor

from kernels.dispatch import ran, use
from kernels.ssd import reference, ssd, ssd_step
from tests.kernels.against_truth import (
    TOLERANCE,
    assert_agree,
    assert_gradients_agree,
    on_device,
    token_by_token,
)
from tests.kernels.test_ssd import INPUTS, Case

pytestmark = pytest.mark.usefixtures("nan_filled")

# One token, a chunk and one token more or less, groups, odd and wide heads and states. Each is just
# long enough for a second chunk, and the odd one for a third in the backward pass, whose chunks are
# half as long.
CASES = [
    Case(1, 16),
    Case(1, 16, state=True),
    Case(15, 16, g=2, state=True),
    Case(16, 16, p=16, n=16),
    Case(17, 16, g=4, state=True),
    Case(35, 32, h=2, p=33, n=17, state=True),
    Case(18, 256, h=1, p=33, n=130, state=True),
    Case(17, 1, h=6, g=3, state=True),
]


def truth(case: Case, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
    return reference.ssd(*tensors[:6], state=tensors[6] if case.state else None)


def run(case: Case, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
    with use("ssd", "triton"):
        return ssd(*tensors[:6], chunk_size=case.chunk, state=tensors[6] if case.state else None)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_recurrence(case: Case, rng: torch.Generator) -> None:
    tensors = on_device(case.tensors(rng, torch.float32))
    y, state = run(case, tensors)
    assert y.dtype == state.dtype == torch.float32
    assert "triton" in ran()["ssd"]
    assert_agree("y state", (y, state), truth(case, tensors), TOLERANCE[torch.float32])


@pytest.mark.parametrize("case", [CASES[4], CASES[5]], ids=str)
def test_is_near_the_recurrence_in_bfloat16_and_keeps_a_float32_state(
    case: Case, rng: torch.Generator
) -> None:
    tensors = on_device(case.tensors(rng, torch.bfloat16))
    y, state = run(case, tensors)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert_agree("y state", (y, state), truth(case, tensors), TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("segments", [2, 3, 5])
@pytest.mark.parametrize("state", [False, True], ids=["fresh", "continued"])
def test_segments_change_nothing(segments: int, state: bool, rng: torch.Generator) -> None:
    from kernels.ssd.triton_kernel import _forward

    # Five chunks, which two and three segments cannot share evenly.
    case = Case(66, 16, h=2, g=2, state=state)
    tensors = on_device(case.tensors(rng, torch.float32))
    out = _forward(*tensors[:6], case.chunk, tensors[6] if state else None, segments)
    assert_agree("y state", out, truth(case, tensors), TOLERANCE[torch.float32])


@pytest.mark.parametrize(
    "case", [CASES[1], CASES[2], CASES[5], CASES[6], Case(33, 16, h=2)], ids=str
)
def test_has_the_gradients_of_the_recurrence(case: Case, rng: torch.Generator) -> None:
    tensors = on_device(case.tensors(rng, torch.float32))
    tensors = tensors if case.state else tensors[:6]
    assert_gradients_agree(
        INPUTS if case.state else INPUTS[:-6],
        lambda *x: run(case, x),
        lambda *x: truth(case, x),
        tensors,
        rng,
        1e-4,
    )


@pytest.mark.parametrize("case", [CASES[5], Case(66, 256, h=1, p=9, state=True)], ids=str)
def test_is_near_the_gradients_of_the_recurrence_in_bfloat16(
    case: Case, rng: torch.Generator
) -> None:
    tensors = on_device(case.tensors(rng, torch.bfloat16))
    assert_gradients_agree(
        INPUTS, lambda *x: run(case, x), lambda *x: truth(case, x), tensors, rng, 3e-2
    )  # much of the gradient of A cancels


def test_a_decay_to_nothing_within_one_step_stays_finite(rng: torch.Generator) -> None:
    case = Case(18, 16, h=2, state=True)
    x, dt, A, *rest = on_device(case.tensors(rng, torch.float32))
    inputs = [x, dt * 100, A * 10, *rest]
    assert_agree("y state", run(case, inputs), truth(case, inputs), TOLERANCE[torch.float32])
    x.requires_grad_()
    assert torch.autograd.grad(run(case, inputs)[0].sum(), x)[0].isfinite().all()


def test_reads_views_of_one_projection_in_place(rng: torch.Generator) -> None:
    """x, B, C as the module has them: slices of one tensor."""
    case = Case(18, 16, h=4, g=2, p=6, n=5)
    x, dt, A, B, C, D, _ = on_device(case.tensors(rng, torch.float32))
    joint = torch.cat([x.flatten(2), B.flatten(2), C.flatten(2)], -1)
    x, B, C = (
        v.unflatten(-1, shape)
        for v, shape in zip(joint.split([24, 10, 10], -1), ((4, 6), (2, 5), (2, 5)), strict=True)
    )
    assert_agree(
        "y state",
        run(case, [x, dt, A, B, C, D]),
        truth(case, [x, dt, A, B, C, D]),
        TOLERANCE[torch.float32],
    )


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "case", [Case(3, 8, state=True), Case(3, 8, g=2, p=33, n=17, state=True)], ids=str
)
def test_steps_follow_the_recurrence_and_update_the_state_in_place(
    case: Case, held: torch.dtype, rng: torch.Generator
) -> None:
    tensors = on_device(case.tensors(rng, torch.float32))
    tensors[6] = tensors[6].to(held)
    expected = truth(case, tensors)
    with use("ssd_step", "triton"):
        y = token_by_token(ssd_step, *tensors)
    assert_agree("y state", (y, tensors[6]), expected, TOLERANCE[held])
