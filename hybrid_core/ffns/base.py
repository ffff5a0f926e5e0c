"""What the kinds of feed-forward have in common: their spec, and the questions about costs that
each answers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, Self

from hybrid_core.factors import Factors
from hybrid_core.terms import Num, Terms, product
from hybrid_core.validation import Frozen

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2"]


class Entry(NamedTuple):
    """How a kind of feed-forward is called, and the module that computes it.

    `module`: "package.module:Class", loaded on first use, so that nothing here imports torch.
    `built`: options beyond their defaults that the module computes too."""

    label: str
    module: str
    built: frozenset[str] = frozenset()


class FeedForward(Frozen):
    """What follows the mixer of one layer."""

    entry: ClassVar[Entry]

    def costs(self, d_model: int) -> "FfnCosts":
        """The closed forms of such a feed-forward in a model of width `d_model`."""
        raise TypeError(f"{type(self).__name__} has no costs")

    def unbuilt(self, name: str) -> Iterator[str]:
        """What the module does not compute, beside options that the entry does not call built;
        `name`: where the feed-forward stands in its design."""
        return iter(())

    def shrunk(self, factors: Factors) -> Self:
        """The same feed-forward in a proxy."""
        raise TypeError(f"{type(self).__name__} cannot shrink")


class Sizes(NamedTuple):
    """Parameters of a feed-forward: matrices and vectors that every token uses, and those of one
    routed expert, of which a token uses `top_k` of `n_routed`."""

    matrices: int
    vectors: int = 0
    expert_matrices: int = 0
    expert_vectors: int = 0
    n_routed: int = 0
    top_k: int = 0

    @property
    def expert(self) -> int:
        return self.expert_matrices + self.expert_vectors

    @property
    def total(self) -> int:
        return self.matrices + self.vectors + self.n_routed * self.expert


class FfnCosts(ABC):
    """The questions that every kind of feed-forward answers. Lengths in tokens, for one layer."""

    @cached_property
    def sizes(self) -> Sizes:
        """What the feed-forward is made of."""
        return self._sizes()

    @abstractmethod
    def _sizes(self) -> Sizes: ...

    @abstractmethod
    def forward_flops(self, tokens: Num) -> Terms:
        """FLOPs by part: 2 per element of a matrix that a token uses."""

    @abstractmethod
    def workspace(self, tokens: Num, width: int) -> Num:
        """Bytes at the widest moment, beside the block's input and its norm; `width` bytes an
        element."""

    def experts_read(self, tokens: Num) -> Num:
        """The share of the routed experts that a step over `tokens` tokens is expected to choose at
        least once."""
        return 1.0

    def params(self) -> int:
        """All parameters."""
        return self.sizes.total

    def idle_params(self) -> int:
        """Parameters that one token does not use: those of the experts that it does not choose."""
        sizes = self.sizes
        return (sizes.n_routed - sizes.top_k) * sizes.expert

    def active_params(self) -> int:
        """Parameters that one token uses."""
        return self.params() - self.idle_params()

    def params_read(self, tokens: Num) -> Num:
        """Parameters that a step over `tokens` tokens reads, as far as is expected."""
        sizes = self.sizes
        unread = 1 - self.experts_read(tokens)
        return sizes.total - unread * sizes.n_routed * sizes.expert


class NoFfnCosts(FfnCosts):
    """A layer without a feed-forward."""

    def _sizes(self) -> Sizes:
        return Sizes(0)

    def forward_flops(self, tokens: Num) -> Terms:
        return []

    def workspace(self, tokens: Num, width: int) -> Num:
        return 0


# ---------------------------------------------------------------- pieces that several kinds share


def n_matrix_params(d_model: int, d_ff: int, gated: bool) -> int:
    """Elements of the way in, its gate where it has one, and the way out."""
    n_matrices = 3 if gated else 2
    return n_matrices * d_model * d_ff


def n_bias_params(d_model: int, d_ff: int, gated: bool) -> int:
    """Elements of the biases of those matrices."""
    ways_in = 2 if gated else 1
    return ways_in * d_ff + d_model


def in_and_out(
    name: str,
    tokens: Num,
    width: int,
    d_ff: int,
    gated: bool,
    copies: int = 1,
    used: int = 1,
) -> Terms:
    """The products of the way in, its gate where it has one, and the way out."""
    ways_in = ("gate", "up") if gated else ("up",)
    terms = []
    for way in ways_in:
        terms.append(product(f"{name}.{way}", tokens, width, d_ff, copies, used))
    terms.append(product(f"{name}.down", tokens, d_ff, width, copies, used))
    return terms


def plain_workspace(d_model: int, d_ff: int) -> int:
    """Elements per token: what is widened and its activation; or that and the output."""
    return max(2 * d_ff, d_ff + d_model)


def gated_workspace(d_model: int, d_ff: int) -> int:
    """Elements per token: gate and up, silu(gate), their product; or the product and the output
    beside gate and up."""
    return max(4 * d_ff, 3 * d_ff + d_model)
