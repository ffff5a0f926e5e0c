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
    """No kernel reads or writes outside the memory of its arguments.

    A GPU may not notice, and the interpreter does not check it by itself.
    """
    if DEVICE == "cuda":
        return
    from triton.runtime import interpreter

    memory: list[tuple[int, int]] = []
    begin = interpreter.GridExecutor._init_args_hst
    load = interpreter.InterpreterBuilder.create_masked_load
    store = interpreter.InterpreterBuilder.create_masked_store

    def recorded(self: Any, args: Any, kwargs: Any) -> Any:
        found = begin(self, args, kwargs)
        tensors = [x for x in [*found[0], *found[1].values()] if isinstance(x, torch.Tensor)]
        storages = [tensor.untyped_storage() for tensor in tensors]
        memory[:] = {(storage.data_ptr(), storage.nbytes()) for storage in storages}
        return found

    def check(pointers: Any, mask: Any) -> None:
        used = pointers.data[mask.data].astype("int64")
        if not used.size:
            return
        size = pointers.get_element_ty().primitive_bitwidth // 8
        inside = sum((used >= start) & (used + size <= start + length) for start, length in memory)
        assert (inside > 0).all(), f"{(inside == 0).sum()} addresses outside the kernel's arguments"

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask)
        return load(self, pointers, mask, *rest)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    monkeypatch.setattr(interpreter.GridExecutor, "_init_args_hst", recorded)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", checked_load)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_store", checked_store)


@pytest.fixture(autouse=True)
def patched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter replaces Triton's language once a launch, not at every call of a function.

    A third of its time went into replacing again what was replaced already.
    """
    if DEVICE == "cuda":
        return
    from triton.runtime import interpreter

    done: set[str] = set()  # modules whose functions find the language replaced
    launch = interpreter.GridExecutor.__call__
    patch = interpreter._patch_lang

    def launched(self: Any, *args: Any, **kwargs: Any) -> Any:
        done.clear()
        return launch(self, *args, **kwargs)

    def patched(function: Any) -> Any:
        if function.__module__ in done:
            return None
        done.add(function.__module__)
        return patch(function)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launched)
    monkeypatch.setattr(interpreter, "_patch_lang", patched)
