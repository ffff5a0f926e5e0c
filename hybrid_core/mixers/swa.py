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
    """The section `swa`: a sliding window with sinks. Heads come from the section `attention`. The
    defaults are the paper's (Appendix E)."""

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
        # Windowed layers have their own theta and no RoPE scaling (Appendix E).
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
    """Attention in which token t sees min(t, window + sink) tokens. The cache holds the same
    number."""

    spec: SwaMixer

    @property
    def reads_back(self) -> bool:
        # The cache has dropped tokens that early queries of the prompt can still see.
        return False

    def _kernel(self, seq_len: Num, channel: Num, batch_size: int) -> Num:
        """Bytes that one kernel call adds (kernels/attention/eager.py).

        A prompt within the window takes the plain kernel. A longer one goes through `_windowed`,
        block by block of queries. The peak is either the join of the blocks' outputs, or the last
        block: outputs so far, a copy of the keys and values that it can reach, and its mask."""
        s = self.spec
        width = max(s.head_dim, s.v_head_dim)
        block = least(seq_len, max(64, s.window // 4))
        reach = least(seq_len, s.sink + s.window + block)  # keys that a block can see
        # All sequences share one boolean mask and two arrays of key positions (int64).
        mask = (block * reach + 16 * reach) / batch_size
        outputs = channel * s.n_heads * width
        copied_kv: Num = 0
        if s.sink:  # sinks and window are not adjacent, so they are joined in a copy
            element = channel / seq_len
            copied_kv = element * reach * 2 * s.n_kv_heads * width
        plain = super()._kernel(seq_len, channel, batch_size)
        padding: Num = 0
        if s.head_dim != s.v_head_dim:
            padding = plain - outputs
        windowed = outputs + widest(outputs, copied_kv + mask) + padding
        return np.where(seq_len > s.window, windowed, plain)
