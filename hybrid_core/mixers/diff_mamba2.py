"""Differential Mamba-2. Twin of live/modules/diff_mamba2.py."""

from dataclasses import dataclass
from typing import ClassVar

from hybrid_core.mixers.base import Entry, Mixer, Sections, needs_mamba2
from hybrid_core.mixers.fusion import DiffFusion, DiffScalar, Norm
from hybrid_core.mixers.mamba2 import Mamba2HeadsCosts, Mamba2Mixer
from hybrid_core.terms import MixerCosts, Num, Term, Terms, product, widest
from hybrid_core.validation import divides
from hybrid_core.workload import Workload


class DiffMamba2Mixer(Mamba2Mixer):
    """Differential Mamba-2: two branches of half the inner width, each with its own z, x, B, C and
    dt.

    Heads of one group share B and C. So the two branches are the two halves of the groups of one
    Mamba-2 layer, and `n_groups` counts the groups of both."""

    entry: ClassVar[Entry] = Entry(
        name="diff_mamba2",
        meaning="Two Mamba-2 branches of half the width, one minus lambda times the other.",
        label="Differential Mamba-2",
        letter="N",
        colour="#F0E442",
        module="hybrid_core.live.modules.diff_mamba2:DiffMamba2",
        short="differential Mamba",
        sections=("diff", "ssm"),
        matrices=("in_proj", "out"),
    )
    n_branches: ClassVar[int] = 2
    norm: Norm
    scalar: DiffScalar
    fusion: DiffFusion

    def costs(self, d_model: int) -> MixerCosts:
        return DiffMamba2Costs(self, d_model)

    @classmethod
    def check_sections(cls, sections: Sections) -> None:
        super().check_sections(sections)
        needs_mamba2(sections, "N")
        ssm = sections["ssm"]
        divides(
            "ssm.d_ssm / head_dim",
            ssm.d_ssm // ssm.head_dim,
            "2 * n_groups, for the two branches of kind N",
            2 * ssm.n_groups,
        )

    @classmethod
    def from_sections(cls, sections: Sections) -> Mixer:
        ssm = sections["ssm"]
        both = ssm.mixer().model_dump() | {"n_groups": 2 * ssm.n_groups}
        return cls(**both, **sections["diff"].model_dump())


@dataclass(frozen=True)
class DiffMamba2Costs(Mamba2HeadsCosts):
    """The heads of both branches, a norm, lambda, and an output projection per branch."""

    spec: DiffMamba2Mixer

    def params(self) -> dict[str, int]:
        s = self.spec
        norm = s.d_ssm if s.norm == "group" else 0
        # lambda is computed from four vectors. B and C act as key and query, so the vectors are
        # d_state wide.
        scalar = 4 * s.d_state if s.scalar == "diff_t" else 0
        own = {"norm": norm, "scalar": scalar, "out": s.d_ssm * self.d_model}
        return super().params() | own

    def forward_flops(self, seq_len: Num) -> Terms:
        return [*super().forward_flops(seq_len), self._out(seq_len)]

    def decode_flops(self, context_len: Num) -> Terms:
        return [*super().decode_flops(context_len), self._out(1)]

    def _out(self, tokens: Num) -> Term:
        return product("out", tokens, self.spec.d_ssm, self.d_model)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """The peak is at one of four moments of `DiffMamba2.forward`
        (live/modules/diff_mamba2.py): the gated scan, the norm, the join of both branches, or the
        output projection."""
        s = self.spec
        channel = seq_len * workload.element_bytes  # bytes of one channel of all tokens
        branch = s.d_ssm / 2
        held = 2 * branch  # both branches as they leave the norm
        if s.scalar == "diff_t":
            held += branch  # the second branch times lambda
        signed = branch  # the second branch times its sign, gone before the projection
        joined = s.d_ssm
        channels = widest(
            3 * s.d_ssm if s.norm == "group" else 0,
            held + signed + joined,
            held + joined + self.d_model,
        )
        return widest(self.gated_workspace(seq_len, workload), channel * channels)
