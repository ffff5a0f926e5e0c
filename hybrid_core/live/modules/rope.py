"""Rotary position embedding, of a head or of its first channels, with Llama-3 frequency scaling.

Halves are rotated (Llama's layout in transformers).
"""

import math
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from hybrid_core.live.modules.cache import Position
from hybrid_core.mixers.attention import RopeScaling


def inverse_frequencies(dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """Angle per position of each of the dim/2 pairs, float32. With scaling: wavelengths beyond the
    original context divided by low_freq_factor turn slower by `factor`, those under it divided by
    high_freq_factor are kept, with a linear ramp between."""
    inv = theta ** -(torch.arange(0, dim, 2, device="cpu", dtype=torch.float64) / dim)
    if scaling is None:
        return inv.float()
    turns = (
        scaling.original_context_len * inv / (2 * math.pi)
    )  # full turns within the original context
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = ramp.clamp(0, 1)
    return (inv * kept + inv / scaling.factor * (1 - kept)).float()


class Tables(NamedTuple):
    """Cosine and sine of each position's angles, [positions, 1, dim], the sign of the rotation in
    the sine."""

    cos: Tensor
    sin: Tensor


class Rope:
    """Rotates the first `dim` channels of x [B, T, H, D] by positions start, start+1, ... Each
    device and dtype has tables of its own, which grow as needed.

    `Rope.shared` gives all layers with the same settings one object, hence the same tables.
    """

    _alive: ClassVar[WeakValueDictionary[Any, "Rope"]] = WeakValueDictionary()

    @classmethod
    def forget(cls) -> None:
        """Models built from now on make tables of their own."""
        cls._alive.clear()

    @classmethod
    def shared(cls, dim: int, theta: float, scaling: RopeScaling | None) -> "Rope":
        rope = cls._alive.get((dim, theta, scaling)) or cls(dim, theta, scaling)
        return cls._alive.setdefault((dim, theta, scaling), rope)

    def __init__(self, dim: int, theta: float, scaling: RopeScaling | None) -> None:
        self.inv_freq = inverse_frequencies(dim, theta, scaling)
        self._tables: dict[tuple[torch.device, torch.dtype], Tables] = {}

    def reserve(self, length: int, like: Tensor) -> Tables:
        """Tables for at least `length` positions of tensors like this one. Longer ones may replace
        them here at any time: a graph that was captured over them reads on where they lie, so its
        owner has to hold them."""
        place = like.device, like.dtype
        tables = self._tables.get(place)
        if tables is None or tables.cos.shape[0] < length:
            positions = length if tables is None else max(length, 2 * tables.cos.shape[0])
            tables = self._tables[place] = self._made(positions, like)
        return tables

    def __call__(self, x: Tensor, start: Position) -> Tensor:
        """With a position in a tensor, one token, whose row must have been reserved before."""
        if isinstance(start, Tensor):
            cos, sin = (
                table.index_select(0, start.view(1)) for table in self._tables[x.device, x.dtype]
            )
        else:
            end = start + x.shape[1]
            cos, sin = (table[start:end] for table in self.reserve(end, x))
        dim = cos.shape[-1]
        turned, kept = x[..., :dim], x[..., dim:]
        rotated = torch.cat([turned[..., dim // 2 :], turned[..., : dim // 2]], -1)
        turned = torch.addcmul(turned * cos, rotated, sin)
        return torch.cat([turned, kept], -1) if kept.shape[-1] else turned

    def _made(self, length: int, like: Tensor) -> Tables:
        """Tables of `length` positions, made outside inference mode, so that training can use
        them."""
        with torch.inference_mode(False):
            angles = (
                torch.arange(length, device="cpu", dtype=torch.float32)[:, None] * self.inv_freq
            )
            cos, sin = angles.cos(), angles.sin()
            doubled = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
            return Tables(*(table[:, None].to(like.device, like.dtype) for table in doubled))
