"""Mamba-2, and the head group that the intra-hybrid block shares. Twin of
live/modules/mamba2.py."""

from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.base import Entry, Mixer, Sections
from hybrid_core.terms import (
    CacheTensor,
    MixerCosts,
    Num,
    Term,
    Terms,
    last_pieces,
    product,
    widest,
)
from hybrid_core.validation import Dim, Frozen, PowerOfTwo, divides, quiet
from hybrid_core.workload import Workload


class Mamba2Fields(Frozen):
    """What a Mamba-2 layer and the section `ssm` have in common.

    `gated_norm`: the RMSNorm after the gate. `norm_first`: it stands before the gate. `in_bias`,
    `out_bias`, `conv_bias`: of the projections and the convolution. `dt_min`: dt is no smaller (the
    low end of a config's `time_step_limit`)."""

    d_ssm: Dim
    head_dim: Dim = 128
    d_state: Dim = 128
    d_conv: Dim = 4
    n_groups: Dim = 1
    chunk_size: PowerOfTwo = 128
    gated_norm: bool = quiet(True)
    norm_first: bool = quiet(False)
    conv_bias: bool = quiet(True)
    in_bias: bool = quiet(False)
    out_bias: bool = quiet(False)
    dt_min: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = quiet(None)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        divides("d_ssm", self.d_ssm, "head_dim", self.head_dim)
        divides("d_ssm / head_dim", self.d_ssm // self.head_dim, "n_groups", self.n_groups)
        return self


SMALL_HEAD_DIM = 32  # of a proxy
SMALL_CHUNK = 64


class Mamba2Mixer(Mamba2Fields, Mixer):
    """Mamba-2: scalar decay per head, inner width `d_ssm`, state `d_state` per channel.
    `chunk_size` is how the scan is computed."""

    entry: ClassVar[Entry] = Entry(
        name="mamba2",
        meaning="A state of fixed size with one decay per head, computed in chunks.",
        label="Mamba-2",
        letter="M",
        colour="#0072B2",
        module="hybrid_core.live.modules.mamba2:Mamba2",
        short="Mamba",
        sections=("ssm",),
        built=frozenset({"gated_norm", "norm_first", "in_bias", "out_bias", "dt_min"}),
        matrices=("in_proj", "out"),
        symbols={"megatron": "M"},
    )
    n_branches: ClassVar[int] = 1

    @property
    def n_heads(self) -> int:
        return self.d_ssm // self.head_dim

    @property
    def d_xbc(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.d_ssm + 2 * self.n_groups * self.d_state

    def costs(self, d_model: int) -> MixerCosts:
        return Mamba2Costs(self, d_model)

    @classmethod
    def from_sections(cls, sections: Sections) -> Mixer:
        """Mamba-2 or Mamba-1, as the section says."""
        mixer: Mixer = sections["ssm"].mixer()
        return mixer

    def shrunk(self, factors: Factors, d_ssm: int | None = None) -> Self:
        """Heads of SMALL_HEAD_DIM, or of the most below it that divides the width. `d_ssm`: the
        width that a mixer around this one decides."""
        width = d_ssm or scaled(self.d_ssm, factors.width, SMALL_HEAD_DIM * self.n_branches)
        head_dim = gcd(width, SMALL_HEAD_DIM)
        groups_fit = width // head_dim % self.n_groups == 0
        return self.changed(
            d_ssm=width,
            head_dim=head_dim,
            d_state=scaled(self.d_state, factors.state),
            n_groups=self.n_groups if groups_fit else self.n_branches,
            chunk_size=SMALL_CHUNK,
        )


class _Kind(Frozen):
    """The field `kind`, which a base class of its own puts first in YAML."""

    kind: Literal["mamba2"] = "mamba2"


class Mamba2Section(Mamba2Fields, _Kind):
    """The section `ssm` as Mamba-2. State, convolution and (unless it says otherwise) head width
    also serve the Mamba branch of an intra-hybrid block."""

    def mixer(self) -> Mamba2Mixer:
        """A layer of kind M."""
        return Mamba2Mixer(**self.model_dump(exclude={"kind"}))


CACHED = 2**17  # how many pairs of positions the eager scan works on at once (kernels/ssd/eager.py)


@dataclass(frozen=True)
class Mamba2HeadsCosts:
    """Input projection, convolution and scan, without gated norm and output projection. `own_x`: x
    has its own projection."""

    spec: Mamba2Mixer
    d_model: int
    own_x: bool = True

    @cached_property
    def d_in_proj(self) -> int:
        """z, x (unless shared), B, C, dt."""
        s = self.spec
        return (2 if self.own_x else 1) * s.d_ssm + 2 * s.n_groups * s.d_state + s.n_heads

    def params(self) -> dict[str, int]:
        s = self.spec
        return {
            "in_proj": self.d_model * self.d_in_proj,
            "conv": s.d_xbc * s.d_conv + s.d_xbc * s.conv_bias,
            "A, D, dt_bias": 3 * s.n_heads,
        } | ({"in_bias": self.d_in_proj} if s.in_bias else {})

    def _chunk_flops(self, length: Num) -> Num:
        """One chunk of the SSD scan: C B^T per group, then per head the masked product with x, the
        chunk's state, the part that the incoming state adds, and the state's multiply-add (arXiv
        2405.21060, Section 6)."""
        s = self.spec
        per_head = (
            2 * length**2 * s.head_dim
            + 4 * length * s.d_state * s.head_dim
            + 2 * s.d_state * s.head_dim
        )
        return s.n_groups * 2 * length**2 * s.d_state + s.n_heads * per_head

    def forward_flops(self, seq_len: Num) -> Terms:
        s = self.spec
        whole, rest = seq_len // s.chunk_size, seq_len % s.chunk_size
        scan = whole * self._chunk_flops(s.chunk_size) + (rest > 0) * self._chunk_flops(rest)
        return self._terms(seq_len, scan)

    def decode_flops(self, context_len: Num) -> Terms:
        """The scan's step per state element: dt x B (1), decay and add (2), product with C and sum
        (2)."""
        return self._terms(1, 5 * self.spec.d_ssm * self.spec.d_state)

    def _terms(self, tokens: Num, scan: Num) -> Terms:
        s = self.spec
        in_proj = product("in_proj", tokens, self.d_model, self.d_in_proj)
        conv = Term("conv", 2 * tokens * s.d_conv * s.d_xbc, "conv")
        return [in_proj, conv, Term("scan", scan, "scan")]

    def cache(self, context_len: Num) -> list[CacheTensor]:
        s = self.spec
        return [
            CacheTensor("state", s.d_ssm * s.d_state, "state"),
            CacheTensor("conv", (s.d_conv - 1) * s.d_xbc, "conv"),
        ]

    def reads(self, context_len: Num) -> list[CacheTensor]:
        return self.cache(context_len)

    def paper_train_flops(self, context_len: Num) -> Num:
        """3 (9 d_ssm d_state + 2 d_ssm), whatever the length (Appendix C)."""
        return 3 * (9 * self.spec.d_ssm * self.spec.d_state + 2 * self.spec.d_ssm)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """2 (d_ssm d_state + d_conv (2 d_state + d_ssm)) (Appendix C)."""
        s = self.spec
        return 2 * (s.d_ssm * s.d_state + s.d_conv * s.d_xbc)

    def scan_workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Bytes until y is there: the projection, which z keeps alive, and beside it the
        convolution (padded input, two partial sums) or its output, dt (float32) and the scan. A
        shared x is joined to B and C first."""
        s, width = self.spec, workload.element_bytes
        rows = seq_len * width
        held = rows * (self.d_in_proj + (0 if self.own_x else s.d_ssm))
        joined = 0 if self.own_x else rows * s.d_xbc
        dt = 4 * seq_len * s.n_heads
        return held + widest(
            joined + 3 * rows * s.d_xbc,
            rows * s.d_xbc + 2 * dt,
            rows * s.d_xbc
            + dt
            + widest(self._chunks_workspace(seq_len, workload), 2 * rows * s.d_ssm),
        )

    def _chunks_workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Bytes inside the last whole chunk, or the shorter one after it, beside the outputs of
        those before."""
        s, width = self.spec, workload.element_bytes
        # The cache's state in float32.
        read = 4 * s.d_ssm * s.d_state if workload.scan_dtype != "fp32" else 0
        chunks = last_pieces(seq_len, s.chunk_size)
        # What the first chunk starts from is the cache itself.
        held = [
            4 * s.d_ssm * s.d_state * (before > 0) + width * before * s.d_ssm
            for before, _ in chunks
        ]
        inside = [self._chunk_workspace(length, width, workload.batch_size) for _, length in chunks]
        return read + widest(*(a + b for a, b in zip(held, inside, strict=True)))

    def _chunk_workspace(
        self,
        length: Num,
        width: int,
        batch_size: int,
    ) -> Num:
        """Bytes inside one chunk: decays between all pairs of positions and their product with the
        scores, for a few heads at a time beside the outputs of those before; then what the states
        add, and the state after it."""
        s = self.spec
        pairs = length**2
        per_head = width * length * s.n_groups * s.head_dim  # of one head of each group
        slab = width * length * s.d_ssm
        states = 4 * s.d_ssm * s.d_state
        at_once = widest(1, CACHED // widest(1, batch_size * s.n_groups * pairs))
        pieces = last_pieces(s.n_heads // s.n_groups, at_once)
        within = [before * per_head + 8 * pairs * s.n_groups * heads for before, heads in pieces]
        rounded = states / 2 if width < 4 else 0
        return width * pairs * s.n_groups + slab + widest(*within, 4 * slab + 2 * states + rounded)

    def gated_workspace(self, seq_len: Num, workload: Workload) -> Num:
        """The scan, then y, silu(z) and their product beside the projection."""
        rows = seq_len * workload.element_bytes
        return widest(
            self.scan_workspace(seq_len, workload), rows * (self.d_in_proj + 3 * self.spec.d_ssm)
        )


@dataclass(frozen=True)
class Mamba2Costs(Mamba2HeadsCosts):
    """The heads plus gated norm and output projection."""

    def params(self) -> dict[str, int]:
        s = self.spec
        own = {
            "norm": s.d_ssm * s.gated_norm,
            "out": s.d_ssm * self.d_model,
            "out_bias": self.d_model * s.out_bias,
        }
        return super().params() | {part: n for part, n in own.items() if n}

    def forward_flops(self, seq_len: Num) -> Terms:
        return [
            *super().forward_flops(seq_len),
            product("out", seq_len, self.spec.d_ssm, self.d_model),
        ]

    def decode_flops(self, context_len: Num) -> Terms:
        return [
            *super().decode_flops(context_len),
            product("out", 1, self.spec.d_ssm, self.d_model),
        ]

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """The gated scan, whose operands the norm keeps alive; the output projection."""
        s, rows = self.spec, seq_len * workload.element_bytes
        norm = rows * (self.d_in_proj + (3 if s.n_groups == 1 else 4) * s.d_ssm)
        return widest(
            self.gated_workspace(seq_len, workload), norm, rows * (s.d_ssm + self.d_model)
        )
