"""Grouped-query attention.

Shape letters: B sequences, T tokens, H query heads, G key/value heads, Dqk and Dv the widths of a
head in queries/keys and in values. The closed forms are in mixers/attention.py.
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
    """Keys and values that queries may see, and the attention operation that reads them."""

    k: Tensor
    v: Tensor
    attention: Callable[[Tensor, Tensor, Tensor], Tensor]


def remember(
    k: Tensor,
    v: Tensor,
    cache: KVCache | WindowCache | None,
    start: Position,
) -> Seen:
    """Store k and v from position `start` and return what the queries then see."""
    if cache is None:
        return Seen(k, v, attention)
    if isinstance(start, Tensor):
        k, v, length = cache.append_at(k, v, start)
        return Seen(k, v, partial(attention_step, length=length))
    assert isinstance(cache, KVCache)
    k, v = cache.append(k, v, start)
    return Seen(k, v, attention)


class AttentionHeads(nn.Module):
    """Projections and attention without the output projection.

    The intra-hybrid block uses it as one of its branches.
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
        self.q_norm = RMSNorm(spec.head_dim) if spec.qk_norm else None
        self.k_norm = RMSNorm(spec.head_dim) if spec.qk_norm and not spec.reuse_kv else None
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
        """Queries, keys and values of x [B, T, d_model].

        Gives q [B, T, H, Dqk], k [B, T, G, Dqk] and v [B, T, G, Dv]; q and k are rotated from
        position `start`. `extra`, the share of an adapter, is added to the projection first. In a
        layer that uses another layer's keys and values, k and v are empty.
        """
        s = self.spec
        qkv = self.qkv(x)
        if extra is not None:
            qkv = qkv + extra
        q, k, v = qkv.split(self.widths, -1)
        q = q.unflatten(-1, (s.n_heads, s.head_dim))
        if not s.reuse_kv:
            k = k.unflatten(-1, (s.n_kv_heads, s.head_dim))
            v = v.unflatten(-1, (s.n_kv_heads, s.v_head_dim))
        if self.q_norm is not None:
            q = self.q_norm(q)
        if self.k_norm is not None:
            k = self.k_norm(k)
        if s.softmax_scale is not None:
            # The operations scale by head_dim^-0.5 themselves.
            q = q * (s.softmax_scale * s.head_dim**0.5)
        if self.rope is not None:
            q = self.rope(q, start)
            if not s.reuse_kv:
                k = self.rope(k, start)
        return q, k, v

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: KVCache | None,
        start: Position,
        kept: list[Seen] | None = None,
    ) -> Tensor:
        """Store k and v and attend: heads [B, T, H * Dv].

        `kept` passes keys and values from layer to layer. A layer with `reuse_kv` reads what the
        last layer left there; any other layer leaves its own.
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
        """Attention of the queries over what they see: heads [B, T, H * Dv]."""
        return seen.attention(q, seen.k, seen.v).flatten(2)

    def remember(
        self,
        k: Tensor,
        v: Tensor,
        cache: KVCache | None,
        start: Position,
    ) -> Seen:
        """Store k and v and return what the queries of this layer see."""
        return remember(k, v, cache, start)

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
        """Empty keys and values [B, slots, G, D]; none in a layer that stores none of its own."""
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
    """x [B, T, d_model] -> [B, T, d_model]."""

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
        # Queries, keys and values have no name here: they are gone before the output projection.
        out: Tensor = self.out(self.attend(*self.project(x, start, extra), cache, start, kept))
        return out
