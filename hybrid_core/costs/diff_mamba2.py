"""Costs of differential Mamba-2. Twin of modules/diff_mamba2.py."""

from dataclasses import dataclass

from hybrid_core.costs.mamba2 import Mamba2HeadsCosts
from hybrid_core.costs.terms import Num, Terms, product, widest
from hybrid_core.spec import DiffMamba2Mixer
from hybrid_core.workload import Workload


@dataclass(frozen=True)
class DiffMamba2Costs(Mamba2HeadsCosts):
    """The heads of both branches, whose groups `spec.n_groups` counts, norm, lambda, and a projection per branch."""

    spec: DiffMamba2Mixer

    def params(self) -> dict[str, int]:
        s = self.spec
        own = {"norm": s.d_ssm if s.norm == "group" else 0, "scalar": 4 * s.d_state if s.scalar == "diff_t" else 0}
        return super().params() | own | {"out": s.d_ssm * self.d_model}

    def forward_flops(self, seq_len: Num) -> Terms:
        return [*super().forward_flops(seq_len), product("out", seq_len, self.spec.d_ssm, self.d_model)]

    def decode_flops(self, context_len: Num) -> Terms:
        return [*super().decode_flops(context_len), product("out", 1, self.spec.d_ssm, self.d_model)]

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """The gated scan; norm; the second branch scaled, its sign, and the join of both; the output projection."""
        s, rows = self.spec, seq_len * workload.element_bytes
        joined = s.d_ssm * (2.5 + (0.5 if s.scalar == "diff_t" else 0))
        return widest(
            self.gated_workspace(seq_len, workload),
            rows * widest(3 * s.d_ssm if s.norm == "group" else 0, joined, joined - s.d_ssm / 2 + self.d_model),
        )
