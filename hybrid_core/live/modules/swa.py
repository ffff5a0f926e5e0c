"""Sliding-window attention with sinks; its cache never grows beyond window + sink tokens.

The closed forms are in mixers/swa.py.
"""

from functools import partial

import torch
from torch import Tensor

from hybrid_core.live.modules.attention import Attention, AttentionHeads, Seen, remember
from hybrid_core.live.modules.cache import CacheDtypes, Position, WindowCache
from hybrid_core.mixers.swa import SwaMixer
from kernels.attention import attention


class WindowHeads(AttentionHeads):
    """Heads in which a query sees the last `window` positions and the first `sink` ones.

    The last position of the window is the query's own.
    """

    spec: SwaMixer

    def remember(  # type: ignore[override]
        self,
        k: Tensor,
        v: Tensor,
        cache: WindowCache | None,
        start: Position,
    ) -> Seen:
        if isinstance(start, Tensor):
            return remember(k, v, cache, start)
        gap = 0
        if cache is not None and k.shape[1] == 1:
            # A single query may see all that the cache holds, so it needs no mask.
            k, v = cache.append_one(k, v, start)
            return Seen(k, v, attention)
        if cache is not None:
            k, v, gap = cache.append(k, v, start)
        windowed = partial(
            attention,
            window=self.spec.window,
            sink=self.spec.sink,
            gap=gap,
        )
        return Seen(k, v, windowed)

    def new_cache(  # type: ignore[override]
        self,
        batch: int,
        capacity: int,
        dtypes: CacheDtypes,
        device: torch.device,
    ) -> WindowCache:
        slots = min(capacity, self.spec.window + self.spec.sink)
        k, v = self._slots(batch, slots, dtypes, device)
        return WindowCache(k, v, self.spec.window, self.spec.sink)


class SlidingWindowAttention(WindowHeads, Attention):
    """The heads plus the output projection."""
