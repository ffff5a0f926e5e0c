from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.counting import FORMULAS
from kernels.dispatch import use
from kernels.mamba2_step import mamba2_step, reference
from kernels.ssd import reference as scan_reference
from tests.conftest import case_id
from tests.kernels.against_truth import TOLERANCE, assert_agree, random

pytestmark = pytest.mark.usefixtures("nan_filled")


class Case(NamedTuple):
    h: int = 4
    p: int = 5
    n: int = 3
    g: int = 1
    w: int = 4
    shared: bool = False
    gated: bool = True
    dt_min: float = 0.0
    held: torch.dtype = torch.float32

    def __str__(self) -> str:
        return case_id(self).replace("torch.", "") or "default"

    def tensors(self, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """zxbcdt, both states and the five parameters."""
        d, channels = self.h * self.p, self.h * self.p + 2 * self.g * self.n
        conv = [(2, self.w - 1, channels), (channels, self.w), (channels,)]
        conv_state, weight, bias = (random(rng, *shape, dtype=dtype) for shape in conv)
        ssm_state = random(rng, 2, self.h, self.p, self.n, dtype=self.held)
        row = random(rng, 2, channels + self.h + (0 if self.shared else d), dtype=dtype)
        return [
            row,
            conv_state,
            ssm_state,
            weight,
            bias,
            *(random(rng, self.h, dtype=dtype) for _ in range(3)),
        ]


CASES = [
    Case(),
    Case(g=2),
    Case(g=4, w=1),
    Case(h=2, p=33, n=130, w=2),
    Case(g=2, shared=True),
    Case(held=torch.bfloat16),
    Case(gated=False),
    Case(dt_min=0.7),
]


def stepped(
    f: object, case: Case, tensors: list[Tensor], rows: list[Tensor], shared: list[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Several tokens on copies of the states: outputs and both states."""
    conv, ssm = (state.clone() for state in tensors[1:3])
    options = {"n_groups": case.g, "gated": case.gated, "dt_min": case.dt_min}
    ys = [
        f(row, conv, ssm, *tensors[3:], shared_x=x, **options)
        for row, x in zip(rows, shared, strict=True)
    ]  # type: ignore[operator]
    return torch.stack(ys), conv, ssm


@pytest.mark.parametrize("implementation", ["eager", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_steps_follow_the_reference(
    case: Case, dtype: torch.dtype, implementation: str, rng: torch.Generator
) -> None:
    tensors = case.tensors(rng, dtype)
    rows = [random(rng, *tensors[0].shape, dtype=dtype) for _ in range(3)]
    shared = [random(rng, 2, case.h * case.p, dtype=dtype) if case.shared else None for _ in rows]
    expected = stepped(reference.mamba2_step, case, tensors, rows, shared)
    with use("mamba2_step", implementation):
        actual = stepped(mamba2_step, case, tensors, rows, shared)
    assert (actual[0].dtype, actual[2].dtype) == (dtype, case.held)
    rounded = torch.bfloat16 if torch.bfloat16 in (dtype, case.held) else torch.float32
    assert_agree("y conv_state ssm_state", actual, expected, TOLERANCE[rounded])


def test_the_reference_is_a_convolution_then_the_scan_then_the_gate(rng: torch.Generator) -> None:
    """Against the other operations' references over a whole sequence."""
    from kernels.causal_conv1d import reference as conv_reference

    case = Case(g=2)
    tensors = [x.double() for x in case.tensors(rng)]
    rows = [random(rng, *tensors[0].shape).double() for _ in range(5)]
    ys, _, ssm = stepped(reference.mamba2_step, case, tensors, rows, [None] * 5)
    z, xbc, dt = torch.stack(rows, 1).split([20, 32, 4], -1)
    conv, state, weight, bias, dt_bias, A_log, D = tensors[1:]
    x, B, C = conv_reference.causal_conv1d(xbc, weight, bias, conv)[0].split([20, 6, 6], -1)
    x, B, C = x.unflatten(-1, (4, 5)), B.unflatten(-1, (2, 3)), C.unflatten(-1, (2, 3))
    y, after = scan_reference.ssd(x, F.softplus(dt + dt_bias), -A_log.exp(), B, C, D, state)
    assert_agree("y state", (ys.transpose(0, 1), ssm), (y.flatten(2) * F.silu(z), after), 1e-12)


@pytest.mark.parametrize("wrong", range(8))
def test_refuses_shapes_that_do_not_fit_and_names_them(wrong: int, rng: torch.Generator) -> None:
    tensors = Case().tensors(rng)
    tensors[wrong] = torch.cat([tensors[wrong]] * 2)
    with pytest.raises(
        ValueError, match=r"^mamba2_step: zxbcdt .* and 1 groups do not fit together$"
    ):
        mamba2_step(*tensors, n_groups=1)


def test_flops_are_those_of_the_convolution_and_of_the_scan(rng: torch.Generator) -> None:
    tensors = [x.to("meta") for x in Case().tensors(rng)]
    with FlopCounterMode(display=False) as counter:
        y = mamba2_step(*tensors, n_groups=1)
    expected = 2 * (2 * 4 * 26 + 5 * 4 * 5 * 3)
    assert (
        counter.get_total_flops()
        == expected
        == FORMULAS["hybrid::mamba2_step"](*(x.shape for x in tensors), 1, None, True, 0.0)
    )
    assert y.shape == (2, 20)
