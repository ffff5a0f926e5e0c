"""The decode cache as an explicit object.

Shape letters: B sequences, S slots, G key/value heads, D head width.

Sizes are fixed when a cache is made; `Cache.length` says how many tokens it has seen. Reads return
views or copies in the compute dtype, in order of position.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

# The position of the next token: a number, or a 0-d integer tensor in a decode step that is
# captured or compiled once and then used for every token.
Position = int | Tensor

TORCH_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float8_e4m3fn,
}


@dataclass
class CacheDtypes:
    """The dtype of each kind of cache tensor."""

    kv: torch.dtype
    state: torch.dtype
    conv: torch.dtype


@dataclass
class KVCache:
    """Keys [B, S, G, Dqk] and values [B, S, G, Dv] of the whole context."""

    k: Tensor
    v: Tensor

    def tensors(self) -> Iterator[Tensor]:
        yield self.k
        yield self.v

    def append(
        self,
        k: Tensor,
        v: Tensor,
        start: int,
    ) -> tuple[Tensor, Tensor]:
        """Store new tokens at positions start, start+1, ... and return all keys and values."""
        end = start + k.shape[1]
        out = []
        for held, new in ((self.k, k), (self.v, v)):
            held[:, start:end] = new.to(held.dtype)
            out.append(held[:, :end].to(new.dtype))
        return out[0], out[1]

    def append_at(
        self,
        k: Tensor,
        v: Tensor,
        position: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Store the token at `position`; return all slots as stored, and how many are filled."""
        _put(self.k, k, position)
        _put(self.v, v, position)
        return self.k, self.v, position + 1


def _put(held: Tensor, new: Tensor, slot: Tensor) -> None:
    """Write one token into `slot`."""
    new = new.to(held.dtype)
    if held.itemsize == 1:  # few operations support float8, so its bytes are copied
        held = held.view(torch.uint8)
        new = new.view(torch.uint8)
    held.index_copy_(1, slot.view(1), new)


@dataclass
class WindowCache:
    """Keys and values of the first `sink` positions and, in a ring, of the last `window` ones."""

    k: Tensor
    v: Tensor
    window: int
    sink: int

    def tensors(self) -> Iterator[Tensor]:
        yield self.k
        yield self.v

    def append_one(
        self,
        k: Tensor,
        v: Tensor,
        start: int,
    ) -> tuple[Tensor, Tensor]:
        """Store the token at position `start`; return all it may see, in no particular order."""
        slot = start
        if start >= self.sink:
            slot = self.sink + (start - self.sink) % self.window
        kept = min(start + 1, self.k.shape[1])
        out = []
        for held, new in ((self.k, k), (self.v, v)):
            held[:, slot : slot + 1] = new.to(held.dtype)
            out.append(held[:, :kept].to(new.dtype))
        return out[0], out[1]

    def append_at(
        self,
        k: Tensor,
        v: Tensor,
        position: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Store the token at `position`; return all slots as stored, and how many are filled."""
        in_ring = self.sink + (position - self.sink) % self.window
        slot = torch.where(position < self.sink, position, in_ring)
        _put(self.k, k, slot)
        _put(self.v, v, slot)
        filled = (position + 1).clamp(max=self.k.shape[1])
        return self.k, self.v, filled

    def append(
        self,
        k: Tensor,
        v: Tensor,
        start: int,
    ) -> tuple[Tensor, Tensor, int]:
        """Store new tokens; return sinks, kept window and new tokens, in order of position.

        The third value is how many positions are missing after the sinks.
        """
        first_kept = max(self.sink, start - self.window)
        if start == 0:
            self._store(self.k, k, start)
            self._store(self.v, v, start)
            return k, v, 0
        out = []
        for held, new in ((self.k, k), (self.v, v)):
            sinks = held[:, : min(start, self.sink)]
            past = [sinks, *self._ring(held, first_kept, start)]
            pieces = [piece.to(new.dtype) for piece in past]
            out.append(torch.cat([*pieces, new], 1))
            self._store(held, new, start)
        return out[0], out[1], first_kept - self.sink

    def _ring(
        self,
        held: Tensor,
        first: int,
        end: int,
    ) -> list[Tensor]:
        """The slices of the ring that hold positions first .. end-1, in order of position.

        There are at most `window` such positions; they may wrap around the end of the ring.
        """
        if end <= first:
            return []
        begin = (first - self.sink) % self.window
        n = end - first
        until_wrap = min(n, self.window - begin)
        ring = held[:, self.sink :]
        before_wrap = ring[:, begin : begin + until_wrap]
        after_wrap = ring[:, : n - until_wrap]
        return [before_wrap, after_wrap]

    def _store(self, held: Tensor, new: Tensor, start: int) -> None:
        """Write the new tokens that stay: sinks, and the last `window` of the others."""
        end = start + new.shape[1]
        if start < self.sink:
            sinks = new[:, : self.sink - start]
            held[:, start : min(end, self.sink)] = sinks.to(held.dtype)
        first = max(start, self.sink, end - self.window)
        taken = first - start
        for piece in self._ring(held, first, end):
            piece.copy_(new[:, taken : taken + piece.shape[1]])
            taken += piece.shape[1]


@dataclass
class SSMCache:
    """Scan state, and the last d_conv - 1 inputs of the convolution [B, d_conv - 1, channels].

    The state is [B, H, P, N] in Mamba-2 and [B, channels, N] in Mamba-1.
    """

    state: Tensor
    conv: Tensor

    def tensors(self) -> Iterator[Tensor]:
        yield self.state
        yield self.conv


@dataclass
class BranchCache:
    """The two caches of an intra-hybrid block."""

    attention: KVCache
    ssm: SSMCache

    def tensors(self) -> Iterator[Tensor]:
        yield from self.attention.tensors()
        yield from self.ssm.tensors()


LayerCache = KVCache | WindowCache | SSMCache | BranchCache


@dataclass
class Cache:
    """One cache per layer, room for `capacity` tokens, and the number of tokens seen so far."""

    layers: list[LayerCache]
    capacity: int
    length: int = field(default=0)

    def tensors(self) -> Iterator[Tensor]:
        for layer in self.layers:
            yield from layer.tensors()

    def recurrent(self) -> Iterator[Tensor]:
        """The tensors that every step overwrites. Slots of keys and values are written once."""
        for layer in self.layers:
            part = layer
            if isinstance(layer, BranchCache):
                part = layer.ssm
            if isinstance(part, SSMCache):
                yield from part.tensors()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, for all sequences of the batch together."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def room_for(self, n_tokens: int) -> None:
        """Raise ValueError unless `n_tokens` more fit."""
        if self.length + n_tokens > self.capacity:
            raise ValueError(
                f"the cache has room for {self.capacity} tokens and holds {self.length}: "
                f"{n_tokens} more do not fit"
            )
