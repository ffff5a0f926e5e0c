"""gated_rms_norm, rms_norm and branch_fusion: eager and Triton against the references."""

import pytest
import torch
from torch import Tensor

from kernels.branch_fusion import branch_fusion, fused_branches
from kernels.branch_fusion import reference as fusion_reference
from kernels.dispatch import use
from kernels.gated_rms_norm import gated_rms_norm
from kernels.gated_rms_norm import reference as gated_reference
from kernels.rms_norm import reference as rms_reference
from kernels.rms_norm import rms_norm
from tests.kernels.against_truth import TOLERANCE, assert_agree, assert_gradients_agree, random

pytestmark = pytest.mark.usefixtures("nan_filled")
BOTH = pytest.mark.parametrize("implementation", ["eager", "triton"])
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"]
)
EPS = 1e-5


@BOTH
@DTYPES
@pytest.mark.parametrize(
    ("shape", "group"),
    [((1, 1, 6), None), ((2, 7, 48), 16), ((3, 60), 20), ((130, 40), None)],
    ids=str,
)
def test_gated_rms_norm(
    shape: tuple[int, ...],
    group: int | None,
    dtype: torch.dtype,
    implementation: str,
    rng: torch.Generator,
) -> None:
    inputs = [random(rng, *size, dtype=dtype) for size in (shape, shape, shape[-1:])]
    expected = gated_reference.gated_rms_norm(*inputs, EPS, group)
    with use("gated_rms_norm", implementation):
        out = gated_rms_norm(*inputs, EPS, group)
        assert out.dtype == dtype
        assert_agree("out", out, expected, TOLERANCE[dtype])
        run, truth = gated_rms_norm, gated_reference.gated_rms_norm
        tolerance = 1e-4 if dtype == torch.float32 else 3e-2
        assert_gradients_agree(
            "y z weight",
            lambda *x: run(*x, EPS, group),
            lambda *x: truth(*x, EPS, group),
            inputs,
            rng,
            tolerance,
        )


@BOTH
@DTYPES
@pytest.mark.parametrize("residual", [False, True], ids=["alone", "added"])
@pytest.mark.parametrize("shape", [(1, 1, 6), (3, 5, 48), (130, 40)], ids=str)
def test_rms_norm(
    shape: tuple[int, ...],
    residual: bool,
    dtype: torch.dtype,
    implementation: str,
    rng: torch.Generator,
) -> None:
    inputs = [
        random(rng, *size, dtype=dtype)
        for size in ((shape, shape[-1:], shape) if residual else (shape, shape[-1:]))
    ]

    def run(x: Tensor, weight: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
        return rms_norm(x, weight, EPS, *more)

    def truth(x: Tensor, weight: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
        return rms_reference.rms_norm(x, weight, EPS, *more)

    with use("rms_norm", implementation):
        assert_agree("out total", run(*inputs), truth(*inputs), TOLERANCE[dtype])
        names = "x weight residual" if residual else "x weight"
        assert_gradients_agree(
            names, run, truth, inputs, rng, 1e-4 if dtype == torch.float32 else 3e-2
        )


def branches(rng: torch.Generator, shape: tuple[int, ...], d_a: int, d_s: int) -> list[Tensor]:
    """attention, y, z, both weights, both scales."""
    return [
        random(rng, *size)
        for size in ((*shape, d_a), (*shape, d_s), (*shape, d_s), (d_a,), (d_s,), (d_a,), (d_s,))
    ]


@BOTH
@pytest.mark.parametrize(("widths", "groups"), [((24, 40), (6, 20)), ((16, 16), (16, 16))], ids=str)
def test_branch_fusion(
    widths: tuple[int, int], groups: tuple[int, int], implementation: str, rng: torch.Generator
) -> None:
    inputs = branches(rng, (2, 5), *widths)
    with use("branch_fusion", implementation):

        def run(*x: Tensor) -> tuple[Tensor, Tensor]:
            return branch_fusion(*x[:5], EPS, groups=groups, scales=x[5:] or None)  # type: ignore[arg-type]

        def truth(*x: Tensor) -> tuple[Tensor, Tensor]:
            return fusion_reference.branch_fusion(*x[:5], EPS, groups=groups, scales=x[5:] or None)  # type: ignore[arg-type]

        assert_agree("a s", run(*inputs[:5]), truth(*inputs[:5]), TOLERANCE[torch.float32])
        assert_agree("a s", run(*inputs), truth(*inputs), TOLERANCE[torch.float32])
        names = "attention y z attention_weight ssm_weight attention_scale ssm_scale"
        assert_gradients_agree(names, run, truth, inputs, rng, 1e-4)


@BOTH
@pytest.mark.parametrize("fusion", ["add", "diff"])
@pytest.mark.parametrize("groups", [(20, 20), (10, 20)], ids=str)
def test_fused_branches(
    groups: tuple[int, int], fusion: str, implementation: str, rng: torch.Generator
) -> None:
    inputs = branches(rng, (3, 11), 40, 40)[:5]

    def run(*x: Tensor) -> Tensor:
        return fused_branches(*x, EPS, groups=groups, fusion=fusion)

    def truth(*x: Tensor) -> Tensor:
        a, s = fusion_reference.branch_fusion(*x, EPS, groups=groups)
        return a + s if fusion == "add" else a - s

    with use("branch_fusion", implementation):
        assert_agree("out", run(*inputs), truth(*inputs), TOLERANCE[torch.float32])
        assert_gradients_agree(
            "attention y z attention_weight ssm_weight", run, truth, inputs, rng, 1e-4
        )


def test_slices_of_a_projection_are_read_in_place(rng: torch.Generator) -> None:
    wide, weight = random(rng, 2, 7, 100), random(rng, 40)
    y, z = wide[..., 3:43], wide[..., 50:90]
    with use("gated_rms_norm", "triton"):
        assert_agree(
            "out",
            gated_rms_norm(y, z, weight, EPS, 20),
            gated_reference.gated_rms_norm(y, z, weight, EPS, 20),
            2e-5,
        )


def test_refuses_shapes_that_do_not_fit_and_names_them() -> None:
    x, weight = torch.zeros(2, 6), torch.zeros(6)
    with pytest.raises(ValueError, match=r"^gated_rms_norm: y \(2, 6\), .* groups of 4"):
        gated_rms_norm(x, x, weight, EPS, 4)
    with pytest.raises(ValueError, match=r"^rms_norm: x \(2, 6\), weight \(6,\), residual \(6,\)"):
        rms_norm(x, weight, EPS, weight)
    with pytest.raises(ValueError, match=r"^branch_fusion: attention \(2, 6\), .* groups \(4, 6\)"):
        branch_fusion(x, x, x, weight, weight, EPS, groups=(4, 6))
    with pytest.raises(ValueError, match=r"^branch_fusion: 'concat' of"):
        fused_branches(x, x, x, weight, weight, EPS, groups=(6, 6), fusion="concat")


def test_meta_keeps_the_shapes() -> None:
    x, weight = torch.zeros(2, 6, device="meta"), torch.zeros(6, device="meta")
    assert (
        rms_norm(x, weight, EPS, x)[0].shape == gated_rms_norm(x, x, weight, EPS, 3).shape == (2, 6)
    )
    assert fused_branches(x, x, x, weight, weight, EPS, groups=(3, 3), fusion="add").shape == (2, 6)
