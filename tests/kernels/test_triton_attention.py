import pytest
import torch
from torch import Tensor

from kernels.attention import attention, attention_step, reference
from kernels.dispatch import use
from tests.kernels.against_truth import TOLERANCE, assert_agree, assert_gradients_agree, on_device
from tests.kernels.test_attention import GAP, Case

pytestmark = pytest.mark.usefixtures("nan_filled")

# One query, several tiles, groups, unlike and odd widths, more keys than queries; windows that
# leave out whole tiles, sinks, gaps.
CASES = [
    Case(1, 1),
    Case(7, 7, g=4),
    Case(66, 66, h=4, g=2, d=12, d_v=6),
    Case(33, 80, h=2, g=1, d=17, d_v=33),
    Case(1, 33, h=6, d_v=10),
    Case(7, 7, window=1),
    Case(7, 7, window=2, sink=100),
    Case(63, 63, window=5, sink=3, d_v=12),
    Case(5, 30, window=6, sink=2),
    Case(1, 30, window=6, sink=2),
    Case(200, 200, h=1, g=1, window=7, sink=3),
    *GAP,
]


def run(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with use("attention", "triton"):
        return attention(q, k, v, **case.mask)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case: Case, rng: torch.Generator) -> None:
    tensors = on_device(case.tensors(rng, torch.float32))
    assert_agree(
        "out",
        run(case, *tensors),
        reference.attention(*tensors, **case.mask),
        TOLERANCE[torch.float32],
    )


@pytest.mark.parametrize("case", [CASES[2], CASES[7]], ids=str)
def test_is_near_the_reference_in_bfloat16(case: Case, rng: torch.Generator) -> None:
    tensors = on_device(case.tensors(rng, torch.bfloat16))
    out = run(case, *tensors)
    assert out.dtype == torch.bfloat16
    assert_agree("out", out, reference.attention(*tensors, **case.mask), TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("splits", [2, 5])
@pytest.mark.parametrize(
    "case",
    [
        Case(1, 300, h=6),
        Case(1, 300, window=20, sink=3),
        Case(3, 20),
        Case(2, 150, window=100, sink=40),
    ],
    ids=str,
)
def test_splitting_the_keys_changes_nothing(case: Case, splits: int, rng: torch.Generator) -> None:
    """Also where a split is left without any key."""
    from kernels.attention.triton_kernel import _attend

    q, k, v = on_device(case.tensors(rng, torch.float32))
    mask = (case.window, case.sink, 0) if case.window else (case.s, 0, 0)
    out, _ = _attend(q, k, v, mask, case.d**-0.5, splits)
    assert_agree("out", out, reference.attention(q, k, v, **case.mask), TOLERANCE[torch.float32])


@pytest.mark.parametrize(
    "case", [CASES[4], CASES[2], CASES[3], CASES[6], CASES[8], CASES[10], GAP[0], GAP[2]], ids=str
)
def test_has_the_gradients_of_the_reference(case: Case, rng: torch.Generator) -> None:
    tensors = on_device(case.tensors(rng, torch.float32))
    assert_gradients_agree(
        "q k v",
        lambda *x: run(case, *x),
        lambda *x: reference.attention(*x, **case.mask),
        tensors,
        rng,
        1e-4,
    )


def test_is_near_the_gradients_of_the_reference_in_bfloat16(rng: torch.Generator) -> None:
    case = CASES[7]
    tensors = on_device(case.tensors(rng, torch.bfloat16))
    assert_gradients_agree(
        "q k v",
        lambda *x: run(case, *x),
        lambda *x: reference.attention(*x, **case.mask),
        tensors,
        rng,
        2e-2,
    )


@pytest.mark.parametrize("length", [1, 20, 300])
@pytest.mark.parametrize("splits", [1, 5])
def test_a_step_sees_the_slots_that_hold_tokens_and_no_other(
    length: int, splits: int, rng: torch.Generator
) -> None:
    from kernels.attention.triton_kernel import _attend

    q, k, v = on_device(Case(1, 300, h=6, d_v=10).tensors(rng, torch.float32))
    held = torch.tensor(length, device=q.device)
    expected = reference.attention(q, k[:, :length], v[:, :length])
    out, _ = _attend(q, k, v, (300, 0, 0), 8**-0.5, splits, held)
    assert_agree("out", out, expected, TOLERANCE[torch.float32])
    with use("attention_step", "triton"):
        assert_agree("out", attention_step(q, k, v, held), expected, TOLERANCE[torch.float32])


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_step_reads_a_narrower_cache(narrow: torch.dtype, rng: torch.Generator) -> None:
    q, k, v = on_device(Case(1, 40, h=6, d_v=10).tensors(rng, torch.float32))
    k, v = k.to(narrow), v.to(narrow)
    for implementation in ("triton", "eager"):
        with use("attention_step", implementation):
            out = attention_step(q, k, v, torch.tensor(33, device=q.device))
        assert_agree(
            "out",
            out,
            reference.attention(q, k[:, :33].float(), v[:, :33].float()),
            TOLERANCE[torch.float32],
        )


def test_reads_a_cache_in_place(rng: torch.Generator) -> None:
    """The first slots of a longer cache, and scale given."""
    q, k, v = on_device(Case(2, 40).tensors(rng, torch.float32))
    with use("attention", "triton"):
        out = attention(q, k[:, :30], v[:, :30], scale=0.3)
    assert_agree(
        "out",
        out,
        reference.attention(q, k[:, :30], v[:, :30], scale=0.3),
        TOLERANCE[torch.float32],
    )
