"""Differential attention (arXiv 2410.05258).

Shape letters: B sequences, T tokens, S tokens seen, H heads in H/2 pairs, G key heads, D head
width. The closed forms are in mixers/diff_attention.py.
"""

from torch import Tensor

from hybrid_core.live.modules.attention import Attention, Seen
from hybrid_core.live.modules.diff_lambda import DiffLambda
from hybrid_core.live.modules.norm import RMSNorm
from hybrid_core.mixers.diff_attention import DiffAttentionMixer


class DiffAttention(Attention):
    """(softmax(Q1 K1) - lambda softmax(Q2 K2)) V per pair; x [B, T, d_model] -> [B, T, d_model].

    The first halves of query and key heads are Q1 and K1, the second halves Q2 and K2. Two
    neighbouring value heads of width D form one value of width 2D. So projections and cache are
    those of plain attention.
    """

    spec: DiffAttentionMixer

    def __init__(
        self,
        spec: DiffAttentionMixer,
        d_model: int,
        layer_index: int,
    ) -> None:
        super().__init__(spec, d_model, layer_index)
        self.scalar: DiffLambda | None = None
        if spec.scalar == "diff_t":
            self.scalar = DiffLambda(spec.head_dim, layer_index)
        self.norm: RMSNorm | None = None
        if spec.norm == "group":
            self.norm = RMSNorm(spec.n_heads * spec.v_head_dim, spec.pair_width)

    def look(self, q: Tensor, seen: Seen) -> Tensor:
        k, v, attend = seen
        v = v.flatten(2).unflatten(-1, (-1, self.spec.pair_width))  # [B, S, G/2, 2D]
        q1, q2 = q.chunk(2, 2)
        k1, k2 = k.chunk(2, 2)
        first = attend(q1, k1, v)
        second = attend(q2, k2, v)
        if self.scalar is not None:
            second = second * self.scalar.factor(second.dtype)
        if self.spec.fusion == "diff":
            return self._normed((first - second).flatten(2))
        return self._normed((first + second).flatten(2))

    def _normed(self, heads: Tensor) -> Tensor:
        """RMSNorm of each head, times 1 - lambda's start.

        The factor keeps the size of gradients as in a plain Transformer (equation 3).
        """
        if self.norm is None:
            return heads
        out: Tensor = self.norm(heads)
        if self.scalar is None:
            return out
        return out * (1 - self.scalar.start)
