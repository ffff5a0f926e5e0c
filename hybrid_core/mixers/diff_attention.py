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
    """Differential attention (arXiv 2410.05258): head i and head i + n_heads/2 are a pair, each
    with a softmax map of its own, and read the same value of two heads' width (2 `v_head_dim`).
    Projections and cache are those of plain attention.

    `shared_norm`: one weight for all pairs, as in Phi-4-mini-flash, which also windows some layers.
    """

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
    """Attention whose heads read values of twice the width: projections and cache are plain, the
    sum of values costs double."""

    spec: DiffAttentionMixer

    def params(self) -> dict[str, int]:
        s = self.spec
        weights = s.pair_width if s.shared_norm else self.d_out
        own = {
            "norm": (s.norm == "group") * weights,
            "scalar": (s.scalar == "diff_t") * 4 * s.head_dim,
        }
        return super().params() | own

    def _pair_flops(self) -> int:
        return 2 * self.spec.n_heads * (self.spec.head_dim + self.spec.pair_width)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Plain attention's, whose kernel is called for one map and then, beside its output, for
        the other; then lambda, fusion, norm."""
        rows = seq_len * workload.element_bytes
        # The norm of a single pair is one operation; then comes its factor.
        more = self.spec.n_heads > 2 or self.spec.scalar == "diff_t"
        outputs = 4 + more if self.spec.norm == "group" else 3
        return widest(
            super().workspace(seq_len, workload),
            rows * (self._operands(workload) + outputs * self.d_out),
        )

    def _kernel(self, seq_len: Num, rows: Num, batch_size: int) -> Num:
        padded = rows * (self.spec.n_heads + self.spec.n_kv_heads) // 2 * self.spec.pair_width
        return 2 * rows * self.d_out + padded + 2 * seq_len * self.spec.n_heads
