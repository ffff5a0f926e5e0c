"""The intra-hybrid block: both head groups, then the five axes. Twin of live/modules/intra.py."""

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
    """The section `intra`. Position encoding comes from `attention`, state and convolution from
    `ssm`, and so does the width of the SSM's heads unless given here."""

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
        """Raise ValueError unless the sections that both branches borrow from fit the sizes
        here."""
        if isinstance(ssm, Mamba2Section):
            head_dim = self.ssm_head_dim or ssm.head_dim
            divides("intra.d_ssm", self.d_ssm, "the SSM's head_dim", head_dim)
            n_heads = self.d_ssm // head_dim
            divides("intra.d_ssm / head_dim", n_heads, "ssm.n_groups", ssm.n_groups)
        if attention is not None and attention.position == "rope":
            rotates_pairs("intra.qk_head_dim", self.qk_head_dim, attention.rope_fraction)

    def attention_fields(self) -> dict[str, Any]:
        """What differs from the section `attention` in the attention branch."""
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
    branch spans it whole, not each head of it (Hymba, whose SSM is a Mamba-1)."""

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
                    "Mamba-1 makes dt, B and C from its own values"
                )
            if self.ssm_norm:
                raise ValueError(
                    "ssm_norm: True - needs a Mamba-2 branch: Mamba-1 has no gated norm"
                )
        return self

    @property
    def rope(self) -> tuple[int, float, RopeScaling | None] | None:
        """The attention branch's."""
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
        """Both branches, small. An SSM as wide as the values of all heads stays so."""
        attention = self.attention.shrunk(factors)
        d_ssm = None
        if self.ssm.d_ssm == self.d_attention:
            d_ssm = attention.n_heads * attention.v_head_dim
        return self.changed(attention=attention, ssm=self.ssm.shrunk(factors, d_ssm))


@dataclass(frozen=True)
class IntraCosts:
    """Attention heads and Mamba-2 heads in one block (Appendix D)."""

    spec: IntraMixer
    d_model: int

    @cached_property
    def branches(self) -> tuple[AttentionHeadsCosts, Mamba2HeadsCosts | Mamba1HeadsCosts]:
        s, attention = self.spec, AttentionHeadsCosts(self.spec.attention, self.d_model)
        if isinstance(s.ssm, Mamba1Mixer):
            return attention, Mamba1HeadsCosts(s.ssm, self.d_model)
        return attention, Mamba2HeadsCosts(s.ssm, self.d_model, own_x=s.value == "separate")

    @cached_property
    def _d_both(self) -> int:
        return self.spec.d_attention + self.spec.ssm.d_ssm

    @cached_property
    def _n_gates(self) -> int:
        """One sigmoid gate per head of either branch."""
        return (
            self.spec.attention.n_heads + self.spec.ssm.n_heads if self.spec.scalar == "gate" else 0
        )

    @cached_property
    def _d_out(self) -> int:
        """Rows of the output projection(s): both widths, or one after a sum."""
        joint_sum = self.spec.out == "joint" and self.spec.fusion != "concat"
        return self.spec.d_attention if joint_sum else self._d_both

    def params(self) -> dict[str, int]:
        attention, ssm = self.branches
        scalar = {
            "none": 0,
            "scale": self._d_both,
            "gate": self.d_model * self._n_gates,
            "diff_t": 4 * self.spec.attention.head_dim,
        }
        own = {
            "norm": self._d_both if self.spec.norm == "group" else 0,
            "scalar": scalar[self.spec.scalar],
        }
        if self.spec.ssm_norm and getattr(self.spec.ssm, "gated_norm", True):
            own["ssm_norm"] = self.spec.ssm.d_ssm
        return (
            attention.params()
            | ssm.params()
            | own
            | {"out": self._d_out * self.d_model, "out_bias": self._out_biases * self.d_model}
        )

    @property
    def _out_biases(self) -> int:
        """Of the two output projections, or of the one."""
        ssm = self.spec.ssm
        biases = (
            self.spec.attention.out_bias,
            ssm.proj_bias if isinstance(ssm, Mamba1Mixer) else ssm.out_bias,
        )
        return sum(biases) if self.spec.out == "separate" else any(biases)

    def forward_flops(self, seq_len: Num) -> Terms:
        attention, ssm = self.branches
        return (
            attention.forward_flops(seq_len) + ssm.forward_flops(seq_len) + self._own_flops(seq_len)
        )

    def decode_flops(self, context_len: Num) -> Terms:
        attention, ssm = self.branches
        return (
            attention.decode_flops(context_len) + ssm.decode_flops(context_len) + self._own_flops(1)
        )

    def _own_flops(self, tokens: Num) -> Terms:
        gate = [product("gate", tokens, self.d_model, self._n_gates)] if self._n_gates else []
        return [*gate, product("out", tokens, self._d_out, self.d_model)]

    def cache(self, context_len: Num) -> list[CacheTensor]:
        attention, ssm = self.branches
        return attention.cache(context_len) + ssm.cache(context_len)

    def reads(self, context_len: Num) -> list[CacheTensor]:
        attention, ssm = self.branches
        return attention.reads(context_len) + ssm.reads(context_len)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """The attention branch; the Mamba-2 branch beside its output (and the shared values);
        norms; the scalar; projections and fusion."""
        (attention, ssm), s = self.branches, self.spec
        rows = seq_len * workload.element_bytes
        d_a, d_s = s.d_attention, s.ssm.d_ssm
        values = d_a if s.value == "shared" else 0
        # The scan's output and the projection that its gate is part of stay until both norms are
        # there.
        norm = ssm.d_in_proj + d_s + widest(3 * d_a, 2 * d_a + 3 * d_s) if s.norm == "group" else 0
        scaled = {
            "none": 0,
            "scale": 2 * self._d_both,
            "gate": 2 * self._d_both,
            "diff_t": self._d_both + d_s,
        }[s.scalar]
        fused = 3 * self.d_model if s.out == "separate" else self._d_out + self.d_model
        return widest(
            rows * values + attention.workspace(seq_len, workload),
            rows * d_a + ssm.gated_workspace(seq_len, workload),
            rows * (values + norm),
            rows * (values + scaled),
            rows * (values + self._d_both + fused),
        )

    def paper_train_flops(self, context_len: Num) -> Num:
        return sum(branch.paper_train_flops(context_len) for branch in self.branches)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        return sum(branch.paper_cache_bytes(context_len) for branch in self.branches)
