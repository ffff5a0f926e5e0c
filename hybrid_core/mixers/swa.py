"""Sliding-window attention with sinks. Twin of live/modules/swa.py."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.attention import (
    ATTENTION_BUILT,
    ATTENTION_MATRICES,
    AttentionCosts,
    AttentionMixer,
)
from hybrid_core.mixers.base import Entry, Mixer, Sections
from hybrid_core.terms import Num, least, widest
from hybrid_core.validation import Count, Dim, Frozen, Theta


class SwaSection(Frozen):
    """The section `swa`: a sliding window with sinks; heads come from `attention`. Defaults are the
    paper's (Appendix E)."""

    window: Dim = 512
    sink: Count = 64
    rope_theta: Theta = 10_000.0


class SwaMixer(AttentionMixer):
    """Attention in which a query sees the last `window` positions (itself included) and the first
    `sink`."""

    entry: ClassVar[Entry] = Entry(
        name="swa",
        meaning="Attention to the last positions and a few of the first; its cache stops growing.",
        label="Sliding window",
        letter="S",
        colour="#E69F00",
        module="hybrid_core.live.modules.swa:SlidingWindowAttention",
        short="window",
        sections=("attention", "swa"),
        built=ATTENTION_BUILT,
        matrices=ATTENTION_MATRICES,
        symbols={"megatron": "*"},
    )
    window: Dim
    sink: Count = 0

    @property
    def span(self) -> int:
        return self.window + self.sink

    def costs(self, d_model: int) -> "SwaCosts":
        return SwaCosts(self, d_model)

    @classmethod
    def from_sections(cls, sections: Sections) -> Mixer:
        heads = sections["attention"].mixer_fields()
        # The window has a theta of its own, which is not scaled (Appendix E).
        own = sections["swa"].model_dump() | {"rope_scaling": None}
        return cls(**(heads | own))

    def shrunk(self, factors: Factors) -> Self:
        return self.changed(
            **self._small_heads(factors),
            window=scaled(self.window, factors.length),
            sink=scaled(self.sink, factors.length) if self.sink else 0,
        )


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
        s = self.spec
        width = max(s.head_dim, s.v_head_dim)
        element = rows / seq_len
        block = least(seq_len, max(64, s.window // 4))
        reach = least(seq_len, s.sink + s.window + block)
        # Booleans and indices, one mask for all sequences.
        mask = (block * reach + 16 * reach) / batch_size
        heads = rows * s.n_heads * width
        # Sinks and window are joined.
        copied = element * reach * 2 * s.n_kv_heads * width if s.sink else 0
        whole = super()._kernel(seq_len, rows, batch_size)
        padding = (whole - heads) * (s.head_dim != s.v_head_dim)
        blocked = heads + widest(heads, copied + mask) + padding
        return np.where(seq_len > s.window, blocked, whole)
