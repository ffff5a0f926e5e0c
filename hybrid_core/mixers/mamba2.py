"""Mamba-2 (arXiv 2405.21060), and the Mamba-2 heads that an intra-hybrid block uses as a branch.
Twin of live/modules/mamba2.py."""

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
    """Fields of a Mamba-2 layer, shared with the section `ssm`.

    `gated_norm`: an RMSNorm after the gate. `norm_first`: the norm comes before the gate.
    `in_bias`, `out_bias`, `conv_bias`: biases of the projections and the convolution. `dt_min`: dt
    is clamped to at least this (the low end of a config's `time_step_limit`)."""

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
    """Mamba-2: one decay per head, inner width `d_ssm`, `d_state` states per channel. `chunk_size`
    changes how the scan is computed, not its result."""

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
        """Mamba-2 or Mamba-1, depending on the section's `kind`."""
        mixer: Mixer = sections["ssm"].mixer()
        return mixer

    def shrunk(self, factors: Factors, d_ssm: int | None = None) -> Self:
        """Heads of SMALL_HEAD_DIM, or of the largest width below it that divides d_ssm. `d_ssm`:
        the width, if an enclosing mixer sets it."""
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
    """The field `kind`. It has its own base class so that it comes first in YAML."""

    kind: Literal["mamba2"] = "mamba2"


class Mamba2Section(Mamba2Fields, _Kind):
    """The section `ssm` as Mamba-2. The Mamba branch of an intra-hybrid block takes its state and
    convolution from this section, and its head width too unless the section `intra` gives one."""

    def mixer(self) -> Mamba2Mixer:
        """A layer of kind M."""
        return Mamba2Mixer(**self.model_dump(exclude={"kind"}))


# Pairs of positions that the eager scan works on at once (kernels/ssd/eager.py).
CACHED = 2**17


@dataclass(frozen=True)
class Mamba2HeadsCosts:
    """Input projection, convolution and scan, without gated norm and output projection.

    `own_x`: x comes from the input projection, not from another branch."""

    spec: Mamba2Mixer
    d_model: int
    own_x: bool = True

    @cached_property
    def d_in_proj(self) -> int:
        """Width of the input projection: z, x (unless it is shared), B, C and dt."""
        s = self.spec
        d_zx = 2 * s.d_ssm if self.own_x else s.d_ssm
        return d_zx + 2 * s.n_groups * s.d_state + s.n_heads

    def params(self) -> dict[str, int]:
        s = self.spec
        parts = {
            "in_proj": self.d_model * self.d_in_proj,
            "conv": s.d_xbc * s.d_conv + s.d_xbc * s.conv_bias,
            "A, D, dt_bias": 3 * s.n_heads,
        }
        if s.in_bias:
            parts["in_bias"] = self.d_in_proj
        return parts

    def _chunk_flops(self, length: Num) -> Num:
        """The SSD scan of one chunk (arXiv 2405.21060, Section 6)."""
        s = self.spec
        scores = 2 * length**2 * s.d_state  # C B^T, once per group
        within = 2 * length**2 * s.head_dim  # masked scores times x, per head
        # The chunk's own state, and the previous state's contribution to the outputs.
        in_and_out = 4 * length * s.d_state * s.head_dim
        carry = 2 * s.d_state * s.head_dim  # the old state, decayed and added to the new one
        return s.n_groups * scores + s.n_heads * (within + in_and_out + carry)

    def forward_flops(self, seq_len: Num) -> Terms:
        s = self.spec
        whole_chunks = seq_len // s.chunk_size
        rest = seq_len % s.chunk_size
        scan = whole_chunks * self._chunk_flops(s.chunk_size)
        scan = scan + (rest > 0) * self._chunk_flops(rest)
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
        """Appendix C: 3 (9 d_ssm d_state + 2 d_ssm) per token, whatever the length."""
        return 3 * (9 * self.spec.d_ssm * self.spec.d_state + 2 * self.spec.d_ssm)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """Appendix C: 2 (d_ssm d_state + d_conv (2 d_state + d_ssm)) bytes."""
        s = self.spec
        return 2 * (s.d_ssm * s.d_state + s.d_conv * s.d_xbc)

    # ------------------------------------------------------------ workspace

    def scan_workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Bytes at the peak of `Mamba2Heads.scan` (live/modules/mamba2.py).

        `projected` stays alive until the end, because z is a view of it. So does a shared x. The
        peak on top of them is at one of three moments: the convolution, the softplus of dt, or the
        SSD scan."""
        s = self.spec
        channel = seq_len * workload.element_bytes  # bytes of one channel of all tokens
        dt = 4 * seq_len * s.n_heads  # float32
        xbc = channel * s.d_xbc  # the convolution's output
        projected = channel * self.d_in_proj
        conv = 3 * xbc  # the padded input, and two partial sums
        if not self.own_x:
            projected = projected + channel * s.d_ssm  # the shared x
            conv = conv + xbc  # `torch.cat([shared_x, xbc])`
        softplus = xbc + 2 * dt  # dt plus its bias, and the result
        joined = 2 * channel * s.d_ssm  # the chunks' outputs, and their join
        scan = xbc + dt + widest(self._chunks_workspace(seq_len, workload), joined)
        return projected + widest(conv, softplus, scan)

    def _chunks_workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Bytes at the peak of the scan's loop over chunks (kernels/ssd/eager.py, `_walk`).

        The peak is in the last whole chunk, or in the shorter one after it. Outputs of all earlier
        chunks are alive, and so is the float32 state that the chunk starts from."""
        s = self.spec
        width = workload.element_bytes
        state = 4 * s.d_ssm * s.d_state
        peaks = []
        for before, length in last_pieces(seq_len, s.chunk_size):
            outputs = width * before * s.d_ssm
            # The first chunk starts from the cache's own state.
            started = state * (before > 0)
            inside = self._chunk_workspace(length, width, workload.batch_size)
            peaks.append(started + outputs + inside)
        # A cache in another dtype is read as float32.
        converted = 0 if workload.scan_dtype == "fp32" else state
        return converted + widest(*peaks)

    def _chunk_workspace(
        self,
        length: Num,
        width: int,
        batch_size: int,
    ) -> Num:
        """Bytes inside one chunk of `length` tokens (kernels/ssd/eager.py, `_chunk`).

        `scores` and `inflow` are alive throughout. The peak is either in `_within`, which works on
        a few heads at a time, or at the end, where the state adds to the outputs."""
        s = self.spec
        pairs = length**2
        scores = width * pairs * s.n_groups
        slab = width * length * s.d_ssm  # the size of inflow, y and from_state
        heads_at_once = widest(1, CACHED // widest(1, batch_size * s.n_groups * pairs))
        one_head = width * length * s.n_groups * s.head_dim  # of each group
        moments = []
        for before, heads in last_pieces(s.n_heads // s.n_groups, heads_at_once):
            # Decays between all pairs and their product with the scores, both float32.
            decayed = 8 * pairs * s.n_groups * heads
            moments.append(before * one_head + decayed)
        state = 4 * s.d_ssm * s.d_state
        # Four slabs at the end: two of y, from_state and its weighted inflow. Two states: the one
        # after the chunk, and the chunk's contribution to it, which in half precision is rounded
        # first.
        at_end = 4 * slab + 2 * state
        if width < 4:
            at_end = at_end + state / 2
        return scores + slab + widest(*moments, at_end)

    def gated_workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Bytes at the peak of the scan and of `y * F.silu(z)` after it."""
        channel = seq_len * workload.element_bytes
        # y, silu(z) and their product, plus the projection that z is a view of.
        gate = channel * (self.d_in_proj + 3 * self.spec.d_ssm)
        return widest(self.scan_workspace(seq_len, workload), gate)


@dataclass(frozen=True)
class Mamba2Costs(Mamba2HeadsCosts):
    """The heads plus gated norm and output projection."""

    def params(self) -> dict[str, int]:
        s = self.spec
        parts = super().params()
        if s.gated_norm:
            parts["norm"] = s.d_ssm
        parts["out"] = s.d_ssm * self.d_model
        if s.out_bias:
            parts["out_bias"] = self.d_model
        return parts

    def forward_flops(self, seq_len: Num) -> Terms:
        return [*super().forward_flops(seq_len), self._out(seq_len)]

    def decode_flops(self, context_len: Num) -> Terms:
        return [*super().decode_flops(context_len), self._out(1)]

    def _out(self, tokens: Num) -> Term:
        return product("out", tokens, self.spec.d_ssm, self.d_model)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """The peak is in the gated scan, in the norm, or in the output projection
        (live/modules/mamba2.py, `Mamba2.forward`)."""
        s = self.spec
        channel = seq_len * workload.element_bytes
        # The norm reads y and z, so the projection is still alive. Several groups need one more
        # copy.
        norm_tensors = 3 if s.n_groups == 1 else 4
        return widest(
            self.gated_workspace(seq_len, workload),
            channel * (self.d_in_proj + norm_tensors * s.d_ssm),
            channel * (s.d_ssm + self.d_model),
        )
