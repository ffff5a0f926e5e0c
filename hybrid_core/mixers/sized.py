"""Costs of mixers that are known by their sizes: a kind says what it is made of, and one class
turns that into answers.

Their parameters, cache and matrix products are exact. Elementwise work is not counted, as
everywhere; `workspace` is an estimate (inputs and outputs of the projections), since no module of
ours holds those tensors."""

from dataclasses import dataclass
from typing import NamedTuple

from hybrid_core.terms import CacheTensor, Num, Term, Terms, product, visible_pairs
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
    """What a mixer is made of. `matrices`: all in products with every token; `vectors`: other
    parameters; the convolution is depthwise, over `conv_channels`; `state` and `kv`: elements a
    sequence and a token; FLOPs of the scan a token, and of a pair of positions in a prefill and,
    where that is another way of computing it, in a decode step."""

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

    d_model: int
    sizes: Sizes

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
        return self._flops(
            1, context_len * (s.pair_flops if s.decode_pair_flops is None else s.decode_pair_flops)
        )

    def _flops(self, tokens: Num, attention: Num) -> Terms:
        s = self.sizes
        terms = [
            product(name, tokens, m.d_in, m.d_out, m.copies, m.copies) for name, m in s.matrices
        ]
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
        return [
            tensor
            for tensor, size in zip(tensors, (s.kv, s.state, s.conv_channels), strict=True)
            if size
        ]

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
