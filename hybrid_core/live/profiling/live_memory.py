"""Peak bytes of the tensors that some work makes and holds, operation by operation, on any device.

Scratch space inside an operation is not counted. It differs between libraries, and it is free again
after the operation.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """`with LiveTensors() as live: ...`, then `live.peak_bytes`.

    This is the most that tensors made inside the block held at the same time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = {storage._cdata for storage in _storages((args, kwargs))}
        out = func(*args, **kwargs)
        live = {}
        for key, (ref, size) in self._live.items():
            if not ref.expired():
                live[key] = (ref, size)
        # A view of an argument, or an operation in place, makes no storage of its own.
        for storage in _storages(out):
            if storage._cdata not in given and storage._cdata not in live:
                live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._live = live
        held = sum(size for _, size in live.values())
        self.peak_bytes = max(self.peak_bytes, held)
        return out


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    """The storage of each tensor in nested tuples, lists and dicts."""
    for leaf in tree_leaves(tree):
        if isinstance(leaf, torch.Tensor):
            yield leaf.untyped_storage()
