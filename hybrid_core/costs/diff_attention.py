"""Costs of differential attention. Twin of modules/diff_attention.py."""

from dataclasses import dataclass

from hybrid_core.costs.attention import AttentionCosts
from hybrid_core.costs.terms import Num, widest
from hybrid_core.spec import DiffAttentionMixer
from hybrid_core.workload import Workload


@dataclass(frozen=True)
class DiffAttentionCosts(AttentionCosts):
    """Attention whose heads read values of twice the width: projections and cache are plain, the sum of values costs double."""

    spec: DiffAttentionMixer

    def params(self) -> dict[str, int]:
        s = self.spec
        weights = s.pair_width if s.shared_norm else self.d_out
        own = {"norm": weights if s.norm == "group" else 0, "scalar": 4 * s.head_dim if s.scalar == "diff_t" else 0}
        return super().params() | own

    def _pair_flops(self) -> int:
        return 2 * self.spec.n_heads * (self.spec.head_dim + self.spec.pair_width)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Plain attention's, whose kernel is called for one map and then, beside its output, for the other; then lambda, fusion, norm."""
        rows = seq_len * workload.element_bytes
        more = self.spec.n_heads > 2 or self.spec.scalar == "diff_t"  # the norm of a single pair is one operation; then comes its factor
        outputs = 4 + more if self.spec.norm == "group" else 3
        return widest(super().workspace(seq_len, workload), rows * (self._operands(workload) + outputs * self.d_out))

    def _kernel(self, seq_len: Num, rows: Num, batch_size: int) -> Num:
        padded = rows * (self.spec.n_heads + self.spec.n_kv_heads) // 2 * self.spec.pair_width
        return 2 * rows * self.d_out + padded + 2 * seq_len * self.spec.n_heads
