"""Grouped-query attention. B sequences, T tokens, H heads, G key/value heads, D head width. Costs:
costs/attention.py."""

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
    """Keys and values that queries see, and the operation that lets them."""

    k: Tensor
    v: Tensor
    attention: Callable[[Tensor, Tensor, Tensor], Tensor]


def remember(k: Tensor, v: Tensor, cache: KVCache | WindowCache | None, start: Position) -> Seen:
    """Store k and v from position `start`; what queries then see."""
    if cache is None:
        return Seen(k, v, attention)
    if isinstance(start, Tensor):
        k, v, length = cache.append_at(k, v, start)
        return Seen(k, v, partial(attention_step, length=length))
    assert isinstance(cache, KVCache)
    return Seen(*cache.append(k, v, start), attention)


class AttentionHeads(nn.Module):
    """Projections and attention, without the output projection; the intra-hybrid block uses it as a
    branch."""

    def __init__(self, spec: AttentionMixer, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        n_own = 0 if spec.reuse_kv else spec.n_kv_heads
        self.widths = [spec.n_heads * spec.head_dim, n_own * spec.head_dim, n_own * spec.v_head_dim]
        self.qkv = nn.Linear(spec.d_input or d_model, sum(self.widths), bias=spec.qkv_bias)
        self.q_norm = RMSNorm(spec.head_dim) if spec.qk_norm else None
        self.k_norm = RMSNorm(spec.head_dim) if spec.qk_norm and not spec.reuse_kv else None
        self.rope = (
            Rope.shared(spec.rope_dim, spec.rope_theta, spec.rope_scaling)
            if spec.position == "rope"
            else None
        )

    def project(
        self, x: Tensor, start: Position, extra: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, T, H, Dqk], k [B, T, G, Dqk], v [B, T, G, Dv], the first two rotated from position
        `start`. `extra` is added to all three before: an adapter's share. Where another layer's
        keys and values are used, k and v are empty."""
        s = self.spec
        qkv = self.qkv(x) if extra is None else self.qkv(x) + extra
        q, k, v = qkv.split(self.widths, -1)
        q, k, v = (
            q.unflatten(-1, (s.n_heads, s.head_dim)),
            k if s.reuse_kv else k.unflatten(-1, (s.n_kv_heads, s.head_dim)),
            v if s.reuse_kv else v.unflatten(-1, (s.n_kv_heads, s.v_head_dim)),
        )
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        if s.softmax_scale is not None:  # the operations scale by head_dim^-0.5
            q = q * (s.softmax_scale * s.head_dim**0.5)
        if self.rope is None:
            return q, k, v
        return self.rope(q, start), k if s.reuse_kv else self.rope(k, start), v

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: KVCache | None,
        start: Position,
        kept: list[Seen] | None = None,
    ) -> Tensor:
        """Heads [B, T, H * Dv] after storing k and v. `kept` holds what the last layer that made
        keys and values saw: a layer that reuses them sees the same, any other leaves its own
        there."""
        if self.spec.reuse_kv:
            assert kept is not None
            seen = kept[0]
        else:
            seen = self.remember(k, v, cache, start)
        if kept is not None:
            kept[:] = [seen]
        return self.look(q, seen)

    def look(self, q: Tensor, seen: Seen) -> Tensor:
        """Heads [B, T, H * Dv] of the queries over what they see."""
        return seen.attention(q, seen.k, seen.v).flatten(2)

    def remember(self, k: Tensor, v: Tensor, cache: KVCache | None, start: Position) -> Seen:
        """Store k and v; what queries of this layer see."""
        return remember(k, v, cache, start)

    def new_cache(
        self, batch: int, capacity: int, dtypes: CacheDtypes, device: torch.device
    ) -> KVCache:
        return KVCache(*self._slots(batch, capacity, dtypes, device))

    def _slots(
        self, batch: int, slots: int, dtypes: CacheDtypes, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        s = self.spec
        slots = 0 if s.reuse_kv else slots
        k, v = (
            torch.zeros(batch, slots, s.n_kv_heads, d, dtype=dtypes.kv, device=device)
            for d in (s.head_dim, s.v_head_dim)
        )
        return k, v


class Attention(AttentionHeads):
    """x [B, T, d_model] -> [B, T, d_model]."""

    def __init__(self, spec: AttentionMixer, d_model: int, layer_index: int) -> None:
        super().__init__(spec, d_model)
        self.out = nn.Linear(spec.n_heads * spec.v_head_dim, d_model, bias=spec.out_bias)

    def forward(
        self,
        x: Tensor,
        cache: KVCache | None = None,
        start: Position = 0,
        extra: Tensor | None = None,
        kept: list[Seen] | None = None,
    ) -> Tensor:
        out: Tensor = self.out(self.attend(*self.project(x, start, extra), cache, start, kept))
        return out
