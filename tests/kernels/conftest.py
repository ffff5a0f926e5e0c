"""Where there is no CUDA device, Triton's interpreter runs the kernels (tests/conftest.py tells
it)."""

from pathlib import Path
from typing import Any

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


ON_DEVICE = (
    "test_triton_",
    "test_norms",
    "test_mamba2_step",
)  # modules whose tensors are on DEVICE


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where there is a CUDA device the kernels are tested on it, so there `-m gpu` means these
    tests too, but not those that only compile."""
    here = Path(__file__).parent
    for item in items:
        on_device = item.path.parent == here and item.path.name.startswith(ON_DEVICE)
        if DEVICE == "cuda" and on_device and not item.get_closest_marker("slow"):
            item.add_marker("gpu")


@pytest.fixture(autouse=True)
def inside_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel reads or writes outside the memory of its arguments. A GPU may not notice, and the
    interpreter does not by itself."""
    if DEVICE == "cuda":
        return
    from triton.runtime import interpreter

    memory: list[tuple[int, int]] = []
    begin = interpreter.GridExecutor._init_args_hst

    def recorded(self: Any, args: Any, kwargs: Any) -> Any:
        found = begin(self, args, kwargs)
        tensors = [x for x in [*found[0], *found[1].values()] if isinstance(x, torch.Tensor)]
        memory[:] = {
            (x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()) for x in tensors
        }
        return found

    def check(pointers: Any, mask: Any) -> None:
        used = pointers.data[mask.data].astype("int64")
        size = pointers.get_element_ty().primitive_bitwidth // 8
        inside = sum((used >= start) & (used + size <= start + length) for start, length in memory)
        assert (inside > 0).all() if used.size else True, (
            f"{(inside == 0).sum()} addresses outside the kernel's arguments"
        )

    load, store = (
        interpreter.InterpreterBuilder.create_masked_load,
        interpreter.InterpreterBuilder.create_masked_store,
    )

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask)
        return load(self, pointers, mask, *rest)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    monkeypatch.setattr(interpreter.GridExecutor, "_init_args_hst", recorded)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", checked_load)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_store", checked_store)
