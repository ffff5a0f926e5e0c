from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.attention import attention, attention_step, reference
from kernels.counting import FORMULAS
from tests.conftest import DTYPES, TOLERANCE, assert_close, assert_same_gradients, case_id

pytestmark = pytest.mark.usefixtures("nan_filled")


class Case(NamedTuple):
    t: int
    s: int
    h: int = 4
    g: int = 2
    d: int = 8
    d_v: int = 8
    window: int = 0
    sink: int = 0
    gap: int = 0

    def __str__(self) -> str:
        return case_id(self)

    def tensors(self, rng: torch.Generator, dtype: torch.dtype) -> list[Tensor]:
        shapes = [
            (2, self.t, self.h, self.d),
            (2, self.s, self.g, self.d),
            (2, self.s, self.g, self.d_v),
        ]
        return [
            torch.randn(*shape, dtype=torch.float64, generator=rng).to(dtype) for shape in shapes
        ]

    @property
    def mask(self) -> dict[str, int]:
        return {"window": self.window, "sink": self.sink, "gap": self.gap}


FULL = [
    Case(1, 1),
    Case(7, 7, g=4),
    Case(63, 63, h=6, g=3),
    Case(7, 7, g=1, d_v=12),
    Case(63, 63, d=12, d_v=6),
    Case(7, 20),
    Case(1, 33, h=6, d_v=10),
]
WINDOW = [
    Case(1, 1, window=1),
    Case(7, 7, window=1),
    Case(7, 7, window=1, sink=1),
    Case(63, 63, window=5),
    Case(63, 63, window=5, sink=3, d_v=12),
    Case(63, 63, window=62, sink=1),
    Case(63, 63, window=63, sink=7),
    Case(63, 63, window=100, sink=100),
    Case(7, 7, window=2, sink=100),
    Case(5, 30, window=6, sink=2),
    Case(1, 30, window=6, sink=2),
    Case(1, 8, window=6, sink=2),
    Case(200, 200, h=2, g=1, window=7, sink=3),
    Case(150, 203, h=2, g=1, window=70, sink=9),
]
# What a window's cache hands over: sinks, the last `window` positions before the new ones, the new
# ones.
GAP = [
    Case(7, 3 + 9 + 7, window=9, sink=3, gap=11),
    Case(63, 6 + 63, window=6, gap=40),
    Case(100, 5 + 20 + 100, h=2, g=1, window=20, sink=5, gap=1),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", FULL + WINDOW + GAP, ids=str)
def test_equals_the_reference(case: Case, dtype: torch.dtype, rng: torch.Generator) -> None:
    q, k, v = case.tensors(rng, dtype)
    out = attention(q, k, v, **case.mask)
    assert out.dtype == dtype
    assert_close("out", out, reference.attention(q, k, v, **case.mask), TOLERANCE[dtype])


@pytest.mark.parametrize("case", [FULL[2], WINDOW[4], GAP[0]], ids=str)
def test_is_near_the_reference_in_bfloat16(case: Case, rng: torch.Generator) -> None:
    q, k, v = case.tensors(rng, torch.bfloat16)
    assert_close(
        "out",
        attention(q, k, v, **case.mask),
        reference.attention(q, k, v, **case.mask),
        TOLERANCE[torch.bfloat16],
    )


@pytest.mark.parametrize("case", [FULL[4], FULL[5], FULL[6], WINDOW[4], WINDOW[9], GAP[0]], ids=str)
def test_has_the_gradients_of_the_reference(case: Case, rng: torch.Generator) -> None:
    inputs = [x.requires_grad_() for x in case.tensors(rng, torch.float64)]
    others = [x.detach().clone().requires_grad_() for x in inputs]
    weight = torch.randn(2, case.t, case.h, case.d_v, dtype=torch.float64, generator=rng)
    actual, expected = (
        (attention(*inputs, **case.mask) * weight).sum(),
        (reference.attention(*others, **case.mask) * weight).sum(),
    )
    assert_same_gradients("q k v", actual, expected, inputs, others)


@pytest.mark.parametrize("case", GAP, ids=str)
def test_a_gap_leaves_out_only_what_no_query_sees(case: Case, rng: torch.Generator) -> None:
    q, k, v = case._replace(s=case.s + case.gap).tensors(rng, torch.float64)
    kept_k, kept_v = (
        torch.cat([x[:, : case.sink], x[:, case.sink + case.gap :]], 1) for x in (k, v)
    )
    expected = reference.attention(q, k, v, window=case.window, sink=case.sink)
    assert_close("out", attention(q, kept_k, kept_v, **case.mask), expected, 1e-11)


@pytest.mark.parametrize("mask", [{}, {"window": 6, "sink": 2}], ids=["full", "window"])
@pytest.mark.parametrize("split", [1, 7, 62])
def test_two_calls_continue_each_other(
    split: int, mask: dict[str, int], rng: torch.Generator
) -> None:
    q, k, v = Case(63, 63).tensors(rng, torch.float64)
    parts = [
        attention(q[:, :split], k[:, :split], v[:, :split], **mask),
        attention(q[:, split:], k, v, **mask),
    ]
    assert_close("out", torch.cat(parts, 1), reference.attention(q, k, v, **mask), 1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 20, 33])
@pytest.mark.parametrize(
    "case", [Case(1, 33), Case(1, 33, h=6, g=3, d_v=10), Case(1, 33, d=12)], ids=str
)
def test_a_step_sees_the_slots_that_hold_tokens_and_no_other(
    case: Case, length: int, dtype: torch.dtype, rng: torch.Generator
) -> None:
    q, k, v = case.tensors(rng, dtype)
    expected = reference.attention(q, k[:, :length], v[:, :length])
    assert_close("out", attention_step(q, k, v, torch.tensor(length)), expected, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("t", "length"), [(2, torch.tensor(2)), (1, torch.tensor([2])), (1, torch.tensor(2.0))]
)
def test_a_step_is_one_query_and_one_length(t: int, length: Tensor, rng: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"^attention_step: .* one query"):
        attention_step(*Case(t, 5).tensors(rng, torch.float32), length)


def test_flops_of_a_step_are_those_of_a_full_cache() -> None:
    q, k, v = Case(1, 33, h=6, g=3, d_v=10).tensors(torch.Generator(), torch.float32)
    with FlopCounterMode(display=False) as counter:
        attention_step(q.to("meta"), k.to("meta"), v.to("meta"), torch.tensor(3, device="meta"))
    assert counter.get_total_flops() == 2 * 6 * 33 * 2 * (8 + 10)


def test_scale_replaces_the_default(rng: torch.Generator) -> None:
    q, k, v = Case(7, 7).tensors(rng, torch.float64)
    assert_close(
        "out", attention(q, k, v, scale=0.1), reference.attention(q, k, v, scale=0.1), 1e-11
    )
    assert_close("out", attention(q, k, v), reference.attention(q, k, v, scale=8**-0.5), 1e-11)


@pytest.mark.parametrize(
    ("shapes", "mask", "named"),
    [
        pytest.param(
            [(1, 3, 4, 8), (1, 3, 2, 6), (1, 3, 2, 8)],
            {},
            ["(1, 3, 4, 8)", "(1, 3, 2, 6)"],
            id="key width",
        ),
        pytest.param(
            [(1, 3, 4, 8), (1, 3, 2, 8), (1, 4, 2, 8)],
            {},
            ["(1, 3, 2, 8)", "(1, 4, 2, 8)"],
            id="value length",
        ),
        pytest.param(
            [(2, 3, 4, 8), (1, 3, 2, 8), (1, 3, 2, 8)],
            {},
            ["(2, 3, 4, 8)", "(1, 3, 2, 8)"],
            id="batch",
        ),
        pytest.param(
            [(1, 3, 4, 8), (1, 3, 3, 8), (1, 3, 3, 8)],
            {},
            ["4 query heads", "3 key heads"],
            id="groups",
        ),
        pytest.param(
            [(1, 5, 4, 8), (1, 3, 2, 8), (1, 3, 2, 8)],
            {},
            ["5 queries", "3 keys"],
            id="too few keys",
        ),
        pytest.param(
            [(1, 3, 4, 8), (1, 3, 2, 8), (1, 3, 2, 8)],
            {"gap": 2},
            ["gap", "window"],
            id="gap without window",
        ),
    ],
)
def test_refuses_shapes_that_do_not_fit_and_names_them(
    shapes: list[tuple[int, ...]], mask: dict[str, int], named: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"^attention: ") as error:
        attention(*map(torch.zeros, shapes), **mask)
    assert all(text in str(error.value) for text in named)


def visible_pairs(case: Case) -> int:
    """Counted one by one on the mask over all positions, those of the gap included."""
    last = case.s + case.gap
    seen = [
        [p <= q and (not case.window or p > q - case.window or p < case.sink) for p in range(last)]
        for q in range(last - case.t, last)
    ]
    return sum(map(sum, seen))


@pytest.mark.parametrize("case", FULL + WINDOW + GAP, ids=str)
def test_flops_are_four_per_visible_pair_and_channel(case: Case) -> None:
    q, k, v = case.tensors(torch.Generator(), torch.float32)
    expected = 2 * case.h * visible_pairs(case) * 2 * (case.d + case.d_v)
    assert (
        FORMULAS["hybrid::attention"](
            q.shape, k.shape, v.shape, case.window, case.sink, case.gap, 1.0
        )
        == expected
    )
    with FlopCounterMode(display=False) as counter:
        out = attention(q.to("meta"), k.to("meta"), v.to("meta"), **case.mask)
    assert (counter.get_total_flops(), out.shape) == (expected, (2, case.t, case.h, case.d_v))
