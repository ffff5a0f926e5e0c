"""Costs of mixers that are known by their sizes: one function a kind says what it is made of, one class turns that into answers.

Their parameters, cache and matrix products are exact. Elementwise work is not counted, as everywhere; `workspace` is an estimate
(inputs and outputs of the projections), since no module of ours holds those tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from hybrid_core.costs.terms import CacheTensor, Num, Term, Terms, product, visible_pairs
from hybrid_core.spec import (
    DeclaredMixer,
    GatedDeltaNetMixer,
    GatedMemoryMixer,
    KimiDeltaMixer,
    LatentAttentionMixer,
    NoMixer,
    RgLruMixer,
    ShortConvMixer,
)
from hybrid_core.workload import Workload


class Matrix(NamedTuple):
    """The shape of a weight, of which there are `copies`; every token goes through all of them."""

    d_in: int
    d_out: int
    copies: int = 1

    @property
    def elements(self) -> int:
        return self.copies * self.d_in * self.d_out


@dataclass(frozen=True)
class Sizes:
    """What a mixer is made of. `matrices`: all in products with every token; `vectors`: other parameters; the convolution is depthwise,
    over `conv_channels`; `state` and `kv`: elements a sequence and a token; FLOPs of the scan a token, and of a pair of positions in a
    prefill and, where that is another way of computing it, in a decode step."""

    matrices: tuple[tuple[str, Matrix], ...] = ()
    vectors: int = 0
    conv_channels: int = 0
    d_conv: int = 1
    conv_bias: bool = False
    state: int = 0
    kv: int = 0
    scan_flops: int = 0
    pair_flops: int = 0
    decode_pair_flops: int | None = None


@dataclass(frozen=True)
class SizedCosts:
    """The answers that `sizes` implies."""

    spec: Any
    d_model: int
    describe: Callable[[Any, int], Sizes]

    @cached_property
    def sizes(self) -> Sizes:
        return self.describe(self.spec, self.d_model)

    def params(self) -> dict[str, int]:
        s = self.sizes
        parts = {"conv": s.conv_channels * (s.d_conv + s.conv_bias), "vectors": s.vectors}
        for name, matrix in s.matrices:
            parts[name] = parts.get(name, 0) + matrix.elements
        return {part: n for part, n in parts.items() if n}

    def forward_flops(self, seq_len: Num) -> Terms:
        return self._flops(seq_len, visible_pairs(seq_len) * self.sizes.pair_flops)

    def decode_flops(self, context_len: Num) -> Terms:
        s = self.sizes
        return self._flops(1, context_len * (s.pair_flops if s.decode_pair_flops is None else s.decode_pair_flops))

    def _flops(self, tokens: Num, attention: Num) -> Terms:
        s = self.sizes
        terms = [product(name, tokens, m.d_in, m.d_out, m.copies, m.copies) for name, m in s.matrices]
        if s.conv_channels:
            terms += [Term("conv", 2 * tokens * s.d_conv * s.conv_channels, "conv")]
        if s.scan_flops:
            terms += [Term("scan", tokens * s.scan_flops, "scan")]
        if s.pair_flops:
            terms += [Term("attention", attention, "attention")]
        return terms

    def cache(self, context_len: Num) -> list[CacheTensor]:
        s = self.sizes
        tensors = [
            CacheTensor("kv", context_len * s.kv, "kv"),
            CacheTensor("state", s.state, "state"),
            CacheTensor("conv", (s.d_conv - 1) * s.conv_channels, "conv"),
        ]
        return [tensor for tensor, size in zip(tensors, (s.kv, s.state, s.conv_channels), strict=True) if size]

    def reads(self, context_len: Num) -> list[CacheTensor]:
        return self.cache(context_len)

    def paper_train_flops(self, context_len: Num) -> Num:
        """The paper has no term for these: three times the exact forward, beside 6 * parameters."""
        s = self.sizes
        return 3 * (s.scan_flops + s.pair_flops * visible_pairs(context_len) / context_len)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """As the paper counts Mamba: two bytes an element, d_conv columns of the convolution."""
        s = self.sizes
        return 2 * (s.kv * context_len + s.state + s.d_conv * s.conv_channels)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        widths = sum(matrix.elements // self.d_model for _, matrix in self.sizes.matrices)
        return seq_len * workload.element_bytes * (widths + self.sizes.conv_channels)


def _gated_deltanet(s: GatedDeltaNetMixer, d_model: int) -> Sizes:
    """q, k, v and the gate z; two numbers a head for decay and step; a norm of the value head's width. Per state element and token:
    decay (1), what the key recalls (2), the correction written (2), what the query reads (2)."""
    d_k, d_v = s.n_k_heads * s.k_head_dim, s.n_v_heads * s.v_head_dim
    state = s.n_v_heads * s.k_head_dim * s.v_head_dim
    return Sizes(
        matrices=(
            ("in_proj", Matrix(d_model, 2 * d_k + 2 * d_v)),
            ("decay, step", Matrix(d_model, 2 * s.n_v_heads)),
            ("out", Matrix(d_v, d_model)),
        ),
        vectors=2 * s.n_v_heads + s.v_head_dim,
        conv_channels=2 * d_k + d_v,
        d_conv=s.d_conv,
        state=state,
        scan_flops=7 * state,
    )


def _kda(s: KimiDeltaMixer, d_model: int) -> Sizes:
    """q, k, v; forget and output gates through `head_dim`; a step per head; dt bias per channel, decay per head, norm per head width."""
    width, state = s.n_heads * s.head_dim, s.n_heads * s.head_dim**2
    return Sizes(
        matrices=(
            ("in_proj", Matrix(d_model, 3 * width)),
            ("gates", Matrix(d_model, s.head_dim, copies=2)),
            ("gates", Matrix(s.head_dim, width, copies=2)),
            ("step", Matrix(d_model, s.n_heads)),
            ("out", Matrix(width, d_model)),
        ),
        vectors=width + s.n_heads + s.head_dim,
        conv_channels=3 * width,
        d_conv=s.d_conv,
        state=state,
        scan_flops=7 * state,
    )


def _rg_lru(s: RgLruMixer, d_model: int) -> Sizes:
    """Two projections in, one out, all with biases; two gates of n_blocks square blocks; a decay per channel."""
    block = s.width // s.n_blocks
    return Sizes(
        matrices=(
            ("in_proj", Matrix(d_model, s.width, copies=2)),
            ("gates", Matrix(block, block, copies=2 * s.n_blocks)),
            ("out", Matrix(s.width, d_model)),
        ),
        vectors=2 * s.width + d_model + 2 * s.width + s.width,
        conv_channels=s.width,
        d_conv=s.d_conv,
        conv_bias=True,
        state=s.width,
        scan_flops=2 * s.width,
    )


def _short_conv(s: ShortConvMixer, d_model: int) -> Sizes:
    return Sizes(
        matrices=(("in_proj", Matrix(d_model, 3 * d_model)), ("out", Matrix(d_model, d_model))),
        vectors=4 * d_model * s.bias,
        conv_channels=d_model,
        d_conv=s.d_conv,
        conv_bias=s.bias,
    )


def _gated_memory(s: GatedMemoryMixer, d_model: int) -> Sizes:
    matrices = (("in_proj", Matrix(d_model, s.d_memory)), ("out", Matrix(s.d_memory, d_model)))
    return Sizes(matrices, vectors=s.bias * (s.d_memory + d_model))


def _latent_attention(s: LatentAttentionMixer, d_model: int) -> Sizes:
    """The cache holds the latent and the shared key channels, as serving engines do; transformers expands them first.

    A prefill expands the latent to keys and values: n_heads (d_qk + d_v) multiply-adds a pair. A decode step absorbs the expansion into
    queries and outputs (the same products, `kv_b`, once a token) and attends over the latent itself, which every head reads whole:
    n_heads ((kv_rank + rope_head_dim) + kv_rank) a pair (DeepSeek-V2, arXiv 2405.04434, Section 2.1.2 and Appendix C).
    """
    qk = s.nope_head_dim + s.rope_head_dim
    queries: tuple[tuple[str, Matrix], ...] = (("q", Matrix(d_model, s.n_heads * qk)),)
    if s.q_rank:
        queries = (("q_a", Matrix(d_model, s.q_rank)), ("q_b", Matrix(s.q_rank, s.n_heads * qk)))
    rank = s.kv_rank + s.rope_head_dim
    return Sizes(
        matrices=(
            *queries,
            ("kv_a", Matrix(d_model, rank)),
            ("kv_b", Matrix(s.kv_rank, s.n_heads * (s.nope_head_dim + s.v_head_dim))),
            ("out", Matrix(s.n_heads * s.v_head_dim, d_model)),
        ),
        vectors=s.kv_rank + (s.q_rank or 0) + s.bias * ((s.q_rank or 0) + rank + d_model),
        kv=rank,
        pair_flops=2 * s.n_heads * (qk + s.v_head_dim),
        decode_pair_flops=2 * s.n_heads * (rank + s.kv_rank),
    )


def _declared(s: DeclaredMixer, d_model: int) -> Sizes:
    return Sizes(
        matrices=(("matrices", Matrix(1, s.matrix_params)),) if s.matrix_params else (),
        vectors=s.other_params,
        conv_channels=s.conv_channels,
        d_conv=s.d_conv,
        state=s.state,
        kv=s.kv_per_token,
        scan_flops=s.flops_per_token,
        pair_flops=s.flops_per_pair,
    )


def _nothing(s: NoMixer, d_model: int) -> Sizes:
    return Sizes()


DESCRIPTIONS: dict[type[Any], Callable[[Any, int], Sizes]] = {
    GatedDeltaNetMixer: _gated_deltanet,
    KimiDeltaMixer: _kda,
    RgLruMixer: _rg_lru,
    ShortConvMixer: _short_conv,
    GatedMemoryMixer: _gated_memory,
    LatentAttentionMixer: _latent_attention,
    DeclaredMixer: _declared,
    NoMixer: _nothing,
}


def sized_costs(spec: Any, d_model: int) -> SizedCosts:
    """The costs of any kind in DESCRIPTIONS."""
    return SizedCosts(spec, d_model, DESCRIPTIONS[type(spec)])
