"""mamba-ssm's kernels need a CUDA device; what is tested anywhere is that they are given what they
expect, on its own references."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.dispatch import use
from kernels.implementations import not_installed
from kernels.ssd import mamba_ssm_kernel, reference, ssd, ssd_step
from tests.kernels.against_truth import TOLERANCE, assert_agree, assert_gradients_agree, on_device
from tests.kernels.test_ssd import INPUTS, Case


def test_the_operations_get_what_their_references_take(
    mamba_ssm: Any, monkeypatch: pytest.MonkeyPatch, rng: torch.Generator
) -> None:
    def scan(
        *args: Tensor, D: Tensor, initial_states: None, return_final_states: bool
    ) -> tuple[Tensor, Tensor]:
        return mamba_ssm.ssd_chunk_scan_combined_ref(*args, D=D), torch.zeros(1)

    operations = {
        "mamba_chunk_scan_combined": scan,
        "selective_state_update": mamba_ssm.selective_state_update_ref,
    }
    monkeypatch.setattr(mamba_ssm_kernel, "operation", lambda module, name: operations[name])
    x, dt, A, B, C, D, state = Case(32, 16, g=2).tensors(rng)
    y, after = mamba_ssm_kernel.ssd(x, dt, A, B, C, D, 16, None)
    true_y, _ = reference.ssd(x, dt, A, B, C, D)
    assert after.dtype == torch.float32
    assert_agree("y", y, true_y, 1e-10)
    one = x[:, :1], dt[:, :1], A, B[:, :1], C[:, :1], D
    expected = reference.ssd(*one, state)
    assert_agree("y state", (mamba_ssm_kernel.ssd_step(*one, state), state), expected, 1e-10)


def test_a_cpu_and_a_small_chunk_are_refused(rng: torch.Generator) -> None:
    *tensors, _ = Case(4, 8).tensors(rng, torch.float32)
    with (
        use("ssd", "mamba_ssm"),
        pytest.raises(
            RuntimeError, match=r"^ssd: mamba_ssm was requested but cannot run: .*CUDA device$"
        ),
    ):
        ssd(*tensors, chunk_size=16)
    assert (
        mamba_ssm_kernel.ssd_limit(*tensors, 8, None) == "chunk size 8 - mamba_ssm takes 16 or more"
    )
    assert mamba_ssm_kernel.ssd_limit(*tensors, 256, None) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(not_installed("mamba_ssm") is not None, reason="mamba-ssm is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_equals_the_recurrence(dtype: torch.dtype, rng: torch.Generator) -> None:
    case = Case(200, 64, g=2, p=64, n=64, state=True)
    tensors = on_device(case.tensors(rng, dtype))

    def run(*x: Tensor) -> tuple[Tensor, Tensor]:
        return ssd(*x[:6], chunk_size=64, state=x[6])

    tolerance = 5e-3 if dtype == torch.float32 else 3e-2  # it multiplies float32 in tf32
    with use("ssd", "mamba_ssm"):
        assert_agree("y state", run(*tensors), reference.ssd(*tensors), tolerance)
        assert_gradients_agree(INPUTS, run, reference.ssd, tensors, rng, 3e-2)
    one = [v[:, :1] if v.ndim > 2 else v for v in tensors[:6]]
    state = tensors[6].clone()
    expected = reference.ssd(*one, state)
    with use("ssd_step", "mamba_ssm"):
        assert_agree("y state", (ssd_step(*one, state), state), expected, TOLERANCE[dtype])
