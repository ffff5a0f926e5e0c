"""Grouped-query attention. B sequences, T tokens, H heads, G key/value heads, D head width. Costs: costs/attention.py."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from hybrid_core.modules.cache import CacheDtypes, KVCache, Position, WindowCache
from hybrid_core.modules.rope import Rope
from hybrid_core.spec import AttentionMixer
from kernels.attention import attention, attention_step


def remember(
    k: Tensor, v: Tensor, cache: KVCache | WindowCache | None, start: Position
) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Store k and v from position `start`; the keys and values that queries then see, and the operation that lets them."""
    if cache is None:
        return k, v, attention
    if isinstance(start, Tensor):
        k, v, length = cache.append_at(k, v, start)
        return k, v, partial(attention_step, length=length)
    assert isinstance(cache, KVCache)
    return *cache.append(k, v, start), attention


class AttentionHeads(nn.Module):
    """Projections and attention, without the output projection; the intra-hybrid block uses it as a branch."""

    def __init__(self, spec: AttentionMixer, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        self.widths = [spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim, spec.n_kv_heads * spec.v_head_dim]
        self.qkv = nn.Linear(d_model, sum(self.widths), bias=False)
        self.rope = Rope.shared(spec.rope_dim, spec.rope_theta, spec.rope_scaling) if spec.position == "rope" else None

    def project(self, x: Tensor, start: Position) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, T, H, Dqk], k [B, T, G, Dqk], v [B, T, G, Dv], the first two rotated from position `start`."""
        s = self.spec
        q, k, v = self.qkv(x).split(self.widths, -1)
        q, k, v = (
            q.unflatten(-1, (s.n_heads, s.head_dim)),
            k.unflatten(-1, (s.n_kv_heads, s.head_dim)),
            v.unflatten(-1, (s.n_kv_heads, s.v_head_dim)),
        )
        return (self.rope(q, start), self.rope(k, start), v) if self.rope else (q, k, v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, cache: KVCache | None, start: Position) -> Tensor:
        """Heads [B, T, H * Dv] after storing k and v."""
        k, v, attend = remember(k, v, cache, start)
        return attend(q, k, v).flatten(2)

    def new_cache(self, batch: int, capacity: int, dtypes: CacheDtypes, device: torch.device) -> KVCache:
        return KVCache(*self._slots(batch, capacity, dtypes, device))

    def _slots(self, batch: int, slots: int, dtypes: CacheDtypes, device: torch.device) -> tuple[Tensor, Tensor]:
        s = self.spec
        k, v = (torch.zeros(batch, slots, s.n_kv_heads, d, dtype=dtypes.kv, device=device) for d in (s.head_dim, s.v_head_dim))
        return k, v


class Attention(AttentionHeads):
    """x [B, T, d_model] -> [B, T, d_model]."""

    def __init__(self, spec: AttentionMixer, d_model: int, layer_index: int) -> None:
        super().__init__(spec, d_model)
        self.out = nn.Linear(spec.n_heads * spec.v_head_dim, d_model, bias=False)

    def forward(self, x: Tensor, cache: KVCache | None = None, start: Position = 0) -> Tensor:
        out: Tensor = self.out(self.attend(*self.project(x, start), cache, start))
        return out
