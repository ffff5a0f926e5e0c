"""What a call would launch for the largest shapes that the options allow, without memory for them;
and offsets beyond 32 bits."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from kernels.attention.reference import attention as attention_reference
from kernels.ssd.reference import ssd as ssd_reference
from kernels.tiles import MOST_PROGRAMS
from tests.kernels.conftest import DEVICE

BATCH, HEADS, CONTEXT = 4096, 128, 2**22
FOLDERS = (
    "attention",
    "causal_conv1d",
    "gated_rms_norm",
    "grouped_linear",
    "mamba2_step",
    "selective_scan",
    "ssd",
)


def make(*shape: int, dtype: torch.dtype = torch.bfloat16, grad: bool = False) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=grad)


@pytest.fixture
def grids(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, ...]]:
    """Records the grid of every launch by the kernel's name, and launches nothing."""
    found: dict[str, tuple[int, ...]] = {}

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            found[self.name] = grid if isinstance(grid, tuple) else (grid,)
            return lambda *args, **fields: None

    for folder in FOLDERS:
        module = importlib.import_module(f"kernels.{folder}.triton_kernel")
        for name, kernel in list(vars(module).items()):
            if isinstance(kernel, JITFunction | InterpretedFunction):
                monkeypatch.setattr(module, name, Recorder(f"{folder}.{name}"))
    return found


def ssd_arguments(b: int, t: int, h: int, grad: bool) -> tuple[Any, ...]:
    f32, n = torch.float32, 128
    x, dt = make(b, t, h, 64, grad=grad), make(b, t, h, dtype=f32)
    return x, dt, make(h, dtype=f32), make(b, t, 1, n), make(b, t, 1, n), make(h)


def launch_ssd(b: int, t: int) -> None:
    from kernels.ssd.triton_kernel import ssd

    y, _ = ssd(*ssd_arguments(b, t, HEADS, True), 128, None)
    y.backward(torch.empty_like(y))


def launch_ssd_step(b: int, t: int) -> None:
    from kernels.ssd.triton_kernel import ssd_step

    ssd_step(*ssd_arguments(b, 1, HEADS, False), make(b, HEADS, 64, 128, dtype=torch.float32))


def launch_mamba2_step(b: int, t: int) -> None:
    from kernels.mamba2_step.triton_kernel import mamba2_step

    h, p, n = HEADS, 64, 128
    c = h * p + 2 * n
    state = make(b, h, p, n, dtype=torch.float32)
    mamba2_step(
        make(b, h * p + c + h),
        make(b, 3, c),
        state,
        make(c, 4),
        make(c),
        make(h),
        make(h),
        make(h),
        1,
        None,
        True,
        0.0,
    )


def launch_attention(b: int, t: int) -> None:
    from kernels.attention.triton_kernel import attention

    q, k, v = (make(b, t, HEADS, 64, grad=True) for _ in range(3))
    out = attention(q, k, v, 0, 0, 0, 0.1)
    out.backward(torch.empty_like(out))


def launch_conv(b: int, t: int) -> None:
    from kernels.causal_conv1d.triton_kernel import causal_conv1d

    y, _ = causal_conv1d(
        make(b, t, HEADS * 64, grad=True), make(HEADS * 64, 4), make(HEADS * 64), None
    )
    y.backward(torch.empty_like(y))


def launch_scan(b: int, t: int) -> None:
    from kernels.selective_scan.triton_kernel import selective_scan

    f32, e, n = torch.float32, HEADS * 64, 16
    x = make(b, t, e, grad=True)
    y, _ = selective_scan(
        x,
        make(b, t, e, dtype=f32),
        make(e, n, dtype=f32),
        make(b, t, n),
        make(b, t, n),
        make(e),
        None,
    )
    y.backward(torch.empty_like(y))


LAUNCHES = [
    launch_ssd,
    launch_ssd_step,
    launch_mamba2_step,
    launch_attention,
    launch_conv,
    launch_scan,
]


@pytest.mark.parametrize(
    ("batch", "context"), [(BATCH, 1), (BATCH, 4096), (1, CONTEXT), (3, CONTEXT)]
)
@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: launch.__name__)
def test_the_largest_shapes_that_are_allowed_make_grids_that_cuda_launches(
    launch: Callable[[int, int], None], batch: int, context: int, grids: dict[str, tuple[int, ...]]
) -> None:
    launch(batch, context)
    assert grids
    for name, (first, *others) in grids.items():
        assert first < 2**31, name
        assert all(0 < n <= MOST_PROGRAMS for n in others), (name, first, others)


def test_what_no_grid_holds_is_said_before_it_is_launched() -> None:
    from kernels.causal_conv1d.triton_kernel import causal_conv1d_limit
    from kernels.gated_rms_norm.triton_kernel import gated_rms_norm_limit
    from kernels.selective_scan.triton_kernel import selective_scan_limit

    many = make(MOST_PROGRAMS + 1, 1, 8)
    assert (
        causal_conv1d_limit(many, make(8, 4))
        == "65,536 sequences, and this axis of a grid has at most 65,535 programs"
    )
    assert (
        selective_scan_limit(many)
        == "65,536 sequences, and this axis of a grid has at most 65,535 programs"
    )
    y = make(1, 1, 2 * MOST_PROGRAMS)
    assert gated_rms_norm_limit(y, y, make(2 * MOST_PROGRAMS), 1e-5, 1) is not None
    assert gated_rms_norm_limit(y, y, make(2 * MOST_PROGRAMS), 1e-5, 2) is None


GAPS = "a state whose last axis is not contiguous"


def test_what_a_program_cannot_hold_is_said_with_the_number() -> None:
    """CUDA's limit of a grid's axis, and the limits that stand in the modules' docstrings."""
    from kernels.attention.triton_kernel import attention_limit
    from kernels.branch_fusion.triton_kernel import branch_fusion_limit
    from kernels.grouped_linear.triton_kernel import grouped_linear_limit
    from kernels.rms_norm.triton_kernel import rms_norm_limit
    from kernels.tiles import too_many

    q, wide = make(1, 2, 1, 64), make(1, 2, 1, 257)
    assert attention_limit(q, q, q) is None
    held = "heads 257 wide, and a program can hold at most 256"
    assert attention_limit(q, q, wide) == held
    row, weight = make(2, 32769), make(32769)
    held = "groups of 32769 channels, and a program can hold at most 32768"
    assert rms_norm_limit(row, weight, 1e-5, None) == held
    branches = (make(2, 8), row, row, make(8), weight, 1e-5)
    assert branch_fusion_limit(*branches, (8, 32769), None) == held
    assert branch_fusion_limit(*branches, (8, 3), None) is None
    most, more = make(65_535, 1, 1), make(65_536, 1, 1)
    assert grouped_linear_limit(make(1, 1), most, make(65_535)) is None
    said = "65,536 groups, and this axis of a grid has at most 65,535 programs"
    assert (
        grouped_linear_limit(make(1, 1), more, make(65_536)) == said == too_many("groups", 65_536)
    )


def test_a_state_with_gaps_in_its_last_axis_is_left_to_eager() -> None:
    from kernels.mamba2_step.triton_kernel import mamba2_step_limit
    from kernels.selective_scan.triton_kernel import selective_scan_step_limit
    from kernels.ssd.triton_kernel import ssd_step_limit

    x = make(1, 1, 2, 4)
    state = make(1, 2, 4, 8)
    gaps = make(1, 2, 4, 16)[..., ::2]
    assert ssd_step_limit(x, x, x, x, x, x, state) is None
    assert ssd_step_limit(x, x, x, x, x, x, gaps) == GAPS
    assert selective_scan_step_limit(x, x, x, x, x, x, state[0]) is None
    assert selective_scan_step_limit(x, x, x, x, x, x, gaps[0]) == GAPS
    conv = make(1, 3, 8)
    assert mamba2_step_limit(make(1, 8), conv, state, make(8, 4)) is None
    assert mamba2_step_limit(make(1, 8), conv, gaps, make(8, 4)) == GAPS


FAR = 2**30  # elements between two heads: the third begins where 32 bits end


def far_apart(x: Tensor) -> Tensor:
    """x [b, T, heads, D] with its heads FAR apart, in memory of which little is touched."""
    b, t, heads, d = x.shape
    far = torch.empty((heads - 1) * FAR + b * t * d, dtype=x.dtype).as_strided(
        x.shape, (t * d, d, FAR, 1)
    )
    return far.copy_(x)


@pytest.mark.skipif(DEVICE != "cpu", reason="memory that is only promised")
def test_heads_that_lie_far_apart_are_read_where_they_are(rng: torch.Generator) -> None:
    from kernels.attention.triton_kernel import attention
    from kernels.ssd.triton_kernel import ssd

    x, q = (torch.randn(1, 3, 3, 16, generator=rng).half() for _ in range(2))
    far = far_apart(x)
    near = attention_reference(q, x, x, scale=0.2)
    torch.testing.assert_close(
        attention(q, far, far, 0, 0, 0, 0.2).double(), near, atol=2e-3, rtol=2e-3
    )
    dt, A = torch.rand(1, 3, 3, generator=rng), -torch.rand(3, generator=rng)
    B, C = (torch.randn(1, 3, 1, 16, generator=rng).half() for _ in range(2))
    rest = dt, A, B, C, torch.ones(3)
    torch.testing.assert_close(
        ssd(far, *rest, 16, None)[0].double(), ssd_reference(x, *rest)[0], atol=1e-2, rtol=1e-2
    )
