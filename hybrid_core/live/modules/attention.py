"""Grouped-query attention (arXiv 2305.13245): H / G query heads share each key/value head.

Each head computes softmax(Q K^T / sqrt(Dqk)) V over the tokens up to its own (arXiv 1706.03762,
equation 1).

Shape letters: B sequences, T tokens, H query heads, G key/value heads, Dqk and Dv the head widths
of queries/keys and of values. The closed forms are in mixers/attention.py.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hybrid_core.live.modules.cache import CacheDtypes, KVCache, Position, WindowCache
from hybrid_core.live.modules.norm import RMSNorm
from hybrid_core.live.modules.rope import Rope
from hybrid_core.mixers.attention import AttentionMixer
from kernels.attention import attention, attention_step


class Seen(NamedTuple):
    """The keys and values that the queries attend to, and the operation that reads them.

    k [B, S, G, Dqk] and v [B, S, G, Dv], where S is the number of tokens (or of cache slots).
    """

    k: Tensor
    v: Tensor
    attention: Callable[[Tensor, Tensor, Tensor], Tensor]


class AttentionHeads(nn.Module):
    """Projections and attention without the output projection.

    The intra-hybrid block uses it as its attention branch. With `spec.reuse_kv`, the layer computes
    only queries, and attends to the keys and values of an earlier layer.
    """

    def __init__(self, spec: AttentionMixer, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        n_own = 0 if spec.reuse_kv else spec.n_kv_heads
        self.widths = [
            spec.n_heads * spec.head_dim,
            n_own * spec.head_dim,
            n_own * spec.v_head_dim,
        ]
        self.qkv = nn.Linear(
            spec.d_input or d_model,
            sum(self.widths),
            bias=spec.qkv_bias,
        )
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if spec.qk_norm:
            self.q_norm = RMSNorm(spec.head_dim)
        if spec.qk_norm and not spec.reuse_kv:
            self.k_norm = RMSNorm(spec.head_dim)
        self.rope: Rope | None = None
        if spec.position == "rope":
            self.rope = Rope.shared(
                spec.rope_dim,
                spec.rope_theta,
                spec.rope_scaling,
            )

    def project(
        self,
        x: Tensor,
        start: Position,
        extra: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x [B, T, d_model], ready for attention.

        Returns q [B, T, H, Dqk], k [B, T, G, Dqk] and v [B, T, G, Dv]. RoPE rotates q and k,
        starting at position `start`. An adapter's output, `extra`, is added to the projection
        first. With `reuse_kv`, k and v are empty.
        """
        qkv = self.qkv(x)
        if extra is not None:
            qkv = qkv + extra
        q, k, v = qkv.split(self.widths, -1)
        if self.spec.reuse_kv:
            return self._queries(q, start), k, v
        by_head = (self.spec.n_kv_heads, self.spec.v_head_dim)
        return (
            self._queries(q, start),
            self._keys(k, start),
            v.unflatten(-1, by_head),
        )

    def _queries(self, q: Tensor, start: Position) -> Tensor:
        """Projected queries [B, T, H * Dqk], split into heads, normed, scaled and rotated."""
        s = self.spec
        q = q.unflatten(-1, (s.n_heads, s.head_dim))
        if self.q_norm is not None:
            q = self.q_norm(q)
        if s.softmax_scale is not None:
            # The attention operations multiply by head_dim^-0.5 themselves, so undo that here.
            own_scale = s.softmax_scale * s.head_dim**0.5
            q = q * own_scale
        if self.rope is not None:
            q = self.rope(q, start)
        return q

    def _keys(self, k: Tensor, start: Position) -> Tensor:
        """Projected keys [B, T, G * Dqk], split into heads, normed and rotated."""
        by_head = (self.spec.n_kv_heads, self.spec.head_dim)
        k = k.unflatten(-1, by_head)
        if self.k_norm is not None:
            k = self.k_norm(k)
        if self.rope is not None:
            k = self.rope(k, start)
        return k

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: KVCache | None,
        start: Position,
        kept: list[Seen] | None = None,
    ) -> Tensor:
        """Store k and v in the cache and attend; returns the heads' outputs [B, T, H * Dv].

        `kept` passes keys and values from layer to layer. A layer with `reuse_kv` reads those that
        an earlier layer put there. Every other layer replaces them with its own.
        """
        if self.spec.reuse_kv:
            assert kept is not None
            seen = kept[0]
        else:
            seen = self.remember(k, v, cache, start)
        if kept is not None:
            kept[:] = [seen]
        return self.look(q, seen)

    def look(self, q: Tensor, seen: Seen) -> Tensor:
        """Attention of q [B, T, H, Dqk] over the seen keys and values: [B, T, H * Dv]."""
        heads = seen.attention(q, seen.k, seen.v)
        return heads.flatten(2)

    def remember(
        self,
        k: Tensor,
        v: Tensor,
        cache: KVCache | WindowCache | None,
        start: Position,
    ) -> Seen:
        """Store k and v from `start` on; return all keys and values that the queries attend to."""
        if cache is None:
            return Seen(k, v, attention)
        if isinstance(start, Tensor):
            k, v, length = cache.append_at(k, v, start)
            return Seen(k, v, partial(attention_step, length=length))
        assert isinstance(cache, KVCache)
        k, v = cache.append(k, v, start)
        return Seen(k, v, attention)

    def new_cache(
        self,
        batch: int,
        capacity: int,
        dtypes: CacheDtypes,
        device: torch.device,
    ) -> KVCache:
        k, v = self._slots(batch, capacity, dtypes, device)
        return KVCache(k, v)

    def _slots(
        self,
        batch: int,
        slots: int,
        dtypes: CacheDtypes,
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        """Zeroed keys [B, slots, G, Dqk] and values [B, slots, G, Dv]; no slots with `reuse_kv`."""
        s = self.spec
        if s.reuse_kv:
            slots = 0
        shape = (batch, slots, s.n_kv_heads)
        k = torch.zeros(
            *shape,
            s.head_dim,
            dtype=dtypes.kv,
            device=device,
        )
        v = torch.zeros(
            *shape,
            s.v_head_dim,
            dtype=dtypes.kv,
            device=device,
        )
        return k, v


class Attention(AttentionHeads):
    """x [B, T, d_model] -> [B, T, d_model]: the heads, then the output projection."""

    def __init__(
        self,
        spec: AttentionMixer,
        d_model: int,
        layer_index: int,
    ) -> None:
        super().__init__(spec, d_model)
        self.out = nn.Linear(
            spec.n_heads * spec.v_head_dim,
            d_model,
            bias=spec.out_bias,
        )

    def forward(
        self,
        x: Tensor,
        cache: KVCache | None = None,
        start: Position = 0,
        extra: Tensor | None = None,
        kept: list[Seen] | None = None,
    ) -> Tensor:
        # Queries, keys and values are not bound to names, so they are freed before the output
        # projection runs.
        out: Tensor = self.out(
            self.attend(
                *self.project(x, start, extra),
                cache,
                start,
                kept,
            )
        )
        return out
