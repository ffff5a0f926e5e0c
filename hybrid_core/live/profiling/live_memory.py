"""Peak bytes of the tensors that a stretch of work makes and holds, seen operation by operation, on
any device.

What an operation uses inside itself (a library's scratch space) is not in it: that differs between
libraries and is gone after it."""

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """`with LiveTensors() as live: ...`, then `live.peak_bytes`: the most that tensors made inside
    held at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs or {}))
            if isinstance(leaf, torch.Tensor)
        }
        out = func(*args, **(kwargs or {}))
        self._live = {
            key: (ref, size) for key, (ref, size) in self._live.items() if not ref.expired()
        }
        for leaf in tree_leaves(out):
            if (
                isinstance(leaf, torch.Tensor)
                and (storage := leaf.untyped_storage())._cdata not in given | self._live.keys()
            ):
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._live.values()))
        return out
