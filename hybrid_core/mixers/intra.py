"""The intra-hybrid block: attention heads and Mamba heads, fused along five axes. Twin of
live/modules/intra.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

from pydantic import model_validator

from hybrid_core.factors import Factors
from hybrid_core.mixers.attention import (
    ATTENTION_MATRICES,
    AttentionHeadsCosts,
    AttentionMixer,
    AttentionSection,
    RopeScaling,
)
from hybrid_core.mixers.base import MIXER, Entry, Mixer, Sections, needs_mamba2
from hybrid_core.mixers.fusion import Fusion, Norm, Out, Scalar, Value, fusible
from hybrid_core.mixers.mamba1 import MAMBA1_MATRICES, Mamba1HeadsCosts, Mamba1Mixer, Mamba1Section
from hybrid_core.mixers.mamba2 import Mamba2HeadsCosts, Mamba2Mixer, Mamba2Section
from hybrid_core.mixers.swa import SwaMixer
from hybrid_core.terms import CacheTensor, Num, Terms, product, widest
from hybrid_core.validation import Dim, Frozen, divides, quiet, rotates_pairs
from hybrid_core.workload import Workload


class IntraSection(Frozen):
    """The section `intra`. The position encoding comes from the section `attention`; state and
    convolution come from `ssm`. The width of the Mamba heads comes from `ssm` too, unless
    `ssm_head_dim` gives it."""

    n_heads: Dim
    n_kv_heads: Dim
    qk_head_dim: Dim
    v_head_dim: Dim
    d_ssm: Dim
    ssm_head_dim: Dim | None = None
    ssm_norm: bool = quiet(False)
    norm: Norm = "group"
    scalar: Scalar = "none"
    fusion: Fusion = "diff"
    value: Value = "separate"
    out: Out = "separate"

    @model_validator(mode="after")
    def _rules(self) -> Self:
        divides("n_heads", self.n_heads, "n_kv_heads", self.n_kv_heads)
        fusible(
            self.fusion,
            self.value,
            self.out,
            self.d_ssm,
            self.n_heads * self.v_head_dim,
        )
        return self

    def check_beside(
        self,
        attention: AttentionSection | None,
        ssm: Mamba2Section | Mamba1Section | None,
    ) -> None:
        """Raise ValueError unless the sizes here fit the sections `attention` and `ssm`, from which
        the branches take fields."""
        if isinstance(ssm, Mamba2Section):
            head_dim = self.ssm_head_dim or ssm.head_dim
            divides("intra.d_ssm", self.d_ssm, "the SSM's head_dim", head_dim)
            n_heads = self.d_ssm // head_dim
            divides("intra.d_ssm / head_dim", n_heads, "ssm.n_groups", ssm.n_groups)
        if attention is not None and attention.position == "rope":
            rotates_pairs("intra.qk_head_dim", self.qk_head_dim, attention.rope_fraction)

    def attention_fields(self) -> dict[str, Any]:
        """Fields of the attention branch that differ from the section `attention`."""
        return {
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "head_dim": self.qk_head_dim,
            "v_head_dim": self.v_head_dim,
        }


class IntraMixer(Mixer):
    """Attention heads and SSM heads side by side in one block, fused along five axes (paper,
    Appendix D).

    `ssm_norm`: the SSM branch keeps Mamba-2's gated norm (Falcon-H1). `whole_norm`: the norm of a
    branch spans the whole branch instead of each head (Hymba, whose SSM is Mamba-1)."""

    entry: ClassVar[Entry] = Entry(
        name="intra",
        meaning="Attention heads and Mamba heads on the same input, fused into one output.",
        label="Intra-hybrid",
        letter="H",
        colour="#009E73",
        module="hybrid_core.live.modules.intra:IntraHybrid",
        short="intra-hybrid",
        sections=("intra", "attention", "ssm"),
        built=frozenset({"ssm_norm", "whole_norm"}),
        matrices=(*ATTENTION_MATRICES, *MAMBA1_MATRICES[:-1], "gate"),
    )
    attention: Annotated[AttentionMixer, *MIXER]
    ssm: Annotated[Mamba2Mixer | Mamba1Mixer, *MIXER]
    norm: Norm
    scalar: Scalar
    fusion: Fusion
    value: Value
    out: Out
    ssm_norm: bool = quiet(False)
    whole_norm: bool = quiet(False)

    @model_validator(mode="after")
    def _rules(self) -> "IntraMixer":
        fusible(
            self.fusion,
            self.value,
            self.out,
            self.ssm.d_ssm,
            self.d_attention,
        )
        if isinstance(self.ssm, Mamba1Mixer):
            if self.value == "shared":
                raise ValueError(
                    "value: 'shared' - needs a Mamba-2 branch: "
                    "Mamba-1 computes dt, B and C from its own values"
                )
            if self.ssm_norm:
                raise ValueError(
                    "ssm_norm: True - needs a Mamba-2 branch: Mamba-1 has no gated norm"
                )
        return self

    @property
    def rope(self) -> tuple[int, float, RopeScaling | None] | None:
        """What the attention branch's RoPE tables depend on."""
        return self.attention.rope

    @property
    def d_attention(self) -> int:
        """Width of the attention branch before its projection."""
        return self.attention.n_heads * self.attention.v_head_dim

    def costs(self, d_model: int) -> "IntraCosts":
        return IntraCosts(self, d_model)

    def unbuilt(self) -> Iterator[str]:
        for branch in (self.attention, self.ssm):
            if type(branch) not in (AttentionMixer, SwaMixer, Mamba1Mixer, Mamba2Mixer):
                yield f"intra: {branch.kind}"

    @classmethod
    def check_sections(cls, sections: Sections) -> None:
        super().check_sections(sections)
        needs_mamba2(sections, "H")

    @classmethod
    def from_sections(cls, sections: Sections) -> Mixer:
        intra: IntraSection = sections["intra"]
        ssm: Mamba2Section = sections["ssm"]
        heads = sections["attention"].mixer_fields() | intra.attention_fields()
        branch = ssm.mixer().model_dump() | {
            "d_ssm": intra.d_ssm,
            "head_dim": intra.ssm_head_dim or ssm.head_dim,
        }
        axes = intra.model_dump(include={"norm", "scalar", "fusion", "value", "out", "ssm_norm"})
        return cls(
            attention=AttentionMixer(**heads),
            ssm=Mamba2Mixer(**branch),
            **axes,
        )

    def shrunk(self, factors: Factors) -> Self:
        """Both branches, smaller. If the Mamba branch is as wide as the attention branch, it is in
        the proxy too."""
        attention = self.attention.shrunk(factors)
        d_ssm = None
        if self.ssm.d_ssm == self.d_attention:
            d_ssm = attention.n_heads * attention.v_head_dim
        return self.changed(attention=attention, ssm=self.ssm.shrunk(factors, d_ssm))


@dataclass(frozen=True)
class IntraCosts:
    """Attention heads and Mamba heads in one block (Appendix D)."""

    spec: IntraMixer
    d_model: int

    @cached_property
    def branches(self) -> tuple[AttentionHeadsCosts, Mamba2HeadsCosts | Mamba1HeadsCosts]:
        """The closed forms of both branches, attention first."""
        s = self.spec
        attention = AttentionHeadsCosts(s.attention, self.d_model)
        if isinstance(s.ssm, Mamba1Mixer):
            return attention, Mamba1HeadsCosts(s.ssm, self.d_model)
        own_x = s.value == "separate"
        return attention, Mamba2HeadsCosts(s.ssm, self.d_model, own_x=own_x)

    @cached_property
    def _d_both(self) -> int:
        """Width of both branches together."""
        return self.spec.d_attention + self.spec.ssm.d_ssm

    @cached_property
    def _n_gates(self) -> int:
        """One sigmoid gate per head of either branch."""
        if self.spec.scalar != "gate":
            return 0
        return self.spec.attention.n_heads + self.spec.ssm.n_heads

    @cached_property
    def _d_out(self) -> int:
        """Input width of the output projections: both widths, or one width after a sum."""
        summed_before = self.spec.out == "joint" and self.spec.fusion != "concat"
        return self.spec.d_attention if summed_before else self._d_both

    def params(self) -> dict[str, int]:
        attention, ssm = self.branches
        own = {
            "norm": self._d_both if self.spec.norm == "group" else 0,
            "scalar": self._scalar_params(),
        }
        if self.spec.ssm_norm and getattr(self.spec.ssm, "gated_norm", True):
            own["ssm_norm"] = self.spec.ssm.d_ssm
        own["out"] = self._d_out * self.d_model
        own["out_bias"] = self._out_biases * self.d_model
        return attention.params() | ssm.params() | own

    def _scalar_params(self) -> int:
        scalar = self.spec.scalar
        if scalar == "scale":
            return self._d_both
        if scalar == "gate":
            return self.d_model * self._n_gates
        if scalar == "diff_t":
            # lambda is computed from four vectors of head_dim (arXiv 2410.05258, equation 2).
            return 4 * self.spec.attention.head_dim
        return 0

    @property
    def _out_biases(self) -> int:
        """How many of the output projections have a bias. A joint one has at most one."""
        attention_bias = self.spec.attention.out_bias
        ssm = self.spec.ssm
        ssm_bias = ssm.proj_bias if isinstance(ssm, Mamba1Mixer) else ssm.out_bias
        if self.spec.out == "separate":
            return attention_bias + ssm_bias
        return int(attention_bias or ssm_bias)

    def forward_flops(self, seq_len: Num) -> Terms:
        attention, ssm = self.branches
        return [
            *attention.forward_flops(seq_len),
            *ssm.forward_flops(seq_len),
            *self._own_flops(seq_len),
        ]

    def decode_flops(self, context_len: Num) -> Terms:
        attention, ssm = self.branches
        return [
            *attention.decode_flops(context_len),
            *ssm.decode_flops(context_len),
            *self._own_flops(1),
        ]

    def _own_flops(self, tokens: Num) -> Terms:
        """Products that belong to neither branch."""
        out = product("out", tokens, self._d_out, self.d_model)
        if not self._n_gates:
            return [out]
        return [product("gate", tokens, self.d_model, self._n_gates), out]

    def cache(self, context_len: Num) -> list[CacheTensor]:
        attention, ssm = self.branches
        return attention.cache(context_len) + ssm.cache(context_len)

    def reads(self, context_len: Num) -> list[CacheTensor]:
        attention, ssm = self.branches
        return attention.reads(context_len) + ssm.reads(context_len)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """The peak is at one of five moments of `IntraHybrid.forward` (live/modules/intra.py): the
        attention branch, the Mamba branch, the norms, the scalar, or projection and fusion."""
        s = self.spec
        attention, ssm = self.branches
        channel = seq_len * workload.element_bytes  # bytes of one channel of all tokens
        # `values`, repeated for every query head, stay alive as long as `forward` runs.
        shared = s.d_attention if s.value == "shared" else 0
        attention_output = channel * s.d_attention
        return widest(
            channel * shared + attention.workspace(seq_len, workload),
            # The Mamba branch counts shared values itself.
            attention_output + ssm.gated_workspace(seq_len, workload),
            channel * (shared + self._norm_channels()),
            channel * (shared + self._scalar_channels()),
            channel * (shared + self._d_both + self._fusion_channels()),
        )

    def _norm_channels(self) -> Num:
        """Channels alive in `branch_fusion`: y, the projection that z is a view of, and the tensors
        of one branch's norm (kernels/branch_fusion/eager.py)."""
        s = self.spec
        if s.norm != "group":
            return 0
        d_attention = s.d_attention
        d_ssm = s.ssm.d_ssm
        _, ssm = self.branches
        attention_norm = 3 * d_attention
        ssm_norm = 2 * d_attention + 3 * d_ssm  # with the attention's input and output
        return ssm.d_in_proj + d_ssm + widest(attention_norm, ssm_norm)

    def _scalar_channels(self) -> int:
        """Channels alive in `self.scalar`: both branches, and their scaled copies."""
        scalar = self.spec.scalar
        if scalar == "none":
            return 0
        if scalar == "diff_t":  # scales only the Mamba branch
            return self._d_both + self.spec.ssm.d_ssm
        return 2 * self._d_both

    def _fusion_channels(self) -> int:
        """Channels in addition to both branches: two outputs and their sum, or the sum of the
        branches and the output."""
        if self.spec.out == "separate":
            return 3 * self.d_model
        return self._d_out + self.d_model

    def paper_train_flops(self, context_len: Num) -> Num:
        return sum(branch.paper_train_flops(context_len) for branch in self.branches)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        return sum(branch.paper_cache_bytes(context_len) for branch in self.branches)
