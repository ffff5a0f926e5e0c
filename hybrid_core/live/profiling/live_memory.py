"""Peak bytes of the tensors that some work keeps alive, operation by operation, on any device.

Scratch space inside an operation is not counted. It differs between libraries, and the operation
frees it before returning.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Storage(NamedTuple):
    reference: StorageWeakRef
    n_bytes: int


class LiveTensors(TorchDispatchMode):
    """`with LiveTensors() as live: ...`, then `live.peak_bytes`.

    This is the most bytes that tensors created inside the block took at the same time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        # Keyed by address. A weak reference keeps the address taken, so no later storage can get
        # it.
        self._live: dict[int, _Storage] = {}
        self._held_at_most = 0  # bytes of all in `_live`, including those freed since

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
        self._remember(out, given)
        # Checking all storages is slow, and only needed if there may be a new peak.
        if self._held_at_most > self.peak_bytes:
            self._forget_the_freed()
            self.peak_bytes = max(self.peak_bytes, self._held_at_most)
        return out

    def _remember(self, out: Any, given: set[int]) -> None:
        """Count the storages of an operation's results, except those of its arguments.

        A view of an argument, or an in-place operation, creates no new storage.
        """
        for storage in _storages(out):
            key = storage._cdata
            if key not in given and key not in self._live:
                n_bytes = storage.nbytes()
                self._live[key] = _Storage(StorageWeakRef(storage), n_bytes)
                self._held_at_most += n_bytes

    def _forget_the_freed(self) -> None:
        for key, storage in list(self._live.items()):
            if storage.reference.expired():
                del self._live[key]
                self._held_at_most -= storage.n_bytes


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    """The storage of each tensor in nested tuples, lists and dicts."""
    for leaf in tree_leaves(tree):
        if isinstance(leaf, torch.Tensor):
            yield leaf.untyped_storage()
