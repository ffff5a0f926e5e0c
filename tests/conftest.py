"""What several tests need: comparison by relative error, random tensors, and memory that is NaN
until it is written."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from hybrid_core.runs.store import RunStore

# Largest error that a path may have against the float64 truth, relative to the largest value of the
# truth.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 3e-2}
DTYPES = [
    pytest.param(dtype, id=str(dtype).removeprefix("torch."))
    for dtype in (torch.float64, torch.float32)
]

# Read when the first kernel is imported, which may be in any folder of tests.
if torch.cuda.is_available():
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # without it the references may not multiply deterministically
else:
    os.environ["TRITON_INTERPRET"] = "1"

torch.set_num_threads(1)  # the tensors here are too small to share


TESTS = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m gpu` reads the two folders that have such tests and no other, since a GPU machine has no
    browser and no Streamlit."""
    inside = collection_path.relative_to(TESTS).parts
    unneeded = config.option.markexpr == "gpu" and inside and inside[0] not in ("gpu", "kernels")
    return True if unneeded else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest starts first, or it would run alone at the end."""
    limits = {
        item: marker.args[0] for item in items if (marker := item.get_closest_marker("timeout"))
    }
    items.sort(key=lambda item: -limits.get(item, 0))


def case_id(case: Any) -> str:
    """The fields of a NamedTuple that are not its defaults, e.g. `t7-s20-window9`."""
    return "-".join(
        f"{name}{value}"
        for name, value in case._asdict().items()
        if value != case._field_defaults.get(name)
    )


def assert_close(name: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Fail, naming the tensor, unless shapes agree and max |actual - expected| <= tolerance * max
    |expected|."""
    assert actual.shape == expected.shape, (
        f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    )
    if not expected.numel():
        return
    largest = expected.double().abs().max().item()
    error = (actual.double() - expected.double()).abs().max().item() / max(largest, 1e-12)
    assert error <= tolerance, f"{name}: relative error {error:.1e}, allowed {tolerance:.0e}"


def assert_same_gradients(
    names: str, actual: Tensor, expected: Tensor, inputs: list[Tensor], others: list[Tensor]
) -> None:
    """Gradients of a scalar with respect to `inputs` by one path, to `others` (the same tensors) by
    the other, in float64."""
    pairs = zip(
        names.split(),
        torch.autograd.grad(actual, inputs),
        torch.autograd.grad(expected, others),
        strict=True,
    )
    for name, one, other in pairs:
        assert_close(f"gradient of {name}", one, other, 1e-10)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[RunStore]":
    """A store of its own; no process outlives the test."""
    from hybrid_core.runs.jobs import cancel
    from hybrid_core.runs.store import open_store

    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("HYBRID_DATABASE_URL", raising=False)
    store = open_store()
    yield store
    for run in store.list():
        cancel(run.id, store)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def nan_filled() -> Iterator[None]:
    """`torch.empty` gives NaN, so that memory read before it is written shows."""
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


@pytest.fixture(scope="session")
def mamba_ssm() -> SimpleNamespace:
    """mamba-ssm's own references in plain torch, made to compute in float64 throughout."""
    with pytest.MonkeyPatch.context() as patch:
        # The package imports its compiled CUDA extension at once; the references never call it.
        patch.setitem(sys.modules, "selective_scan_cuda", ModuleType("selective_scan_cuda"))
        from mamba_ssm.modules.ssd_minimal import ssd_minimal_discrete
        from mamba_ssm.ops.selective_scan_interface import selective_scan_ref
        from mamba_ssm.ops.triton.selective_state_update import selective_state_update_ref
        from mamba_ssm.ops.triton.ssd_combined import ssd_chunk_scan_combined_ref
    # Where `import mamba_ssm` succeeds, transformers runs its Triton kernels, which a CPU cannot:
    # so it must not stay imported.
    for name in [name for name in sys.modules if name.partition(".")[0] == "mamba_ssm"]:
        del sys.modules[name]
    references = (
        ssd_minimal_discrete,
        ssd_chunk_scan_combined_ref,
        selective_state_update_ref,
        selective_scan_ref,
    )
    return SimpleNamespace(
        **{reference.__name__: _in_float64(reference) for reference in references}
    )


def _in_float64(reference: Callable[..., Any]) -> Callable[..., Any]:
    """The references round to float32 here and there, whatever they are given: `float()` means
    double() while they run."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            return reference(*args, **kwargs)

    return run
