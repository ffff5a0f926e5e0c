"""Grouped-query attention, and the head group that the intra-hybrid block shares. Twin of
live/modules/attention.py."""

from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.base import Entry, Mixer, Sections
from hybrid_core.terms import CacheTensor, Num, Term, Terms, least, product, visible_pairs, widest
from hybrid_core.validation import (
    Dim,
    Factor,
    Frozen,
    Length,
    Share,
    Theta,
    divides,
    quiet,
    rotates_pairs,
)
from hybrid_core.workload import Workload


class RopeScaling(Frozen):
    """Llama-3 frequency scaling: long wavelengths are slowed by `factor`, short ones kept, with a
    ramp between."""

    factor: Annotated[Factor, Field(ge=1)] = 32.0
    low_freq_factor: Factor = 1.0
    high_freq_factor: Factor = 4.0
    original_context_len: Annotated[Length, Field(ge=1)] = 8192

    @model_validator(mode="after")
    def _rules(self) -> "RopeScaling":
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor: {self.high_freq_factor} - "
                f"must be above low_freq_factor ({self.low_freq_factor})"
            )
        return self

    def shrunk(self, factors: Factors) -> Self:
        """The same scaling in a proxy, whose contexts are shorter."""
        return self.changed(original_context_len=scaled(self.original_context_len, factors.length))


class AttentionFields(Frozen):
    """What an attention layer and the section `attention` have in common.

    `qk_norm`: RMSNorm of each query and key head. `output_gate`: a sigmoid gate of the input on
    every channel of the output. `sink_logits`: a learnt logit per head in the softmax. `reuse_kv`:
    keys and values are those of the last layer before that made some. `d_input`: width that the
    projections read, where it is not d_model. `softmax_scale`: instead of head_dim^-0.5."""

    n_heads: Dim
    n_kv_heads: Dim
    head_dim: Dim
    position: Literal["rope", "nope"] = "rope"
    rope_theta: Theta = 500_000.0
    rope_fraction: Share = 1.0
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = quiet(False)
    out_bias: bool = quiet(False)
    qk_norm: bool = quiet(False)
    output_gate: bool = quiet(False)
    sink_logits: bool = quiet(False)
    reuse_kv: bool = quiet(False)
    d_input: Dim | None = quiet(None)
    softmax_scale: Factor | None = quiet(None)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        divides("n_heads", self.n_heads, "n_kv_heads", self.n_kv_heads)
        if self.position == "rope":
            rotates_pairs("head_dim", self.head_dim, self.rope_fraction)
        return self


class AttentionSection(AttentionFields):
    """The section `attention`: grouped-query attention. Its position encoding also serves the
    attention branch of an intra-hybrid block."""

    def mixer_fields(self) -> dict[str, Any]:
        """Fields of an attention mixer whose values are as wide as its keys."""
        fields = self.model_dump(exclude={"rope_scaling"})
        return fields | {"v_head_dim": self.head_dim, "rope_scaling": self.rope_scaling}


# Options of attention that our module computes.
ATTENTION_BUILT = frozenset({"qkv_bias", "out_bias", "qk_norm", "softmax_scale", "reuse_kv"})
ATTENTION_MATRICES = ("q", "k", "v", "output_gate", "out")

HEAD_DIM = 16  # of a proxy's heads
LEAST_THETA = 2.0


class AttentionMixer(AttentionFields, Mixer):
    """Grouped-query attention. Queries and keys are `head_dim` wide, values `v_head_dim`; RoPE
    turns the first `rope_dim` channels."""

    entry: ClassVar[Entry] = Entry(
        name="attention",
        meaning="Every token looks at all tokens before it; the cache grows with the context.",
        label="Attention",
        letter="A",
        colour="#D55E00",
        module="hybrid_core.live.modules.attention:Attention",
        short="attention",
        sections=("attention",),
        built=ATTENTION_BUILT,
        matrices=ATTENTION_MATRICES,
        symbols={"megatron": "*"},
    )
    # Heads come in groups of so many: a differential attention has them in pairs.
    heads_step: ClassVar[int] = 1
    v_head_dim: Dim

    @model_validator(mode="before")
    @classmethod
    def _square(cls, data: Any) -> Any:
        if isinstance(data, dict) and "head_dim" in data:
            return {"v_head_dim": data["head_dim"]} | data
        return data

    @property
    def rope_dim(self) -> int:
        """Channels of a head that RoPE turns."""
        if self.position != "rope":
            return 0
        return round(self.head_dim * self.rope_fraction)

    @property
    def span(self) -> int | None:
        """How many tokens a query may see; None = all before it."""
        return None

    @property
    def rope(self) -> tuple[int, float, RopeScaling | None] | None:
        """What a table of rotations depends on."""
        if self.position != "rope":
            return None
        return self.rope_dim, self.rope_theta, self.rope_scaling

    def costs(self, d_model: int) -> "AttentionCosts":
        return AttentionCosts(self, d_model)

    @classmethod
    def from_sections(cls, sections: Sections) -> Mixer:
        return cls(**sections["attention"].mixer_fields())

    def shrunk(self, factors: Factors) -> Self:
        return self.changed(**self._small_heads(factors))

    def _small_heads(self, factors: Factors) -> dict[str, Any]:
        """Fields of fewer heads of about HEAD_DIM, together as wide as here in proportion, and
        values as much wider than queries."""
        n_heads = self._n_small_heads(factors)
        per_head = factors.width * self.n_heads / n_heads
        head_dim = scaled(self.head_dim, per_head, 4, 8)
        v_head_dim = head_dim
        if self.v_head_dim != self.head_dim:
            v_head_dim = scaled(self.v_head_dim, per_head, 8, 8)
        fields: dict[str, Any] = {
            "n_heads": n_heads,
            "n_kv_heads": self._n_small_kv_heads(n_heads),
            "head_dim": head_dim,
            "v_head_dim": v_head_dim,
            # A wavelength is counted in tokens.
            "rope_theta": max(LEAST_THETA, self.rope_theta * factors.length),
            "rope_fraction": self._small_rope_fraction(head_dim),
        }
        if self.rope_scaling is not None:
            fields["rope_scaling"] = self.rope_scaling.shrunk(factors)
        if self.d_input is not None:
            fields["d_input"] = scaled(self.d_input, factors.width)
        if self.softmax_scale is not None:
            # It stands for head_dim^-0.5, which would change.
            fields["softmax_scale"] = self.softmax_scale * sqrt(self.head_dim / head_dim)
        return fields

    def _n_small_heads(self, factors: Factors) -> int:
        if self.v_head_dim <= self.head_dim:
            return n_small_heads(scaled(self.n_heads * self.head_dim, factors.width))
        # Half as many heads as there would be, with values twice HEAD_DIM.
        values = scaled(
            self.n_heads * self.v_head_dim,
            factors.width,
            2 * HEAD_DIM,
        )
        return n_small_heads(values // 2)

    def _n_small_kv_heads(self, n_heads: int) -> int:
        """Key and value heads in the same ratio to query heads, as far as that divides."""
        step = self.heads_step
        fits = [n for n in range(step, n_heads + 1, step) if n_heads % n == 0]
        wanted = n_heads * self.n_kv_heads / self.n_heads
        return min(fits, key=lambda n: abs(n - wanted))

    def _small_rope_fraction(self, head_dim: int) -> float:
        """The share of a head that RoPE turns, so that it turns whole pairs of channels."""
        turned = max(2, 2 * round(head_dim * self.rope_fraction / 2))
        return turned / head_dim


def n_small_heads(width: int) -> int:
    """An even number of heads of HEAD_DIM for a width of all together."""
    return max(2, width // HEAD_DIM // 2 * 2)


@dataclass(frozen=True)
class AttentionHeadsCosts:
    """Query, key and value projections and the attention itself, without the output projection."""

    spec: AttentionMixer
    d_model: int

    @cached_property
    def d_in(self) -> int:
        return self.spec.d_input or self.d_model

    @cached_property
    def d_kv(self) -> int:
        """Width of the keys and values that this layer makes, and keeps."""
        s = self.spec
        return 0 if s.reuse_kv else s.n_kv_heads * (s.head_dim + s.v_head_dim)

    @cached_property
    def d_qkv(self) -> int:
        return self.spec.n_heads * self.spec.head_dim + self.d_kv

    @cached_property
    def d_out(self) -> int:
        return self.spec.n_heads * self.spec.v_head_dim

    @property
    def reads_back(self) -> bool:
        """Whether a prefill takes keys and values from the cache, where they may have another
        dtype."""
        return True

    def tokens_kept(self, context_len: Num) -> Num:
        span = self.spec.span
        return context_len if span is None else least(context_len, span)

    def params(self) -> dict[str, int]:
        s = self.spec
        own = {
            "qkv_bias": s.qkv_bias * self.d_qkv,
            "qk_norm": s.qk_norm * (2 - s.reuse_kv) * s.head_dim,
            "output_gate": self.d_in * self._d_gate,
            "sink_logits": s.sink_logits * s.n_heads,
        }
        return {"qkv": self.d_in * self.d_qkv} | {part: n for part, n in own.items() if n}

    @cached_property
    def _d_gate(self) -> int:
        return self.d_out if self.spec.output_gate else 0

    def _projections(self, tokens: Num) -> Terms:
        s = self.spec
        terms = [product("q", tokens, self.d_in, s.n_heads * s.head_dim)]
        if not s.reuse_kv:
            terms += [product("k", tokens, self.d_in, s.n_kv_heads * s.head_dim)]
            terms += [product("v", tokens, self.d_in, s.n_kv_heads * s.v_head_dim)]
        if self._d_gate:
            terms += [product("output_gate", tokens, self.d_in, self._d_gate)]
        return terms

    def _pair_flops(self) -> int:
        """One query-key product and one value sum, over all heads."""
        return 2 * self.spec.n_heads * (self.spec.head_dim + self.spec.v_head_dim)

    def forward_flops(self, seq_len: Num) -> Terms:
        pairs = visible_pairs(seq_len, self.spec.span)
        return [*self._projections(seq_len), self._attention(pairs)]

    def decode_flops(self, context_len: Num) -> Terms:
        return [*self._projections(1), self._attention(self.tokens_kept(context_len))]

    def _attention(self, pairs: Num) -> Term:
        return Term("attention", pairs * self._pair_flops(), "attention")

    def cache(self, context_len: Num) -> list[CacheTensor]:
        return [] if self.spec.reuse_kv else self.reads(context_len)

    def reads(self, context_len: Num) -> list[CacheTensor]:
        """Keys and values that a query may see, whichever layer made them."""
        kept, s = self.tokens_kept(context_len), self.spec
        return [
            CacheTensor("k", kept * s.n_kv_heads * s.head_dim, "kv"),
            CacheTensor("v", kept * s.n_kv_heads * s.v_head_dim, "kv"),
        ]

    def paper_train_flops(self, context_len: Num) -> Num:
        """12 * d_model * (L + 1) / 2 where n_heads * head_dim = d_model; in general 6 (d_qk +
        n_heads v_head_dim) per visible pair."""
        return 3 * self._pair_flops() * visible_pairs(context_len, self.spec.span) / context_len

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """2 (d_k + d_v) n_kv * tokens (Appendix C)."""
        return 2 * self.d_kv * self.tokens_kept(context_len)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Projections; rotation of queries, then of keys; the kernel; the output projection."""
        s, rows = self.spec, seq_len * workload.element_bytes
        q, k = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
        rotating = widest(self._rotation(q), q + self._rotation(k)) if s.position == "rope" else 0
        return widest(
            rows * (self.d_qkv + rotating),
            rows * self._operands(workload) + self._kernel(seq_len, rows, workload.batch_size),
            rows * (self.d_out + self.d_model),
        )

    def _operands(self, workload: Workload) -> int:
        """Elements per token that are held during the kernel: projections, rotated queries and
        keys, and keys and values as read back from a cache of another dtype."""
        s = self.spec
        rotated = (s.n_heads + s.n_kv_heads) * s.head_dim if s.position == "rope" else 0
        converted = self.reads_back and workload.kv_cache_dtype != workload.product_dtype
        return self.d_qkv + rotated + converted * s.n_kv_heads * (s.head_dim + s.v_head_dim)

    def _rotation(self, elements: int) -> Num:
        """Halves swapped, product with the cosine, sum; where only a fraction is turned, also the
        join with the rest."""
        turned = elements * self.spec.rope_dim / self.spec.head_dim
        return 3 * turned if turned == elements else max(3 * turned, 2 * turned + elements)

    def _kernel(self, seq_len: Num, rows: Num, batch_size: int) -> Num:
        """Bytes of one call: inputs padded to one width, the heads' output, and either the
        log-sum-exp (float32) or, where values were padded, the output without the padding."""
        s, width = self.spec, max(self.spec.head_dim, self.spec.v_head_dim)
        narrow = s.n_heads * (s.head_dim < width) + s.n_kv_heads * (s.head_dim != s.v_head_dim)
        padded = width * narrow
        cut = s.n_heads * s.v_head_dim if s.v_head_dim < width else 0
        return rows * s.n_heads * width + widest(
            rows * padded + 4 * seq_len * s.n_heads, rows * cut
        )


@dataclass(frozen=True)
class AttentionCosts(AttentionHeadsCosts):
    """The heads plus the output projection: Table 1's 2 d_model^2 + 2 d_model head_dim n_kv at
    n_heads * head_dim = d_model."""

    def params(self) -> dict[str, int]:
        bias = {"out_bias": self.d_model} if self.spec.out_bias else {}
        return super().params() | {"out": self.d_out * self.d_model} | bias

    def forward_flops(self, seq_len: Num) -> Terms:
        return [*super().forward_flops(seq_len), product("out", seq_len, self.d_out, self.d_model)]

    def decode_flops(self, context_len: Num) -> Terms:
        return [*super().decode_flops(context_len), product("out", 1, self.d_out, self.d_model)]
