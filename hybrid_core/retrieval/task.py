"""The synthetic retrieval language: a haystack of noise, needles that bind a key to a value of seven symbols, queries at the end.

Tokens: noise, symbols, keys, and one query mark. A needle is its key and its seven symbols; no symbol stands twice in a context, as the
digits of a long number hardly do. A query is the mark and a key, and the model goes on with the value. One context, with two needles
in a haystack of 24 tokens (n noise, s symbols, k keys):

    n3 n1 k7 s12 s4 s90 s33 s8 s51 s2 n6 n6 n0 n2 k1 s70 s9 s41 s66 s17 s5 s30 n4 n3 | ? k7 s12 s4 s90 s33 s8 s51 s2 | ? k1 s70 ...

Losses and answers stand on the seven symbols after a queried key, nowhere else.
"""

from typing import NamedTuple

import torch
from torch import Tensor

N_NOISE, N_SYMBOLS, N_KEYS = 16, 96, 32
VALUE_LEN = 7  # the paper's magic numbers have seven digits
NEEDLE_LEN = 1 + VALUE_LEN
QUERY_LEN = 2 + VALUE_LEN  # mark, key, value
FIRST_SYMBOL = N_NOISE
FIRST_KEY = FIRST_SYMBOL + N_SYMBOLS
QUERY = FIRST_KEY + N_KEYS
VOCAB_SIZE = QUERY + 1
MAX_NEEDLES = N_SYMBOLS // VALUE_LEN


class Contexts(NamedTuple):
    """B haystacks [B, T] and the needles in them [B, n, NEEDLE_LEN], first to last."""

    haystack: Tensor
    needles: Tensor


def _distinct(batch: int, n: int, among: int, generator: torch.Generator) -> Tensor:
    """[batch, n]: n different numbers below `among` in each row."""
    return torch.rand(batch, among, generator=generator).argsort(1)[:, :n]


def contexts(batch: int, length: int, n_needles: int, generator: torch.Generator, positions: Tensor | None = None) -> Contexts:
    """Random contexts of `length` tokens; needles begin at `positions` [n_needles], or anywhere that they do not overlap."""
    haystack = torch.randint(N_NOISE, (batch, length), generator=generator)
    keys = FIRST_KEY + _distinct(batch, n_needles, N_KEYS, generator)
    values = FIRST_SYMBOL + _distinct(batch, n_needles * VALUE_LEN, N_SYMBOLS, generator)
    needles = torch.cat([keys.unsqueeze(-1), values.unflatten(1, (n_needles, VALUE_LEN))], -1)
    if positions is None:
        slack = length - n_needles * NEEDLE_LEN
        gaps = (torch.rand(batch, n_needles, generator=generator) * (slack + 1)).long().sort(1).values
        positions = gaps + torch.arange(n_needles) * NEEDLE_LEN
    places = positions.expand(batch, n_needles).unsqueeze(-1) + torch.arange(NEEDLE_LEN)
    return Contexts(haystack.scatter(1, places.flatten(1), needles.flatten(1)), needles)


def queries(needles: Tensor) -> Tensor:
    """Needles [B, n, NEEDLE_LEN] -> the tokens that ask for them and answer [B, n, QUERY_LEN]."""
    return torch.cat([torch.full_like(needles[..., :1], QUERY), needles], -1)


def batch(size: int, length: int, n_needles: int, n_queries: int, generator: torch.Generator) -> Tensor:
    """Training sequences [size, length + n_queries * QUERY_LEN]: a context, then queries for `n_queries` of its needles in random order."""
    made = contexts(size, length, n_needles, generator)
    order = _distinct(size, n_queries, n_needles, generator)
    asked = made.needles.gather(1, order.unsqueeze(-1).expand(-1, -1, NEEDLE_LEN))
    return torch.cat([made.haystack, queries(asked).flatten(1)], 1)


def answers(logits: Tensor, tokens: Tensor, n_queries: int) -> tuple[Tensor, Tensor]:
    """What the model says and what is right, at the symbols of each query: logits [B, n_queries, 7, vocab] and symbols [B, n_queries, 7].

    `logits` [B, T, vocab] are those of the training sequences `tokens` [B, T].
    """
    tail = n_queries * QUERY_LEN
    said = logits[:, -tail - 1 : -1].unflatten(1, (n_queries, QUERY_LEN))
    return said[:, :, 2:], tokens[:, -tail:].unflatten(1, (n_queries, QUERY_LEN))[:, :, 2:]


def grid(length: int, depths: tuple[float, ...]) -> Tensor:
    """Where a needle at each depth begins in a context of `length` tokens [n]; raises ValueError where the needles would overlap."""
    positions = torch.tensor([round(depth * (length - NEEDLE_LEN)) for depth in depths])
    if len(depths) > 1 and int(positions.diff().min()) < NEEDLE_LEN:
        raise ValueError(f"context of {length} tokens - too short for {len(depths)} needles of {NEEDLE_LEN} tokens")
    return positions
