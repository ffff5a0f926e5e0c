"""Differential attention (arXiv 2410.05258).

Shape letters: B sequences, T tokens, S tokens seen, H heads in H/2 pairs, G key heads, D head
width. The closed forms are in mixers/diff_attention.py.
"""

import torch
from torch import Tensor

from hybrid_core.live.modules.attention import Attention, Seen
from hybrid_core.live.modules.diff_lambda import DiffLambda
from hybrid_core.live.modules.norm import RMSNorm
from hybrid_core.mixers.diff_attention import DiffAttentionMixer


class DiffAttention(Attention):
    """Per pair (softmax(Q1 K1^T) - lambda softmax(Q2 K2^T)) V, equation 1; then the projection.

    x [B, T, d_model] -> [B, T, d_model]. Q1 and K1 are the first halves of the query and key heads,
    Q2 and K2 the second halves. Two neighbouring value heads of width D form one value of width 2D.
    So the projections and the cache are those of plain attention.
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
        pairs = (-1, self.spec.pair_width)
        v = v.flatten(2).unflatten(-1, pairs)  # [B, S, G/2, 2D]
        q1, q2 = q.chunk(2, 2)
        k1, k2 = k.chunk(2, 2)
        first = attend(q1, k1, v)
        second = attend(q2, k2, v)
        if self.scalar is not None:
            second = second * self.scalar.factor(second.dtype)
        fuse = torch.sub if self.spec.fusion == "diff" else torch.add
        return self._normed(fuse(first, second).flatten(2))

    def _normed(self, heads: Tensor) -> Tensor:
        """RMSNorm of each head, times 1 - lambda's start value; heads [B, T, H/2 * 2D].

        The factor keeps the gradients on the scale of a plain Transformer (equation 3).
        """
        if self.norm is None:
            return heads
        out: Tensor = self.norm(heads)
        if self.scalar is None:
            return out
        return out * (1 - self.scalar.start)
