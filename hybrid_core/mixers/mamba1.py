"""Mamba-1 (arXiv 2312.00752). Twin of live/modules/mamba1.py."""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, gcd
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.base import Entry, Mixer
from hybrid_core.terms import CacheTensor, Num, Term, Terms, last_pieces, product, widest
from hybrid_core.validation import Dim, Epsilon, Frozen, divides, quiet
from hybrid_core.workload import Workload


class Mamba1Fields(Frozen):
    """What a Mamba-1 layer and the section `ssm` have in common. `dt_rank` is d_model / 16 in the
    published models.

    `dt_bc_norm`: RMSNorm of dt (at its rank), B and C, as in Jamba; `dt_bc_weight` False: without
    weights, and with an epsilon of its own, as in Falcon-Mamba. `n_heads`: channels in that many
    heads, each with its own dt, B and C, as in Zamba."""

    d_ssm: Dim
    d_state: Dim = 16
    d_conv: Dim = 4
    dt_rank: Dim
    dt_bc_norm: bool = False
    dt_bc_weight: bool = quiet(True)
    dt_bc_eps: Epsilon | None = quiet(None)
    n_heads: Dim = quiet(1)
    conv_bias: bool = quiet(True)
    proj_bias: bool = quiet(False)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        divides("d_ssm", self.d_ssm, "n_heads", self.n_heads)
        return self


MAMBA1_MATRICES = ("in_proj", "x_proj", "dt_proj", "out")


class Mamba1Mixer(Mamba1Fields, Mixer):
    """Mamba-1 (arXiv 2312.00752): a decay for every channel and state, dt through a bottleneck of
    `dt_rank`."""

    entry: ClassVar[Entry] = Entry(
        name="mamba1",
        meaning="A state of fixed size with a decay for every channel and state.",
        label="Mamba-1",
        letter="m",
        colour="#56B4E9",
        module="hybrid_core.live.modules.mamba1:Mamba1",
        built=frozenset({"dt_bc_weight", "dt_bc_eps", "n_heads", "proj_bias"}),
        matrices=MAMBA1_MATRICES,
    )

    def costs(self, d_model: int) -> "Mamba1Costs":
        return Mamba1Costs(self, d_model)

    @classmethod
    def usual(cls, d_model: int) -> Mixer:
        """The proportions of the published Mamba-1 models."""
        return cls(d_ssm=2 * d_model, dt_rank=ceil(d_model / 16))

    def shrunk(self, factors: Factors, d_ssm: int | None = None) -> Self:
        """`d_ssm`: the width that a mixer around this one decides."""
        width = d_ssm or scaled(self.d_ssm, factors.width, 16)
        return self.changed(
            d_ssm=width,
            d_state=scaled(self.d_state, factors.state),
            dt_rank=scaled(self.dt_rank, factors.width, 1, 4),
            n_heads=gcd(self.n_heads, width),
        )


class _Kind(Frozen):
    """The field `kind`, which a base class of its own puts first in YAML."""

    kind: Literal["mamba1"] = "mamba1"


class Mamba1Section(Mamba1Fields, _Kind):
    """The section `ssm` as Mamba-1, in place of Mamba-2."""

    def mixer(self) -> Mamba1Mixer:
        """A layer of kind M."""
        return Mamba1Mixer(**self.model_dump(exclude={"kind"}))


# How the eager scan cuts a sequence (kernels/selective_scan/eager.py).
PIECE, LANES, CACHED = 256, 16, 2**18


@dataclass(frozen=True)
class Mamba1HeadsCosts:
    """Projection to x and z, convolution, projections to dt, B, C, selective scan and gate, without
    the output projection."""

    spec: Mamba1Mixer
    d_model: int

    @cached_property
    def d_in_proj(self) -> int:
        """x and z."""
        return 2 * self.spec.d_ssm

    @cached_property
    def d_x_proj(self) -> int:
        """dt at its rank, B, C."""
        return self.spec.dt_rank + 2 * self.spec.d_state

    def params(self) -> dict[str, int]:
        s = self.spec
        return {
            "in_proj": self.d_model * 2 * s.d_ssm,
            "conv": s.d_ssm * s.d_conv + s.d_ssm * s.conv_bias,
            "x_proj": s.d_ssm * self.d_x_proj,
            "dt_proj": s.dt_rank * s.d_ssm + s.d_ssm,
            "A, D": s.d_ssm * s.d_state + s.d_ssm,
            "dt_bc_norm": self.d_x_proj if s.dt_bc_norm and s.dt_bc_weight else 0,
            "in_bias": 2 * s.d_ssm * s.proj_bias,
        }

    def forward_flops(self, seq_len: Num) -> Terms:
        """The scan per token and state element: dt x B (1), decay and add (2), product with C and
        sum (2)."""
        s = self.spec
        return [
            product("in_proj", seq_len, self.d_model, 2 * s.d_ssm),
            Term("conv", 2 * seq_len * s.d_conv * s.d_ssm, "conv"),
            product("x_proj", seq_len, s.d_ssm, self.d_x_proj),
            product("dt_proj", seq_len, s.dt_rank, s.d_ssm),
            Term("scan", 5 * seq_len * s.d_ssm * s.d_state, "scan"),
        ]

    def decode_flops(self, context_len: Num) -> Terms:
        """One token costs the same wherever it stands."""
        return self.forward_flops(1)

    def cache(self, context_len: Num) -> list[CacheTensor]:
        s = self.spec
        return [
            CacheTensor("state", s.d_ssm * s.d_state, "state"),
            CacheTensor("conv", (s.d_conv - 1) * s.d_ssm, "conv"),
        ]

    def reads(self, context_len: Num) -> list[CacheTensor]:
        return self.cache(context_len)

    def paper_train_flops(self, context_len: Num) -> Num:
        """3 (9 d_ssm d_state + 2 d_ssm), the parallel scan of Appendix C, which does not depend on
        how A is shared."""
        return 3 * (9 * self.spec.d_ssm * self.spec.d_state + 2 * self.spec.d_ssm)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """2 (d_ssm d_state + d_conv d_ssm): Appendix C, where only x is convolved."""
        s = self.spec
        return 2 * (s.d_ssm * s.d_state + s.d_conv * s.d_ssm)

    def gated_workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Beside the projection to x and z: the convolution (padded input, two partial sums); dt, B
        and C, also normed; dt in float32; the scan's pieces, then y in float32, by pieces, joined
        and rounded; the gate. B and C without a norm are parts of one tensor with dt, which stays;
        normed, they are tensors of their own."""
        s, width = self.spec, workload.element_bytes
        rows, exact = seq_len * width, 4 * seq_len
        narrow = rows * self.d_x_proj
        kept = rows * 2 * s.d_state if s.dt_bc_norm else narrow
        return rows * 2 * s.d_ssm + widest(
            3 * rows * s.d_ssm,
            rows * s.d_ssm + narrow * (2 if s.dt_bc_norm else 1),
            rows * s.d_ssm + narrow + 2 * exact * s.d_ssm,
            rows * s.d_ssm
            + kept
            + exact * s.d_ssm
            + widest(
                self._pieces_workspace(seq_len, workload.batch_size), (2 * exact + rows) * s.d_ssm
            ),
        )

    def _pieces_workspace(self, seq_len: Num, batch_size: int) -> Num:
        """Bytes inside the last piece of the scan (float32), beside the outputs of those before."""
        s = self.spec
        fits = LANES * batch_size * s.d_ssm * s.d_state <= CACHED
        lanes = LANES if fits else 1
        pieces = last_pieces(seq_len, PIECE)
        return 4 * widest(
            *(
                s.d_ssm * (before + self._piece_workspace(length, lanes)) + 2 * s.d_state * length
                for before, length in pieces
            )
        )

    def _piece_workspace(self, length: Num, lanes: int) -> Num:
        """Elements per channel, beside B and C: dt, dt x, y token by token and stacked, states.
        Lanes add elapsed dt, what entered them, its sum with y, and the join."""
        per_lane = widest(-(-length // lanes), 1)
        states = -(-length // per_lane) * self.spec.d_state
        if lanes == 1:
            return widest(3 * length + 4 * states, 4 * length + states)
        return widest(6 * length + 4 * states, 8 * length + 2 * states)


@dataclass(frozen=True)
class Mamba1Costs(Mamba1HeadsCosts):
    """The heads plus the output projection."""

    def params(self) -> dict[str, int]:
        return super().params() | {
            "out": self.spec.d_ssm * self.d_model,
            "out_bias": self.d_model * self.spec.proj_bias,
        }

    def forward_flops(self, seq_len: Num) -> Terms:
        return [
            *super().forward_flops(seq_len),
            product("out", seq_len, self.spec.d_ssm, self.d_model),
        ]

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """The gated scan; the output projection beside the projection to x and z."""
        rows = seq_len * workload.element_bytes
        return widest(
            self.gated_workspace(seq_len, workload), rows * (3 * self.spec.d_ssm + self.d_model)
        )
