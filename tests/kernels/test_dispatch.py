import subprocess
import sys

import pytest
import torch

from kernels import dispatch
from kernels.causal_conv1d import causal_conv1d
from kernels.dispatch import explain, forget, ran, require_forced, use
from kernels.implementations import (
    OPERATIONS,
    CannotRun,
    from_environment,
    require_installed,
    require_known,
)
from tests.kernels.conftest import DEVICE


def call(dtype: torch.dtype = torch.float32, device: str = DEVICE) -> torch.Tensor:
    return causal_conv1d(
        *(torch.ones(*shape, dtype=dtype, device=device) for shape in ((1, 3, 2), (2, 4), (2,)))
    )[0]


def test_what_ran_is_recorded_and_can_be_forgotten() -> None:
    forget()
    for implementation in ("eager", "triton"):
        with use("causal_conv1d", implementation):
            call()
    assert ran() == {"causal_conv1d": "eager, triton"}
    forget()
    assert ran() == {}


def test_a_cpu_runs_eager_and_meta_counts() -> None:
    assert explain("cpu")["ssd"] == "eager torch, chunk by chunk"
    assert set(explain("meta").values()) == {"counted, not computed"}
    forget()
    assert call(device="meta").shape == (1, 3, 2)
    assert ran() == {}


def test_a_cuda_device_runs_triton_and_says_where_not() -> None:
    assert explain("cuda")["ssd"] == "triton"
    assert explain("cuda")["ssd_step"] == "triton; with gradients eager torch"
    assert "torch.float64 - triton takes" in explain("cuda", torch.float64)["ssd"]


def test_a_forced_implementation_is_explained_and_ends_with_its_context() -> None:
    with use("ssd", "triton"):
        assert explain("cuda")["ssd"] == "triton, forced"
        with use("ssd", "eager"):
            assert explain("cuda")["ssd"] == "eager torch, chunk by chunk, forced"
        assert explain("cuda")["ssd"] == "triton, forced"
    assert explain("cpu")["ssd"] == "eager torch, chunk by chunk"


def test_a_forced_implementation_that_cannot_run_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with use("causal_conv1d", "triton"):
        with pytest.raises(
            RuntimeError,
            match=r"^causal_conv1d: triton was requested but cannot run: "
            r"torch\.float64 - triton takes .*$",
        ):
            call(torch.float64)
        monkeypatch.setenv("TRITON_INTERPRET", "0")
        with pytest.raises(RuntimeError, match=r"a cpu tensor, and triton needs a CUDA device"):
            call(device="cpu")
        assert "cannot run: a cpu tensor" in explain("cpu")["causal_conv1d"]


def test_what_does_not_exist_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"no operation is called 'conv' - there are attention"),
        use("conv", "triton"),
    ):
        pass
    with (
        pytest.raises(
            ValueError, match=r"attention has no implementation 'mamba_ssm' - it has eager, triton"
        ),
        use("attention", "mamba_ssm"),
    ):
        pass


def test_the_environment_names_one_for_all_or_one_each() -> None:
    assert from_environment("") == {}
    assert from_environment("eager") == dict.fromkeys(OPERATIONS, "eager")
    assert from_environment("ssd=triton, attention=eager") == {
        "ssd": "triton",
        "attention": "eager",
    }
    with pytest.raises(ValueError, match="no operation"):
        from_environment("scan=triton")


def test_a_setting_that_names_what_is_unknown_is_refused_in_one_line() -> None:
    require_installed("")
    require_installed("ssd=eager")
    with pytest.raises(CannotRun, match=r"^HYBRID_KERNELS: 'scan=eager' - no operation is called"):
        require_installed("scan=eager")
    with pytest.raises(ValueError, match=r"^ssd has no implementation 'fast' - it has eager, "):
        require_known("ssd", "fast")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_implementation_can_be_loaded(operation: str) -> None:
    for implementation in OPERATIONS[operation].implementations:
        if implementation != "mamba_ssm":
            assert callable(dispatch._load(operation, implementation)[0])


def test_a_call_compiles_into_one_graph() -> None:
    compiled = torch.compile(call, backend="eager", fullgraph=True)
    forget()
    assert torch.equal(compiled(), call())
    assert ran() == {"causal_conv1d": "triton" if DEVICE == "cuda" else "eager"}


def test_eager_in_place_of_triton_says_why() -> None:
    """A CUDA device is played by the choice alone: what is computed stays on the CPU."""

    class OnCuda(torch.Tensor):
        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device("cuda")

    x = torch.ones(1, 3, 2, dtype=torch.float64).as_subclass(OnCuda)
    assert dispatch._choose("ssd", (x,)) == (
        "eager",
        "torch.float64 - triton takes torch.float32, torch.bfloat16, torch.float16",
    )
    wide = torch.ones(1, 1, 1, 512).as_subclass(OnCuda)
    name, reason = dispatch._choose("ssd", (wide, wide, wide, wide, wide, wide, 64, None))
    assert (name, reason) == (
        "eager",
        "a head or state 512 wide, and a program can hold at most 256",
    )


def test_what_a_device_cannot_run_is_said_before_any_work() -> None:
    require_forced("cpu")
    with (
        use("ssd", "mamba_ssm"),
        pytest.raises(CannotRun, match=r"^HYBRID_KERNELS: ssd=mamba_ssm - cannot run on cpu: "),
    ):
        require_forced("cpu")


def test_an_operation_and_its_import_leave_the_compiler_alone() -> None:
    """torch._dynamo takes as long to import as torch."""
    code = (
        "import sys, torch, kernels.ssd, kernels.attention, hybrid_core.live.modules.decode\n"
        "q = torch.ones(1, 2, 1, 4)\n"
        "kernels.attention.attention(q, q, q)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
