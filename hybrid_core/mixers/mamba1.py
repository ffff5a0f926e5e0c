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
    """Fields of a Mamba-1 layer, shared with the section `ssm`. `dt_rank` is d_model / 16 in the
    published models.

    `dt_bc_norm`: RMSNorm of dt (before it is expanded from its rank), B and C, as in Jamba.
    `dt_bc_weight` False: these norms have no weights and use `dt_bc_eps`, as in Falcon-Mamba.
    `n_heads`: number of heads that the channels are split into, each with its own dt, B and C, as
    in Zamba."""

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
    """Mamba-1 (arXiv 2312.00752): a decay per channel and state. dt goes through a bottleneck of
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
        """A smaller mixer. `d_ssm`: its width, if an enclosing mixer sets it."""
        width = d_ssm or scaled(self.d_ssm, factors.width, 16)
        return self.changed(
            d_ssm=width,
            d_state=scaled(self.d_state, factors.state),
            dt_rank=scaled(self.dt_rank, factors.width, 1, 4),
            n_heads=gcd(self.n_heads, width),
        )


class _Kind(Frozen):
    """The field `kind`. It has its own base class so that it comes first in YAML."""

    kind: Literal["mamba1"] = "mamba1"


class Mamba1Section(Mamba1Fields, _Kind):
    """The section `ssm` as Mamba-1."""

    def mixer(self) -> Mamba1Mixer:
        """A layer of kind M."""
        return Mamba1Mixer(**self.model_dump(exclude={"kind"}))


# How the eager scan cuts a sequence (kernels/selective_scan/eager.py).
PIECE, LANES, CACHED = 256, 16, 2**18


@dataclass(frozen=True)
class Mamba1HeadsCosts:
    """Projection to x and z, convolution, projections to dt, B and C, selective scan and gate,
    without the output projection."""

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
            "in_proj": self.d_model * self.d_in_proj,
            "conv": s.d_ssm * s.d_conv + s.d_ssm * s.conv_bias,
            "x_proj": s.d_ssm * self.d_x_proj,
            "dt_proj": s.dt_rank * s.d_ssm + s.d_ssm,
            "A, D": s.d_ssm * s.d_state + s.d_ssm,
            "dt_bc_norm": self.d_x_proj if s.dt_bc_norm and s.dt_bc_weight else 0,
            "in_bias": self.d_in_proj * s.proj_bias,
        }

    def forward_flops(self, seq_len: Num) -> Terms:
        """The scan takes 5 FLOPs per token and state element: dt x B (1), decay and add (2),
        product with C and sum (2)."""
        s = self.spec
        return [
            product("in_proj", seq_len, self.d_model, self.d_in_proj),
            Term("conv", 2 * seq_len * s.d_conv * s.d_ssm, "conv"),
            product("x_proj", seq_len, s.d_ssm, self.d_x_proj),
            product("dt_proj", seq_len, s.dt_rank, s.d_ssm),
            Term("scan", 5 * seq_len * s.d_ssm * s.d_state, "scan"),
        ]

    def decode_flops(self, context_len: Num) -> Terms:
        """One token costs the same at any position."""
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
        """Appendix C, parallel scan: 3 (9 d_ssm d_state + 2 d_ssm) per token. It does not depend on
        how A is shared."""
        return 3 * (9 * self.spec.d_ssm * self.spec.d_state + 2 * self.spec.d_ssm)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """Appendix C: 2 (d_ssm d_state + d_conv d_ssm) bytes. Only x is convolved."""
        s = self.spec
        return 2 * (s.d_ssm * s.d_state + s.d_conv * s.d_ssm)

    # ------------------------------------------------------------ workspace

    def gated_workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Bytes at the peak of `Mamba1Heads.scan` and the gate (live/modules/mamba1.py).

        `self.in_proj(hidden)` stays alive until the end, because z is a view of it. The peak on top
        of it is at one of four moments: the convolution, the norms of dt, B and C, dt's projection,
        or the scan."""
        s = self.spec
        channel = seq_len * workload.element_bytes  # bytes of one channel of all tokens
        exact_channel = 4 * seq_len  # of one channel in float32
        x = channel * s.d_ssm
        dt_bc = channel * self.d_x_proj  # dt at its rank, B and C: views of one tensor
        kept_bc = dt_bc
        normed = dt_bc
        if s.dt_bc_norm:
            normed = 2 * dt_bc
            # Norms create new tensors. Those of B and C stay alive, and dt_bc is freed.
            kept_bc = channel * 2 * s.d_state
        conv = 3 * x  # the padded input, and two partial sums
        dt = exact_channel * s.d_ssm
        # Outputs of the pieces, their join, and the join rounded.
        joined = (2 * exact_channel + channel) * s.d_ssm
        pieces = self._pieces_workspace(seq_len, workload.batch_size)
        return channel * self.d_in_proj + widest(
            conv,
            x + normed,
            x + dt_bc + 2 * dt,  # dt plus its bias, and its softplus
            x + kept_bc + dt + widest(pieces, joined),
        )

    def _pieces_workspace(self, seq_len: Num, batch_size: int) -> Num:
        """Bytes at the peak of the scan's loop over pieces (kernels/selective_scan/eager.py), all
        float32. Outputs of earlier pieces are alive during the last piece."""
        s = self.spec
        states = batch_size * s.d_ssm * s.d_state
        lanes = LANES if LANES * states <= CACHED else 1
        moments = []
        for before, length in last_pieces(seq_len, PIECE):
            bc = 2 * s.d_state * length
            channels = before + self._piece_workspace(length, lanes)
            moments.append(s.d_ssm * channels + bc)
        return 4 * widest(*moments)

    def _piece_workspace(self, length: Num, lanes: int) -> Num:
        """Elements per channel inside a piece of `length` tokens (`_piece`), without B and C.

        First moment, the loop over tokens: dt, dt * x and the outputs `ys`, plus four tensors of
        states. Second moment: `ys` stacked. With several lanes there are also `elapsed`, the padded
        outputs, the contribution of the state that entered each lane (`late`), its sum with y, and
        their join."""
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
        out = product("out", seq_len, self.spec.d_ssm, self.d_model)
        return [*super().forward_flops(seq_len), out]

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """The peak is in the gated scan or in the output projection, where x and z, the gated
        output and the layer's output are alive."""
        channel = seq_len * workload.element_bytes
        out = channel * (self.d_in_proj + self.spec.d_ssm + self.d_model)
        return widest(self.gated_workspace(seq_len, workload), out)
