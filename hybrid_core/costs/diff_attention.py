"""Costs of differential attention. Twin of modules/diff_attention.py."""

from dataclasses import dataclass

from hybrid_core.costs.attention import AttentionCosts
from hybrid_core.costs.terms import Num
from hybrid_core.spec import DiffAttentionMixer


@dataclass(frozen=True)
class DiffAttentionCosts(AttentionCosts):
    """Attention whose heads read values of twice the width: projections and cache are plain, the sum of values costs double."""

    spec: DiffAttentionMixer

    def params(self) -> dict[str, int]:
        s = self.spec
        own = {"norm": self.d_out if s.norm == "group" else 0, "scalar": 4 * s.head_dim if s.scalar == "diff_t" else 0}
        return super().params() | own

    def _pair_flops(self) -> int:
        return 2 * self.spec.n_heads * (self.spec.head_dim + self.spec.pair_width)

    def workspace(self, seq_len: Num) -> Num:
        """Plain attention's, with queries and keys padded to the values' width and both maps' outputs of that width."""
        s = self.spec
        padded = (s.n_heads + 2 * s.n_kv_heads) * s.pair_width
        return super().workspace(seq_len) + seq_len * (padded + s.n_heads * s.pair_width)
