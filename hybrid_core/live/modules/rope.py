"""Rotary position embedding (RoPE, arXiv 2104.09864) for all or the first channels of a head.

Channel i of the first half and channel i of the second half are a pair, as in transformers'
LlamaAttention. Frequencies may be scaled as in Llama 3 (`rope_type: llama3` of a config.json,
`_compute_llama3_parameters` in transformers' modeling_rope_utils.py).

Shape letters: B sequences, T tokens, H heads of width D.
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
    with at least high_freq_factor turns are unchanged. Pairs with at most low_freq_factor turns
    rotate slower by `factor`. Between the two there is a linear ramp.
    """
    channels = torch.arange(0, dim, 2, device="cpu", dtype=torch.float64)
    angles = theta ** -(channels / dim)
    if scaling is None:
        return angles.float()
    turns = scaling.original_context_len * angles / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    ramp = (turns - scaling.low_freq_factor) / span
    kept_share = ramp.clamp(0, 1)
    slowed = angles / scaling.factor
    mixed = angles * kept_share + slowed * (1 - kept_share)
    return mixed.float()


class Tables(NamedTuple):
    """Cosine and sine of each position's angles, [positions, 1, dim].

    The sine carries the sign of the rotation: negative in the first half.
    """

    cos: Tensor
    sin: Tensor


class Rope:
    """Rotates the first `dim` channels of x [B, T, H, D] by positions start, start+1, ...

    Each device and dtype has its own tables, which grow as needed. `Rope.shared` returns the same
    object for all layers with the same settings, so that they share the tables.
    """

    _alive: ClassVar[WeakValueDictionary[Any, "Rope"]] = WeakValueDictionary()

    @classmethod
    def forget(cls) -> None:
        """Make models built from now on create new tables."""
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
        """Tables for at least `length` positions, on the device and in the dtype of `like`.

        Longer tables may replace them at any time. A captured graph still reads the old ones, so
        the owner of the graph must keep them.
        """
        place = (like.device, like.dtype)
        tables = self._tables.get(place)
        if tables is None:
            tables = self._made(length, like)
        n_positions = tables.cos.shape[0]
        if n_positions < length:
            tables = self._made(max(length, 2 * n_positions), like)
        self._tables[place] = tables
        return tables

    def __call__(self, x: Tensor, start: Position) -> Tensor:
        """Rotate x. If `start` is a tensor, x is one token whose position has been reserved."""
        cos, sin = self._rows(x, start)
        dim = cos.shape[-1]
        turned = x[..., :dim]
        kept = x[..., dim:]
        first_half, second_half = turned.chunk(2, -1)
        swapped = torch.cat([second_half, first_half], -1)
        turned = torch.addcmul(turned * cos, swapped, sin)
        if kept.shape[-1] == 0:
            return turned
        return torch.cat([turned, kept], -1)

    def _rows(self, x: Tensor, start: Position) -> Tables:
        """The rows of the tables for the positions of x [B, T, H, D], [T, 1, dim]."""
        if isinstance(start, Tensor):
            tables = self._tables[x.device, x.dtype]
            row = start.view(1)
            return Tables(
                cos=tables.cos.index_select(0, row),
                sin=tables.sin.index_select(0, row),
            )
        end = start + x.shape[1]
        tables = self.reserve(end, x)
        return Tables(
            cos=tables.cos[start:end],
            sin=tables.sin[start:end],
        )

    def _made(self, length: int, like: Tensor) -> Tables:
        """Tables of `length` positions.

        They are created outside inference mode, so that training can use them, too.
        """
        with torch.inference_mode(False):
            positions = torch.arange(length, device="cpu", dtype=torch.float32)
            angles = positions[:, None] * self.inv_freq
            cos = angles.cos()
            sin = angles.sin()
            cos = torch.cat([cos, cos], -1)
            sin = torch.cat([-sin, sin], -1)
            return Tables(
                cos=cos[:, None].to(like.device, like.dtype),
                sin=sin[:, None].to(like.device, like.dtype),
            )
