"""Rotary position embedding, of a head or of its first channels, with Llama-3 frequency scaling.

Halves are rotated (Llama's layout in transformers).
"""

import math
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from hybrid_core.modules.cache import Position
from hybrid_core.spec import RopeScaling


def inverse_frequencies(dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """Angle per position of each of the dim/2 pairs, float32. With scaling: wavelengths beyond the original context divided by
    low_freq_factor turn slower by `factor`, those under it divided by high_freq_factor are kept, with a linear ramp between."""
    inv = theta ** -(torch.arange(0, dim, 2, device="cpu", dtype=torch.float64) / dim)
    if scaling is None:
        return inv.float()
    turns = scaling.original_context_len * inv / (2 * math.pi)  # full turns within the original context
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = ramp.clamp(0, 1)
    return (inv * kept + inv / scaling.factor * (1 - kept)).float()


class Rope:
    """Rotates the first `dim` channels of x [B, T, H, D] by positions start, start+1, ... Tables grow as needed and live on x's device.

    `Rope.shared` gives all layers with the same settings one object, hence one table.
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
        self._cos = self._sin = torch.empty(0, 1, dim, device="cpu")

    def reserve(self, length: int, like: Tensor) -> None:
        """Make the tables long enough for `length` positions of tensors like this one."""
        enough = self._cos.shape[0]
        if enough < length or self._cos.device != like.device or self._cos.dtype != like.dtype:
            self._grow(enough if enough >= length else max(length, 2 * enough), like)

    def __call__(self, x: Tensor, start: Position) -> Tensor:
        """With a position in a tensor, one token, whose row must have been reserved before."""
        if isinstance(start, Tensor):
            cos, sin = self._cos.index_select(0, start.view(1)), self._sin.index_select(0, start.view(1))
        else:
            end = start + x.shape[1]
            self.reserve(end, x)
            cos, sin = self._cos[start:end], self._sin[start:end]
        dim = cos.shape[-1]
        turned, kept = x[..., :dim], x[..., dim:]
        rotated = torch.cat([turned[..., dim // 2 :], turned[..., : dim // 2]], -1)
        turned = torch.addcmul(turned * cos, rotated, sin)
        return torch.cat([turned, kept], -1) if kept.shape[-1] else turned

    def _grow(self, length: int, like: Tensor) -> None:
        """Tables [length, 1, D], the sign of the rotation in the sine; made outside inference mode, so that training can use them."""
        with torch.inference_mode(False):
            angles = torch.arange(length, device="cpu", dtype=torch.float32)[:, None] * self.inv_freq
            cos, sin = angles.cos(), angles.sin()
            self._cos = torch.cat([cos, cos], -1)[:, None].to(like.device, like.dtype)
            self._sin = torch.cat([-sin, sin], -1)[:, None].to(like.device, like.dtype)
