"""Grouped-query attention, and the attention heads that the intra-hybrid block uses too. Twin of
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
    """Llama-3 frequency scaling. Long wavelengths are stretched by `factor`, short ones are kept,
    and those in between are interpolated."""

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
    """Fields of an attention layer, shared with the section `attention`.

    `qk_norm`: RMSNorm of each query and key head. `output_gate`: a sigmoid gate, computed from the
    layer's input, on every channel of the heads' output. `sink_logits`: a learnt logit per head in
    the softmax. `reuse_kv`: the layer reads the keys and values of the nearest earlier layer that
    computes its own. `d_input`: input width of the projections, if it is not d_model.
    `softmax_scale`: replaces head_dim^-0.5."""

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
    """The section `attention`: grouped-query attention. The attention branch of an intra-hybrid
    block takes its position encoding from this section."""

    def mixer_fields(self) -> dict[str, Any]:
        """The fields of an attention mixer. Values are as wide as keys."""
        fields = self.model_dump(exclude={"rope_scaling"})
        return fields | {"v_head_dim": self.head_dim, "rope_scaling": self.rope_scaling}


# Options of attention that our module computes.
ATTENTION_BUILT = frozenset({"qkv_bias", "out_bias", "qk_norm", "softmax_scale", "reuse_kv"})
ATTENTION_MATRICES = ("q", "k", "v", "output_gate", "out")

HEAD_DIM = 16  # of a proxy's heads
LEAST_THETA = 2.0


class AttentionMixer(AttentionFields, Mixer):
    """Grouped-query attention. Queries and keys are `head_dim` wide, values `v_head_dim`. RoPE
    rotates the first `rope_dim` channels of each head."""

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
    # The number of heads is a multiple of this. Differential attention pairs its heads.
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
        """Channels of a head that RoPE rotates."""
        if self.position != "rope":
            return 0
        return round(self.head_dim * self.rope_fraction)

    @property
    def span(self) -> int | None:
        """How many tokens a query may see. None: itself and all tokens before it."""
        return None

    @property
    def rope(self) -> tuple[int, float, RopeScaling | None] | None:
        """What RoPE's sine and cosine tables depend on: layers with equal values share tables."""
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
        """Fields of a proxy with fewer heads, each about HEAD_DIM wide. The total width of the
        heads shrinks with the width of the model. Values keep their width relative to queries."""
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
            # A wavelength is measured in tokens.
            "rope_theta": max(LEAST_THETA, self.rope_theta * factors.length),
            "rope_fraction": self._small_rope_fraction(head_dim),
        }
        if self.rope_scaling is not None:
            fields["rope_scaling"] = self.rope_scaling.shrunk(factors)
        if self.d_input is not None:
            fields["d_input"] = scaled(self.d_input, factors.width)
        if self.softmax_scale is not None:
            # The scale replaces head_dim^-0.5, and head_dim changes.
            fields["softmax_scale"] = self.softmax_scale * sqrt(self.head_dim / head_dim)
        return fields

    def _n_small_heads(self, factors: Factors) -> int:
        if self.v_head_dim <= self.head_dim:
            return n_small_heads(scaled(self.n_heads * self.head_dim, factors.width))
        # Values are wider than keys: use half as many heads, with values 2 HEAD_DIM wide.
        d_values = self.n_heads * self.v_head_dim
        small = scaled(d_values, factors.width, 2 * HEAD_DIM)
        return n_small_heads(small // 2)

    def _n_small_kv_heads(self, n_heads: int) -> int:
        """Key and value heads: the divisor of `n_heads` that comes closest to the design's own
        ratio."""
        step = self.heads_step
        fits = [n for n in range(step, n_heads + 1, step) if n_heads % n == 0]
        wanted = n_heads * self.n_kv_heads / self.n_heads
        return min(fits, key=lambda n: abs(n - wanted))

    def _small_rope_fraction(self, head_dim: int) -> float:
        """The share of a head that RoPE rotates, rounded to whole pairs of channels."""
        pairs = max(1, round(head_dim * self.rope_fraction / 2))
        return 2 * pairs / head_dim


def n_small_heads(width: int) -> int:
    """How many heads of HEAD_DIM make up `width` channels: an even number, at least 2."""
    return max(2, width // HEAD_DIM // 2 * 2)


@dataclass(frozen=True)
class AttentionHeadsCosts:
    """The projections to queries, keys and values, and the attention itself, without the output
    projection."""

    spec: AttentionMixer
    d_model: int

    @cached_property
    def d_in(self) -> int:
        return self.spec.d_input or self.d_model

    @cached_property
    def d_kv(self) -> int:
        """Width of the keys and values that this layer computes and caches."""
        s = self.spec
        if s.reuse_kv:
            return 0
        return s.n_kv_heads * (s.head_dim + s.v_head_dim)

    @cached_property
    def d_qkv(self) -> int:
        """Width of queries, keys and values together."""
        return self.spec.n_heads * self.spec.head_dim + self.d_kv

    @cached_property
    def d_out(self) -> int:
        """Width of all heads' outputs."""
        return self.spec.n_heads * self.spec.v_head_dim

    @property
    def reads_back(self) -> bool:
        """Whether a prefill reads keys and values back from the cache, which may have another
        dtype."""
        return True

    def tokens_kept(self, context_len: Num) -> Num:
        """Tokens whose keys and values the cache holds."""
        span = self.spec.span
        if span is None:
            return context_len
        return least(context_len, span)

    def params(self) -> dict[str, int]:
        s = self.spec
        n_qk_norms = 1 if s.reuse_kv else 2
        own = {
            "qkv_bias": s.qkv_bias * self.d_qkv,
            "qk_norm": s.qk_norm * n_qk_norms * s.head_dim,
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
            terms.append(product("k", tokens, self.d_in, s.n_kv_heads * s.head_dim))
            terms.append(product("v", tokens, self.d_in, s.n_kv_heads * s.v_head_dim))
        if self._d_gate:
            terms.append(product("output_gate", tokens, self.d_in, self._d_gate))
        return terms

    def _pair_flops(self) -> int:
        """FLOPs per visible pair, over all heads: the query-key product and the sum of values."""
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
        """Keys and values that a query may see, whichever layer computed them."""
        s = self.spec
        kept = self.tokens_kept(context_len)
        return [
            CacheTensor("k", kept * s.n_kv_heads * s.head_dim, "kv"),
            CacheTensor("v", kept * s.n_kv_heads * s.v_head_dim, "kv"),
        ]

    def paper_train_flops(self, context_len: Num) -> Num:
        """Appendix C: 12 d_model (L + 1) / 2 if n_heads * head_dim = d_model. In general, 6 n_heads
        (head_dim + v_head_dim) per visible pair."""
        return 3 * self._pair_flops() * visible_pairs(context_len, self.spec.span) / context_len

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """Appendix C: 2 (d_k + d_v) n_kv bytes per cached token."""
        return 2 * self.d_kv * self.tokens_kept(context_len)

    # ------------------------------------------------------------ workspace
    # "Channels" below: elements per token. Lines are those of live/modules/attention.py.

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """The peak is at one of three moments: RoPE at the end of `project`, the kernel call in
        `look`, or the output projection in `forward`."""
        channel = seq_len * workload.element_bytes  # bytes of one channel of all tokens
        kernel = self._kernel(seq_len, channel, workload.batch_size)
        return widest(
            channel * (self.d_qkv + self._rope_channels()),
            channel * self._operands(workload) + kernel,
            # The heads' outputs are read while the layer's output is written.
            channel * (self.d_out + self.d_model),
        )

    def _rope_channels(self) -> Num:
        """Channels that `q = self.rope(q)` and then `k = self.rope(k)` hold in addition to `qkv`.
        The rotated queries are still alive when the keys are rotated."""
        s = self.spec
        if s.position != "rope":
            return 0
        d_q = s.n_heads * s.head_dim
        d_k = s.n_kv_heads * s.head_dim
        return widest(self._rotation(d_q), d_q + self._rotation(d_k))

    def _rotation(self, width: int) -> Num:
        """Channels at the peak of one rotation of `width` channels (live/modules/rope.py).

        Three tensors of the rotated part: its halves swapped, its product with the cosine, and
        their sum. If only a fraction of each head is rotated, two of these may be alive while the
        part is joined with the rest."""
        rotated = width * self.spec.rope_dim / self.spec.head_dim
        if rotated == width:
            return 3 * rotated
        return max(3 * rotated, 2 * rotated + width)

    def _operands(self, workload: Workload) -> int:
        """Channels alive while the kernel runs: `qkv`, of which v is a view; rotated queries and
        keys; and keys and values read back from a cache of another dtype."""
        s = self.spec
        channels = self.d_qkv
        if s.position == "rope":
            channels += (s.n_heads + s.n_kv_heads) * s.head_dim
        if self.reads_back and workload.kv_cache_dtype != workload.product_dtype:
            channels += s.n_kv_heads * (s.head_dim + s.v_head_dim)
        return channels

    def _kernel(self, seq_len: Num, channel: Num, batch_size: int) -> Num:
        """Bytes that one kernel call adds (kernels/attention/eager.py).

        The kernel needs keys and values of equal width. `_same_width` pads the narrower of the two,
        and pads the queries like the keys. The kernel writes outputs of that width and a
        log-sum-exp in float32. The padding is cut off the outputs after the padded inputs and the
        log-sum-exp are freed."""
        s = self.spec
        width = max(s.head_dim, s.v_head_dim)
        padded_heads = 0
        if s.head_dim < width:
            padded_heads += s.n_heads
        if s.head_dim != s.v_head_dim:
            padded_heads += s.n_kv_heads
        log_sum_exp = 4 * seq_len * s.n_heads
        trimmed = s.n_heads * s.v_head_dim if s.v_head_dim < width else 0
        outputs = channel * s.n_heads * width
        return outputs + widest(channel * width * padded_heads + log_sum_exp, channel * trimmed)


@dataclass(frozen=True)
class AttentionCosts(AttentionHeadsCosts):
    """The heads and the output projection. With n_heads * head_dim = d_model its parameters are
    those of Table 1: 2 d_model^2 + 2 d_model head_dim n_kv_heads."""

    def params(self) -> dict[str, int]:
        bias = {"out_bias": self.d_model} if self.spec.out_bias else {}
        return super().params() | {"out": self.d_out * self.d_model} | bias

    def forward_flops(self, seq_len: Num) -> Terms:
        return [*super().forward_flops(seq_len), self._out(seq_len)]

    def decode_flops(self, context_len: Num) -> Terms:
        return [*super().decode_flops(context_len), self._out(1)]

    def _out(self, tokens: Num) -> Term:
        return product("out", tokens, self.d_out, self.d_model)
