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
    """Angle per position of each of the dim/2 pairs, float32.

    Llama-3 scaling depends on how many full turns a pair makes within the original context. Pairs
    with at least high_freq_factor turns are kept. Pairs with at most low_freq_factor turns rotate
    slower by `factor`. Between the two there is a linear ramp.
    """
    exponents = torch.arange(0, dim, 2, device="cpu", dtype=torch.float64) / dim
    inv = theta**-exponents
    if scaling is None:
        return inv.float()
    turns = scaling.original_context_len * inv / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    ramp = (turns - scaling.low_freq_factor) / span
    kept = ramp.clamp(0, 1)
    scaled = inv / scaling.factor
    return (inv * kept + scaled * (1 - kept)).float()


class Tables(NamedTuple):
    """Cosine and sine of each position's angles, [positions, 1, dim].

    The sine carries the sign of the rotation: negative in the first half.
    """

    cos: Tensor
    sin: Tensor


class Rope:
    """Rotates the first `dim` channels of x [B, T, H, D] by positions start, start+1, ...

    Each device and dtype has its own tables, which grow as needed. `Rope.shared` gives all layers
    with the same settings one object, so that they share the tables.
    """

    _alive: ClassVar[WeakValueDictionary[Any, "Rope"]] = WeakValueDictionary()

    @classmethod
    def forget(cls) -> None:
        """Let models that are built from now on make new tables."""
        cls._alive.clear()

    @classmethod
    def shared(
        cls,
        dim: int,
        theta: float,
        scaling: RopeScaling | None,
    ) -> "Rope":
        settings = (dim, theta, scaling)
        rope = cls._alive.get(settings) or cls(*settings)
        return cls._alive.setdefault(settings, rope)

    def __init__(
        self,
        dim: int,
        theta: float,
        scaling: RopeScaling | None,
    ) -> None:
        self.inv_freq = inverse_frequencies(dim, theta, scaling)
        self._tables: dict[tuple[torch.device, torch.dtype], Tables] = {}

    def reserve(self, length: int, like: Tensor) -> Tables:
        """Tables for at least `length` positions, for tensors like this one.

        Longer tables may replace them here at any time. A captured graph goes on reading the old
        ones, so the owner of the graph must hold them.
        """
        place = (like.device, like.dtype)
        tables = self._tables.get(place)
        if tables is not None and tables.cos.shape[0] >= length:
            return tables
        positions = length
        if tables is not None:
            positions = max(length, 2 * tables.cos.shape[0])
        tables = self._made(positions, like)
        self._tables[place] = tables
        return tables

    def __call__(self, x: Tensor, start: Position) -> Tensor:
        """Rotate x. If `start` is a tensor, x is one token whose position has been reserved."""
        if isinstance(start, Tensor):
            tables = self._tables[x.device, x.dtype]
            cos = tables.cos.index_select(0, start.view(1))
            sin = tables.sin.index_select(0, start.view(1))
        else:
            end = start + x.shape[1]
            tables = self.reserve(end, x)
            cos = tables.cos[start:end]
            sin = tables.sin[start:end]
        dim = cos.shape[-1]
        turned = x[..., :dim]
        kept = x[..., dim:]
        swapped = torch.cat([turned[..., dim // 2 :], turned[..., : dim // 2]], -1)
        turned = torch.addcmul(turned * cos, swapped, sin)
        if kept.shape[-1] == 0:
            return turned
        return torch.cat([turned, kept], -1)

    def _made(self, length: int, like: Tensor) -> Tables:
        """Tables of `length` positions.

        They are made outside inference mode, so that training can use them, too.
        """
        with torch.inference_mode(False):
            positions = torch.arange(length, device="cpu", dtype=torch.float32)
            angles = positions[:, None] * self.inv_freq
            cos = angles.cos()
            sin = angles.sin()
            cos = torch.cat([cos, cos], -1)[:, None]
            sin = torch.cat([-sin, sin], -1)[:, None]
            return Tables(
                cos=cos.to(like.device, like.dtype),
                sin=sin.to(like.device, like.dtype),
            )
