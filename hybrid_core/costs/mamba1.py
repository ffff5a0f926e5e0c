"""Costs of Mamba-1 (arXiv 2312.00752). Twin of modules/mamba1.py."""

from dataclasses import dataclass

from hybrid_core.costs.terms import CacheTensor, Num, linear
from hybrid_core.spec import Mamba1Mixer


@dataclass(frozen=True)
class Mamba1Costs:
    """Projection to x and z, convolution, projections to dt, B, C, selective scan, gate, output projection."""

    spec: Mamba1Mixer
    d_model: int

    @property
    def d_x_proj(self) -> int:
        """dt at its rank, B, C."""
        return self.spec.dt_rank + 2 * self.spec.d_state

    def params(self) -> dict[str, int]:
        s = self.spec
        return {
            "in_proj": self.d_model * 2 * s.d_ssm,
            "conv": s.d_ssm * s.d_conv + s.d_ssm,
            "x_proj": s.d_ssm * self.d_x_proj,
            "dt_proj": s.dt_rank * s.d_ssm + s.d_ssm,
            "A, D": s.d_ssm * s.d_state + s.d_ssm,
            "norm": self.d_x_proj if s.dt_bc_norm else 0,
            "out": s.d_ssm * self.d_model,
        }

    def forward_flops(self, seq_len: Num) -> dict[str, Num]:
        """The scan per token and state element: dt x B (1), decay and add (2), product with C and sum (2)."""
        s = self.spec
        return {
            "in_proj": linear(seq_len, self.d_model, 2 * s.d_ssm),
            "conv": 2 * seq_len * s.d_conv * s.d_ssm,
            "x_proj": linear(seq_len, s.d_ssm, self.d_x_proj),
            "dt_proj": linear(seq_len, s.dt_rank, s.d_ssm),
            "scan": 5 * seq_len * s.d_ssm * s.d_state,
            "out": linear(seq_len, s.d_ssm, self.d_model),
        }

    def decode_flops(self, context_len: Num) -> dict[str, Num]:
        """One token costs the same wherever it stands."""
        return self.forward_flops(1)

    def cache(self, context_len: Num) -> list[CacheTensor]:
        s = self.spec
        return [
            CacheTensor("state", s.d_ssm * s.d_state, "state"),
            CacheTensor("conv", (s.d_conv - 1) * s.d_ssm, "conv"),
        ]

    def paper_train_flops(self, context_len: Num) -> Num:
        """3 (9 d_ssm d_state + 2 d_ssm), the parallel scan of Appendix C, which does not depend on how A is shared."""
        return 3 * (9 * self.spec.d_ssm * self.spec.d_state + 2 * self.spec.d_ssm)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """2 (d_ssm d_state + d_conv d_ssm): Appendix C, where only x is convolved."""
        s = self.spec
        return 2 * (s.d_ssm * s.d_state + s.d_conv * s.d_ssm)

    def workspace(self, seq_len: Num) -> Num:
        """x and z, the convolution's padded input and its output before and after SiLU, dt in float32 (two elements), dt x, y, and the
        narrow projection; the scan's states are held for a few tokens only."""
        return seq_len * (9 * self.spec.d_ssm + self.d_x_proj)
