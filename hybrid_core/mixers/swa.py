"""Sliding-window attention with sinks. Twin of live/modules/swa.py."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hybrid_core.mixers.attention import AttentionCosts, AttentionMixer
from hybrid_core.terms import Num, least, widest
from hybrid_core.validation import Count, Dim


class SwaMixer(AttentionMixer):
    """Attention in which a query sees the last `window` positions (itself included) and the first
    `sink`."""

    kind: ClassVar[str] = "swa"
    letter: ClassVar[str] = "S"
    window: Dim
    sink: Count = 0

    def costs(self, d_model: int) -> "SwaCosts":
        return SwaCosts(self, d_model)


@dataclass(frozen=True)
class SwaCosts(AttentionCosts):
    """Attention in which token t sees min(t, window + sink) tokens, and whose cache holds as
    many."""

    spec: SwaMixer

    @property
    def reads_back(self) -> bool:
        return False  # what falls out of the window is in the prompt alone

    def _kernel(self, seq_len: Num, rows: Num, batch_size: int) -> Num:
        """Beyond the window: the blocks' outputs and their join, or all but one block and that
        block's keys, values and mask."""
        s, width, element = self.spec, max(self.spec.head_dim, self.spec.v_head_dim), rows / seq_len
        block = least(seq_len, max(64, s.window // 4))
        reach = least(seq_len, s.sink + s.window + block)
        mask = (
            block * reach + 16 * reach
        ) / batch_size  # booleans and indices; one for all sequences
        heads = rows * s.n_heads * width
        copied = (
            element * reach * 2 * s.n_kv_heads * width if s.sink else 0
        )  # sinks and window are joined
        blocked = heads + widest(heads, copied + mask)
        return np.where(
            seq_len > s.window,
            blocked
            + (super()._kernel(seq_len, rows, batch_size) - heads) * (s.head_dim != s.v_head_dim),
            super()._kernel(seq_len, rows, batch_size),
        )
