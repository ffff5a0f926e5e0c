"""The decode cache as an explicit object.

An attention layer keeps keys and values (the KV cache). A Mamba layer keeps its recurrent state and
the last inputs of its convolution. All tensors have their full size from the start; `Cache.length`
is the number of tokens seen so far. Reads return views or copies in the compute dtype, in order of
position unless stated otherwise.

Shape letters: B sequences, S slots, G key/value heads, Dqk and Dv head widths of keys and values, H
heads of width P and N states per channel in a Mamba layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

# The position of the next token: an int, or a 0-d integer tensor in a decode step that is captured
# or compiled once and then used for every token.
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
        _write_slots(self.k, k, start)
        _write_slots(self.v, v, start)
        n_filled = start + k.shape[1]
        keys = self.k[:, :n_filled].to(k.dtype)
        values = self.v[:, :n_filled].to(v.dtype)
        return keys, values

    def append_at(
        self,
        k: Tensor,
        v: Tensor,
        position: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Store one token; return all slots in their stored dtype, and how many are filled."""
        _write_token(self.k, k, position)
        _write_token(self.v, v, position)
        return self.k, self.v, position + 1


def _write_slots(held: Tensor, new: Tensor, start: int) -> None:
    """Write new tokens [B, T, G, Dqk or Dv] into the slots from `start`."""
    end = start + new.shape[1]
    held[:, start:end] = new.to(held.dtype)


def _write_token(held: Tensor, new: Tensor, slot: Tensor) -> None:
    """Write one token [B, 1, G, Dqk or Dv] into `slot`, a tensor on the device."""
    new = new.to(held.dtype)
    if held.itemsize == 1:  # few operations support float8, so copy its bytes
        held = held.view(torch.uint8)
        new = new.view(torch.uint8)
    held.index_copy_(1, slot.view(1), new)


@dataclass
class WindowCache:
    """Keys and values of the first `sink` positions and the last `window` ones.

    The last ones form a ring buffer: position p >= sink is in slot sink + (p - sink) % window.
    """

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
        """Store one token at `start`; return all keys and values it may see, in any order."""
        slot = start
        if start >= self.sink:
            slot = self._ring_slot(start)
        _write_slots(self.k, k, slot)
        _write_slots(self.v, v, slot)
        n_filled = min(start + 1, self.k.shape[1])
        keys = self.k[:, :n_filled].to(k.dtype)
        values = self.v[:, :n_filled].to(v.dtype)
        return keys, values

    def _ring_slot(self, position: int) -> int:
        ring_index = (position - self.sink) % self.window
        return self.sink + ring_index

    def append_at(
        self,
        k: Tensor,
        v: Tensor,
        position: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Store one token; return all slots in their stored dtype, and how many are filled."""
        ring_index = (position - self.sink) % self.window
        slot = torch.where(
            position < self.sink,
            position,
            self.sink + ring_index,
        )
        _write_token(self.k, k, slot)
        _write_token(self.v, v, slot)
        n_seen = position + 1
        n_filled = n_seen.clamp(max=self.k.shape[1])
        return self.k, self.v, n_filled

    def append(
        self,
        k: Tensor,
        v: Tensor,
        start: int,
    ) -> tuple[Tensor, Tensor, int]:
        """Store new tokens; return sinks, kept window and new tokens, in order of position.

        The third value is the number of positions missing after the sinks.
        """
        keys = self._append(self.k, k, start)
        values = self._append(self.v, v, start)
        if start == 0:
            return keys, values, 0
        first_kept = self._first_kept(start)
        return keys, values, first_kept - self.sink

    def _append(self, held: Tensor, new: Tensor, start: int) -> Tensor:
        """Store new keys, or new values, and return the past ones followed by the new ones."""
        joined = new
        if start > 0:
            joined = self._behind_past(held, new, start)
        self._store(held, new, start)
        return joined

    def _behind_past(self, held: Tensor, new: Tensor, start: int) -> Tensor:
        """The sinks and the kept window before position `start`, then the new tokens."""
        n_sinks = min(start, self.sink)
        window = self._ring(held, self._first_kept(start), start)
        pieces = [held[:, :n_sinks], *window]
        past = [piece.to(new.dtype) for piece in pieces]
        return torch.cat([*past, new], 1)

    def _first_kept(self, start: int) -> int:
        """The first position after the sinks that the ring still holds before `start`."""
        return max(self.sink, start - self.window)

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
        """Write the new tokens to keep: sinks, and the last `window` of the others."""
        end = start + new.shape[1]
        if start < self.sink:
            n_more_sinks = self.sink - start
            _write_slots(held, new[:, :n_more_sinks], start)
        first = max(start, self.sink, end - self.window)
        taken = first - start
        for piece in self._ring(held, first, end):
            end_of_piece = taken + piece.shape[1]
            piece.copy_(new[:, taken:end_of_piece])
            taken = end_of_piece


@dataclass
class SSMCache:
    """The state of the scan, and the last d_conv - 1 inputs of the convolution.

    state is [B, H, P, N] in Mamba-2 and [B, channels, N] in Mamba-1; conv is [B, d_conv - 1,
    channels].
    """

    state: Tensor
    conv: Tensor

    @classmethod
    def zeros(
        cls,
        batch: int,
        state: tuple[int, ...],
        conv: tuple[int, ...],
        dtypes: CacheDtypes,
        device: torch.device,
    ) -> Self:
        """The cache before the first token. The shapes are those after the batch axis."""
        return cls(
            torch.zeros(batch, *state, dtype=dtypes.state, device=device),
            torch.zeros(batch, *conv, dtype=dtypes.conv, device=device),
        )

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
    """One cache per layer for up to `capacity` tokens, and the number of tokens seen so far."""

    layers: list[LayerCache]
    capacity: int
    length: int = field(default=0)

    def tensors(self) -> Iterator[Tensor]:
        for layer in self.layers:
            yield from layer.tensors()

    def recurrent(self) -> Iterator[Tensor]:
        """The tensors that every step overwrites. Keys and values are not among them."""
        for layer in self.layers:
            part = layer
            if isinstance(layer, BranchCache):
                part = layer.ssm
            if isinstance(part, SSMCache):
                yield from part.tensors()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, for the whole batch."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def room_for(self, n_tokens: int) -> None:
        """Raise ValueError unless `n_tokens` more fit."""
        if self.length + n_tokens > self.capacity:
            raise ValueError(
                f"the cache has room for {self.capacity} tokens and holds {self.length}: "
                f"{n_tokens} more do not fit"
            )
