"""Costs of Mamba-2, and of the head group that the intra-hybrid block shares. Twin of modules/mamba2.py."""

from dataclasses import dataclass

from hybrid_core.costs.terms import CacheTensor, Num, linear
from hybrid_core.spec import Mamba2Mixer


@dataclass(frozen=True)
class Mamba2HeadsCosts:
    """Input projection, convolution and scan, without gated norm and output projection. `own_x`: x has its own projection."""

    spec: Mamba2Mixer
    d_model: int
    own_x: bool = True

    @property
    def d_in_proj(self) -> int:
        """z, x (unless shared), B, C, dt."""
        s = self.spec
        return (2 if self.own_x else 1) * s.d_ssm + 2 * s.n_groups * s.d_state + s.n_heads

    def params(self) -> dict[str, int]:
        s = self.spec
        return {
            "in_proj": self.d_model * self.d_in_proj,
            "conv": s.d_xbc * s.d_conv + s.d_xbc,
            "A, D, dt_bias": 3 * s.n_heads,
        }

    def _chunk_flops(self, length: Num) -> Num:
        """One chunk of the SSD scan: C B^T per group, then per head the masked product with x, the chunk's state, the part
        that the incoming state adds, and the state's multiply-add (arXiv 2405.21060, Section 6)."""
        s = self.spec
        per_head = 2 * length**2 * s.head_dim + 4 * length * s.d_state * s.head_dim + 2 * s.d_state * s.head_dim
        return s.n_groups * 2 * length**2 * s.d_state + s.n_heads * per_head

    def forward_flops(self, seq_len: Num) -> dict[str, Num]:
        s = self.spec
        whole, rest = seq_len // s.chunk_size, seq_len % s.chunk_size
        return {
            "in_proj": linear(seq_len, self.d_model, self.d_in_proj),
            "conv": 2 * seq_len * s.d_conv * s.d_xbc,
            "scan": whole * self._chunk_flops(s.chunk_size) + (rest > 0) * self._chunk_flops(rest),
        }

    def decode_flops(self, context_len: Num) -> dict[str, Num]:
        """The scan's step per state element: dt x B (1), decay and add (2), product with C and sum (2)."""
        s = self.spec
        return {
            "in_proj": linear(1, self.d_model, self.d_in_proj),
            "conv": 2 * s.d_conv * s.d_xbc,
            "scan": 5 * s.d_ssm * s.d_state,
        }

    def cache(self, context_len: Num) -> list[CacheTensor]:
        s = self.spec
        return [
            CacheTensor("state", s.d_ssm * s.d_state, "state"),
            CacheTensor("conv", (s.d_conv - 1) * s.d_xbc, "conv"),
        ]

    def paper_train_flops(self, context_len: Num) -> Num:
        """3 (9 d_ssm d_state + 2 d_ssm), whatever the length (Appendix C)."""
        return 3 * (9 * self.spec.d_ssm * self.spec.d_state + 2 * self.spec.d_ssm)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """2 (d_ssm d_state + d_conv (2 d_state + d_ssm)) (Appendix C)."""
        s = self.spec
        return 2 * (s.d_ssm * s.d_state + s.d_conv * s.d_xbc)

    def workspace(self, seq_len: Num) -> Num:
        """Projections, the convolution's padded input and its output before and after SiLU, y by chunks and whole."""
        return seq_len * (self.d_in_proj + 3 * self.spec.d_xbc + 2 * self.spec.d_ssm)


@dataclass(frozen=True)
class Mamba2Costs(Mamba2HeadsCosts):
    """The heads plus gated norm and output projection."""

    def params(self) -> dict[str, int]:
        return super().params() | {"norm": self.spec.d_ssm, "out": self.spec.d_ssm * self.d_model}

    def forward_flops(self, seq_len: Num) -> dict[str, Num]:
        return super().forward_flops(seq_len) | {"out": linear(seq_len, self.spec.d_ssm, self.d_model)}

    def decode_flops(self, context_len: Num) -> dict[str, Num]:
        return super().decode_flops(context_len) | {"out": linear(1, self.spec.d_ssm, self.d_model)}
