"""Differential attention. Twin of live/modules/diff_attention.py."""

from dataclasses import dataclass
from typing import ClassVar, Self

from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.attention import ATTENTION_MATRICES, AttentionCosts, AttentionMixer
from hybrid_core.mixers.base import Entry, Mixer, Sections
from hybrid_core.mixers.fusion import DiffFusion, DiffScalar, Norm
from hybrid_core.terms import Num, widest
from hybrid_core.validation import Dim, divides, quiet
from hybrid_core.workload import Workload


class DiffAttentionMixer(AttentionMixer):
    """Differential attention (arXiv 2410.05258). Heads i and i + n_heads/2 form a pair. Each has
    its own softmax map. Both read the same value, which is two heads wide (2 `v_head_dim`).
    Projections and cache are those of plain attention.

    `shared_norm`: all pairs share one norm weight. `window`: how many tokens a query sees. Both are
    from Phi-4-mini-flash."""

    entry: ClassVar[Entry] = Entry(
        name="diff_attention",
        meaning="Two softmax maps, one minus lambda times the other, which cancels noise.",
        label="Differential attention",
        letter="D",
        colour="#CC79A7",
        module="hybrid_core.live.modules.diff_attention:DiffAttention",
        short="differential attention",
        sections=("diff", "attention"),
        matrices=ATTENTION_MATRICES,
    )
    heads_step: ClassVar[int] = 2
    norm: Norm
    scalar: DiffScalar
    fusion: DiffFusion
    shared_norm: bool = quiet(False)
    window: Dim | None = quiet(None)

    @property
    def span(self) -> int | None:
        return self.window

    @property
    def pair_width(self) -> int:
        """Width of a pair's value."""
        return 2 * self.v_head_dim

    def costs(self, d_model: int) -> "DiffAttentionCosts":
        return DiffAttentionCosts(self, d_model)

    @classmethod
    def check_sections(cls, sections: Sections) -> None:
        super().check_sections(sections)
        for key in ("n_heads", "n_kv_heads"):
            n_heads = getattr(sections["attention"], key)
            divides(f"attention.{key}", n_heads, "2, for the pairs of kind D", 2)

    @classmethod
    def from_sections(cls, sections: Sections) -> Mixer:
        heads = sections["attention"].mixer_fields()
        return cls(**heads, **sections["diff"].model_dump())

    def shrunk(self, factors: Factors) -> Self:
        window = None if self.window is None else scaled(self.window, factors.length)
        return self.changed(**self._small_heads(factors), window=window)


@dataclass(frozen=True)
class DiffAttentionCosts(AttentionCosts):
    """Attention whose heads read values of twice the width, so the sum of values costs double."""

    spec: DiffAttentionMixer

    def params(self) -> dict[str, int]:
        s = self.spec
        norm = 0
        if s.norm == "group":
            norm = s.pair_width if s.shared_norm else self.d_out
        # lambda is computed from four vectors of head_dim (arXiv 2410.05258, equation 2).
        scalar = 4 * s.head_dim if s.scalar == "diff_t" else 0
        return super().params() | {"norm": norm, "scalar": scalar}

    def _pair_flops(self) -> int:
        return 2 * self.spec.n_heads * (self.spec.head_dim + self.spec.pair_width)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """The peak is that of plain attention, or it comes after both kernel calls of
        live/modules/diff_attention.py: `first`, `second` and what `look` computes from them."""
        channel = seq_len * workload.element_bytes  # bytes of one channel of all tokens
        # Alive at once, each d_out wide: first, second and their scaled or subtracted forms.
        outputs = 3
        if self.spec.norm == "group":
            outputs = 4
            # The norm of a single pair is one operation. Its factor 1 - lambda follows.
            several_pairs = self.spec.n_heads > 2
            if several_pairs or self.spec.scalar == "diff_t":
                outputs = 5
        return widest(
            super().workspace(seq_len, workload),
            channel * (self._operands(workload) + outputs * self.d_out),
        )

    def _kernel(self, seq_len: Num, channel: Num, batch_size: int) -> Num:
        """Bytes during the second of two kernel calls, each with half the heads. The first call's
        output is still alive.

        Queries and keys are padded to the width of a pair's value. Log-sum-exps are float32."""
        s = self.spec
        both_outputs = 2 * channel * self.d_out
        padded_heads = s.n_heads + s.n_kv_heads
        padded = channel * padded_heads // 2 * s.pair_width
        log_sum_exp = 2 * seq_len * s.n_heads
        return both_outputs + padded + log_sum_exp
