"""Sliding-window attention with sinks; its cache never grows beyond window + sink. Costs:
costs/swa.py."""

from functools import partial

import torch
from torch import Tensor

from hybrid_core.live.modules.attention import Attention, AttentionHeads, Seen, remember
from hybrid_core.live.modules.cache import CacheDtypes, Position, WindowCache
from hybrid_core.mixers.swa import SwaMixer
from kernels.attention import attention


class WindowHeads(AttentionHeads):
    """Heads in which a query sees the last `window` positions, itself included, and the first
    `sink` ones."""

    spec: SwaMixer

    def remember(self, k: Tensor, v: Tensor, cache: WindowCache | None, start: Position) -> Seen:  # type: ignore[override]
        if isinstance(start, Tensor):
            return remember(k, v, cache, start)
        gap = 0
        if cache is not None and k.shape[1] == 1:
            return Seen(
                *cache.append_one(k, v, start), attention
            )  # all that the cache holds may be seen
        if cache is not None:
            k, v, gap = cache.append(k, v, start)
        return Seen(k, v, partial(attention, window=self.spec.window, sink=self.spec.sink, gap=gap))

    def new_cache(
        self, batch: int, capacity: int, dtypes: CacheDtypes, device: torch.device
    ) -> WindowCache:  # type: ignore[override]
        slots = min(capacity, self.spec.window + self.spec.sink)
        return WindowCache(
            *self._slots(batch, slots, dtypes, device), self.spec.window, self.spec.sink
        )


class SlidingWindowAttention(WindowHeads, Attention):
    """The heads plus the output projection."""
