"""The base classes of every feed-forward: its spec, and its closed forms."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, Self

from hybrid_core.factors import Factors
from hybrid_core.terms import Num, Terms, product
from hybrid_core.validation import Frozen

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2"]


class Entry(NamedTuple):
    """The name of a kind of feed-forward, and the module that computes it.

    `module`: "package.module:Class", loaded on first use, so nothing here imports torch. `built`:
    options whose non-default values the module supports."""

    label: str
    module: str
    built: frozenset[str] = frozenset()


class FeedForward(Frozen):
    """The feed-forward of one layer, which follows its mixer."""

    entry: ClassVar[Entry]

    def costs(self, d_model: int) -> "FfnCosts":
        """The closed forms of this feed-forward in a model of width `d_model`."""
        raise TypeError(f"{type(self).__name__} has no costs")

    def unbuilt(self, name: str) -> Iterator[str]:
        """More reasons why the module does not support this feed-forward. Options outside
        `entry.built` are reported elsewhere. `name`: its place in the design."""
        return iter(())

    def shrunk(self, factors: Factors) -> Self:
        """The same feed-forward in a proxy."""
        raise TypeError(f"{type(self).__name__} cannot shrink")


class Sizes(NamedTuple):
    """Numbers of parameters. Every token uses `matrices` and `vectors`. `expert_matrices` and
    `expert_vectors` are those of one routed expert. A token uses `top_k` of the experts."""

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
    """The closed forms of the feed-forward of one layer."""

    @cached_property
    def sizes(self) -> Sizes:
        """Numbers of parameters by group."""
        return self._sizes()

    @abstractmethod
    def _sizes(self) -> Sizes: ...

    @abstractmethod
    def forward_flops(self, tokens: Num) -> Terms:
        """FLOPs by part: per token, 2 for each matrix element that it uses."""

    @abstractmethod
    def workspace(self, tokens: Num, width: int) -> Num:
        """Bytes of the tensors alive at the peak, without the layer's input and its norm. `width`:
        bytes per element."""

    def experts_read(self, tokens: Num) -> Num:
        """The expected share of the routed experts that at least one of `tokens` tokens chooses."""
        return 1.0

    def params(self) -> int:
        """All parameters."""
        return self.sizes.total

    def idle_params(self) -> int:
        """Parameters of the experts that one token does not choose."""
        sizes = self.sizes
        return (sizes.n_routed - sizes.top_k) * sizes.expert

    def active_params(self) -> int:
        """Parameters that one token uses."""
        return self.params() - self.idle_params()

    def params_read(self, tokens: Num) -> Num:
        """Parameters that a step over `tokens` tokens is expected to read."""
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
    """Elements of the matrices up, down and, if `gated`, gate."""
    n_matrices = 3 if gated else 2
    return n_matrices * d_model * d_ff


def n_bias_params(d_model: int, d_ff: int, gated: bool) -> int:
    """Elements of the biases of up, down and, if `gated`, gate."""
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
    """The products with up, down and, if `gated`, gate."""
    ways_in = ("gate", "up") if gated else ("up",)
    terms = []
    for way in ways_in:
        terms.append(product(f"{name}.{way}", tokens, width, d_ff, copies, used))
    terms.append(product(f"{name}.down", tokens, d_ff, width, copies, used))
    return terms


def plain_workspace(d_model: int, d_ff: int) -> int:
    """Elements per token at the peak of `PlainFFN.forward` (live/modules/ffn.py): up(x) and its
    activation, or the activation and the output."""
    return max(2 * d_ff, d_ff + d_model)


def gated_workspace(d_model: int, d_ff: int) -> int:
    """Elements per token at the peak of `GatedFFN.forward` (live/modules/ffn.py): gate and up with
    activation(gate) and the product, or with the product and the output."""
    return max(4 * d_ff, 3 * d_ff + d_model)
