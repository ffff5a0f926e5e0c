"""Closed forms of mixers that are described by their sizes. A kind lists its sizes, and one class
turns them into costs.

Parameters, cache and matrix products are exact. Elementwise work is not counted, as everywhere.
`workspace` is an estimate from the inputs and outputs of the projections, because these mixers have
no module here."""

from dataclasses import dataclass
from typing import NamedTuple

from hybrid_core.terms import CacheTensor, Num, Term, Terms, product, visible_pairs
from hybrid_core.workload import Workload


class Matrix(NamedTuple):
    """The shape of a weight. There are `copies` of it, and every token goes through all of them."""

    d_in: int
    d_out: int
    copies: int = 1

    @property
    def elements(self) -> int:
        return self.copies * self.d_in * self.d_out


@dataclass(frozen=True)
class Sizes:
    """The sizes of a mixer.

    `matrices`: those that every token is multiplied with. `vectors`: number of other parameters.
    `conv_channels`: channels of a depthwise convolution over `d_conv` inputs. `state`: cached
    elements per sequence. `kv`: cached elements per token. `scan_flops`: per token. `pair_flops`:
    per visible pair of positions. `decode_pair_flops`: the same in a decode step, if it computes a
    pair in another way."""

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
    """The closed forms that follow from `sizes`."""

    d_model: int
    sizes: Sizes

    def params(self) -> dict[str, int]:
        s = self.sizes
        conv = s.conv_channels * (s.d_conv + s.conv_bias)
        parts = {"conv": conv, "vectors": s.vectors}
        for name, matrix in s.matrices:
            parts[name] = parts.get(name, 0) + matrix.elements
        return {part: n for part, n in parts.items() if n}

    def forward_flops(self, seq_len: Num) -> Terms:
        return self._flops(seq_len, visible_pairs(seq_len) * self.sizes.pair_flops)

    def decode_flops(self, context_len: Num) -> Terms:
        per_pair = self.sizes.decode_pair_flops
        if per_pair is None:
            per_pair = self.sizes.pair_flops
        return self._flops(1, context_len * per_pair)

    def _flops(self, tokens: Num, attention: Num) -> Terms:
        s = self.sizes
        terms = []
        for name, (d_in, d_out, copies) in s.matrices:
            terms.append(product(name, tokens, d_in, d_out, copies, used=copies))
        if s.conv_channels:
            conv_flops = 2 * tokens * s.d_conv * s.conv_channels
            terms.append(Term("conv", conv_flops, "conv"))
        if s.scan_flops:
            terms.append(Term("scan", tokens * s.scan_flops, "scan"))
        if s.pair_flops:
            terms.append(Term("attention", attention, "attention"))
        return terms

    def cache(self, context_len: Num) -> list[CacheTensor]:
        s = self.sizes
        tensors = []
        if s.kv:
            tensors.append(CacheTensor("kv", context_len * s.kv, "kv"))
        if s.state:
            tensors.append(CacheTensor("state", s.state, "state"))
        if s.conv_channels:
            inputs = (s.d_conv - 1) * s.conv_channels
            tensors.append(CacheTensor("conv", inputs, "conv"))
        return tensors

    def reads(self, context_len: Num) -> list[CacheTensor]:
        return self.cache(context_len)

    def paper_train_flops(self, context_len: Num) -> Num:
        """Three times the exact forward pass, because the paper has no term for these mixers."""
        s = self.sizes
        attention_flops = s.pair_flops * visible_pairs(context_len) / context_len
        return 3 * (s.scan_flops + attention_flops)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """Counted as the paper counts Mamba: two bytes per element, and d_conv inputs of the
        convolution."""
        s = self.sizes
        return 2 * (s.kv * context_len + s.state + s.d_conv * s.conv_channels)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        s = self.sizes
        widths = sum(matrix.elements // self.d_model for _, matrix in s.matrices)
        return seq_len * workload.element_bytes * (widths + s.conv_channels)
