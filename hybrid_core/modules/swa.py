"""Sliding-window attention with sinks; its cache never grows beyond window + sink. Costs: costs/swa.py."""

import torch
from torch import Tensor

from hybrid_core.modules.attention import Attention, remember
from hybrid_core.modules.cache import CacheDtypes, Position, WindowCache
from hybrid_core.spec import SwaMixer
from kernels.attention import attention


class SlidingWindowAttention(Attention):
    """Attention in which a query sees the last `window` positions, itself included, and the first `sink` ones."""

    spec: SwaMixer

    def attend(self, q: Tensor, k: Tensor, v: Tensor, cache: WindowCache | None, start: Position) -> Tensor:  # type: ignore[override]
        if isinstance(start, Tensor):
            k, v, attend = remember(k, v, cache, start)
            return attend(q, k, v).flatten(2)
        window, sink, gap = self.spec.window, self.spec.sink, 0
        if cache is not None and q.shape[1] == 1:
            k, v = cache.append_one(k, v, start)
            window = sink = 0  # all that the cache holds may be seen
        elif cache is not None:
            k, v, gap = cache.append(k, v, start)
        return attention(q, k, v, window=window, sink=sink, gap=gap).flatten(2)

    def new_cache(self, batch: int, capacity: int, dtypes: CacheDtypes, device: torch.device) -> WindowCache:  # type: ignore[override]
        slots = min(capacity, self.spec.window + self.spec.sink)
        return WindowCache(*self._slots(batch, slots, dtypes, device), self.spec.window, self.spec.sink)
