"""Sliding-window attention with sinks; its cache never grows beyond window + sink tokens.

The window is that of Longformer (arXiv 2004.05150) and Mistral (arXiv 2310.06825). The sinks (the
first tokens, which stay visible) are those of StreamingLLM (arXiv 2309.17453). The closed forms are
in mixers/swa.py; shape letters as in attention.py.
"""

from functools import partial

import torch
from torch import Tensor

from hybrid_core.live.modules.attention import Attention, AttentionHeads, Seen
from hybrid_core.live.modules.cache import CacheDtypes, Position, WindowCache
from hybrid_core.mixers.swa import SwaMixer
from kernels.attention import attention


class WindowHeads(AttentionHeads):
    """Heads in which a query sees the last `window` positions and the first `sink` ones.

    The window includes the query's own position.
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
            return super().remember(k, v, cache, start)
        if cache is None:
            return self._windowed(k, v, gap=0)
        if k.shape[1] == 1:
            # A single query may see everything in the cache, so it needs no mask.
            k, v = cache.append_one(k, v, start)
            return Seen(k, v, attention)
        k, v, gap = cache.append(k, v, start)
        return self._windowed(k, v, gap)

    def _windowed(self, k: Tensor, v: Tensor, gap: int) -> Seen:
        """Keys and values with a mask; `gap` positions are missing after the sinks."""
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
    """x [B, T, d_model] -> [B, T, d_model]: windowed heads, then the output projection."""
