"""The types of the closed forms, and formulas that several mixers share.

Formulas work elementwise: a length may be an int or a NumPy array. One multiply-add is 2 FLOPs.
Elementwise work (norms, activations, residuals, RoPE) is not counted, in any convention."""

from functools import reduce
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid_core.workload import Workload

# Formulas take and return one number or an array. Lengths are whole numbers; an array may hold them
# as floats (`lengths`).
Num = int | float | NDArray[np.integer] | NDArray[np.floating]


# What a cache tensor holds: keys and values, a scan's state, or the last inputs of a convolution.
CacheKind = Literal["kv", "state", "conv"]


class CacheTensor(NamedTuple):
    """One tensor of a layer's cache for one sequence. `kind` selects its dtype from the
    workload."""

    name: str
    elements: Num
    kind: CacheKind


# What a term's FLOPs are spent on: a product with weights, attention between positions, a scan, or
# a convolution.
TermKind = Literal["product", "attention", "scan", "conv"]


class Term(NamedTuple):
    """FLOPs of one part of a layer. A product also has the shape of its weight matrix, of which
    there are `copies`; each token uses `used` of them."""

    name: str
    flops: Num
    kind: TermKind
    d_in: int = 0
    d_out: int = 0
    copies: int = 1
    used: int = 1

    @property
    def weights(self) -> int:
        """Elements of all weight matrices of the term."""
        return self.copies * self.d_in * self.d_out


Terms = list[Term]


def total(terms: Terms) -> Num:
    """FLOPs of all terms."""
    return sum(term.flops for term in terms)


def of_kind(terms: Terms, kind: TermKind) -> Num:
    """FLOPs of the terms of one kind."""
    return sum(term.flops for term in terms if term.kind == kind)


def renamed(terms: Terms, prefix: str) -> Terms:
    """Terms of a part of a layer, with the prefix added to the names of products. Other terms keep
    their names, because they are looked up by kind."""
    found = []
    for term in terms:
        if term.kind == "product":
            term = term._replace(name=f"{prefix} {term.name}")  # noqa: PLW2901
        found.append(term)
    return found


class MixerCosts(Protocol):
    """The closed forms that every kind of mixer provides, for one sequence and one layer. Lengths
    are in tokens."""

    def params(self) -> dict[str, int]:
        """Parameters by part."""

    def forward_flops(self, seq_len: Num) -> Terms:
        """Exact FLOPs by part of a forward pass over `seq_len` tokens from an empty cache."""

    def decode_flops(self, context_len: Num) -> Terms:
        """Exact FLOPs by part of one decode step. The new token is token number `context_len`."""

    def cache(self, context_len: Num) -> list[CacheTensor]:
        """The cache's tensors when sized for `context_len` tokens."""

    def reads(self, context_len: Num) -> list[CacheTensor]:
        """The cache's tensors that one decode step reads: its own, or those of an earlier layer
        that it reuses."""

    def paper_train_flops(self, context_len: Num) -> Num:
        """The mixer's own term of the paper's training FLOPs per token (Appendix C), in addition to
        6 * parameters."""

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """The paper's cache size in bytes (bf16)."""

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Bytes of the tensors alive at the peak of the mixer's forward pass over one sequence of
        `seq_len` tokens, without the residual stream and its norm.

        Each argument of `widest(...)` is one moment of the forward pass, in order, and each summand
        a tensor that is alive then."""


def widest(*moments: Num) -> Num:
    """The elementwise maximum. Python's ints stay ints, which do not overflow."""
    for moment in moments:
        if isinstance(moment, np.ndarray):
            return reduce(np.maximum, moments)
    return max(moments)


def last_pieces(seq_len: Num, size: Num) -> tuple[tuple[Num, Num], tuple[Num, Num]]:
    """The last two pieces when a sequence, or the heads of a group, are processed in pieces of
    `size`. Each is (start, length): the last whole piece, and the shorter one after it."""
    whole = seq_len // size * size
    last_whole = (widest(whole - size, 0), least(seq_len, size))
    rest = (whole, seq_len - whole)
    return last_whole, rest


def linear(rows: Num, d_in: int, d_out: int) -> Num:
    """FLOPs of `rows` vectors through a d_in x d_out matrix."""
    return 2 * rows * d_in * d_out


def product(
    name: str,
    rows: Num,
    d_in: int,
    d_out: int,
    copies: int = 1,
    used: int = 1,
) -> Term:
    """The term of `rows` vectors, each through `used` of `copies` matrices of one shape."""
    return Term(
        name,
        used * linear(rows, d_in, d_out),
        "product",
        d_in,
        d_out,
        copies,
        used,
    )


def visible_pairs(seq_len: Num, span: int | None = None) -> Num:
    """Query-key pairs that a causal mask lets through, when token t (from 1) sees min(t, span)
    tokens.

    Without a span this is L(L+1)/2; with span W it is the paper's W((W+1)/2 + L - W) (Appendix C)
    for L > W."""
    if span is None:
        return seq_len * (seq_len + 1) // 2
    inside = least(seq_len, span)
    growing = inside * (inside + 1) // 2  # tokens that see all before them
    return growing + (seq_len - inside) * span


def least(n: Num, limit: Num) -> Num:
    """The elementwise minimum. Python's ints stay ints, which do not overflow."""
    if isinstance(n, np.ndarray) or isinstance(limit, np.ndarray):
        return np.minimum(n, limit)
    return min(n, limit)


def lengths(n: Num) -> Num:
    """Lengths as the formulas need them: an int, which is exact to any size, or an array in
    float64, whose products cannot wrap around."""
    if isinstance(n, np.ndarray):
        return n.astype(float)
    return int(n)
