"""The synthetic retrieval language: a haystack of noise, needles that bind a key to a value of
seven symbols, queries at the end.

Tokens: noise, symbols, keys, a query mark, and one that begins every text, for attention to rest
on. A needle is its key and its seven symbols; no symbol stands twice in a context, as hardly any
word of a long text follows two others. A query is the mark and a key, and the model goes on with
the value. One sequence with two needles in a haystack of 25 tokens (^ the beginning, n noise, s
symbols, k keys):

    ^ n3 n1 k7 s12 s4 s90 s33 s8 s51 s2 n6 n6 n0 n2 k1 s70 s9 s41 s66 s17 s5 s30 n4 n3 | ? k7 s12 s4
    s90 s33 s8 s51 s2 | ? k1 s70 ...

Loss and answers stand on the seven symbols after a queried key, nowhere else. In training the near
is asked for more often than the far, as one over its distance, for so it is in text; a map asks for
all depths alike. Before needles, the curriculum has echoes: a random text that repeats with a
period of its own in every row, which is what teaches to look up what came after the same token
before:

    s9 n2 k4 ? s9 n2 k4 ? s9 n2 ...
"""

from collections.abc import Callable
from functools import partial
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
BEGIN = QUERY + 1
VOCAB_SIZE = BEGIN + 1
MAX_NEEDLES = N_SYMBOLS // VALUE_LEN


class Sample(NamedTuple):
    """Training sequences: tokens [B, T], which of them are answers [B, T], and how many in a row
    make one answer."""

    tokens: Tensor
    answers: Tensor
    width: int


class Stage(NamedTuple):
    """A step of a curriculum: `draw(n_tokens, generator)` gives about `n_tokens` of it. It is left
    when it is learnt, or after `max_share` of the planned tokens."""

    name: str
    length: int
    draw: Callable[[int, torch.Generator], Sample]
    max_share: float


class Contexts(NamedTuple):
    """B haystacks [B, T], the needles in them [B, n, NEEDLE_LEN], first to last, and where those
    begin [B, n]."""

    haystack: Tensor
    needles: Tensor
    positions: Tensor


def distinct(batch: int, n: int, among: int, generator: torch.Generator) -> Tensor:
    """[batch, n]: n different numbers below `among` in each row, in random order."""
    return torch.rand(batch, among, generator=generator).argsort(1)[:, :n]


def spread(batch: int, n: int, width: int, length: int, generator: torch.Generator) -> Tensor:
    """[batch, n]: where n things of `width` tokens begin in `length` tokens, ascending, none on
    another."""
    slack = length - n * width
    gaps = torch.randint(slack + 1, (batch, n), generator=generator).sort(1).values
    return gaps + torch.arange(n) * width


def contexts(
    batch: int,
    length: int,
    n_needles: int,
    generator: torch.Generator,
    positions: Tensor | None = None,
) -> Contexts:
    """Random contexts of `length` tokens; needles begin at `positions` [n_needles], or anywhere
    that they do not overlap."""
    haystack = torch.randint(N_NOISE, (batch, length), generator=generator)
    haystack[:, 0] = BEGIN
    keys = FIRST_KEY + distinct(batch, n_needles, N_KEYS, generator)
    values = FIRST_SYMBOL + distinct(batch, n_needles * VALUE_LEN, N_SYMBOLS, generator)
    needles = torch.cat([keys.unsqueeze(-1), values.unflatten(1, (n_needles, VALUE_LEN))], -1)
    if positions is None:
        positions = 1 + spread(batch, n_needles, NEEDLE_LEN, length - 1, generator)
    positions = positions.expand(batch, n_needles)
    places = positions.unsqueeze(-1) + torch.arange(NEEDLE_LEN)
    return Contexts(haystack.scatter(1, places.flatten(1), needles.flatten(1)), needles, positions)


def queries(needles: Tensor) -> Tensor:
    """Needles [B, n, NEEDLE_LEN] -> the tokens that ask for them and answer [B, n, QUERY_LEN]."""
    return torch.cat([torch.full_like(needles[..., :1], QUERY), needles], -1)


def asked(
    length: int, n_needles: int, n_queries: int, n_tokens: int, generator: torch.Generator
) -> Sample:
    """Contexts of `length` tokens, each followed by queries for `n_queries` of its needles, drawn
    as one over their distance, in random order."""
    size = max(2, n_tokens // (length + n_queries * QUERY_LEN))
    made = contexts(size, length, n_needles, generator)
    distance = length - made.positions
    race = (
        torch.empty(distance.shape).exponential_(generator=generator) * distance
    )  # who comes first with a chance of 1 / distance
    order = race.argsort(1)[:, :n_queries].gather(
        1, distinct(size, n_queries, n_queries, generator)
    )
    tail = queries(made.needles.gather(1, order.unsqueeze(-1).expand(-1, -1, NEEDLE_LEN)))
    in_tail = (torch.arange(QUERY_LEN) >= 2).repeat(n_queries)
    answers = torch.cat([torch.zeros(length, dtype=torch.bool), in_tail]).expand(size, -1)
    return Sample(torch.cat([made.haystack, tail.flatten(1)], 1), answers, VALUE_LEN)


def echoes(
    length: int,
    shortest: int,
    longest: int,
    vocab_size: int,
    n_tokens: int,
    generator: torch.Generator,
) -> Sample:
    """Random texts of `shortest` to `longest` tokens, repeated until `length`: every token after
    the first turn is an answer."""
    size = max(2, n_tokens // length)
    text = torch.randint(vocab_size, (size, longest), generator=generator)
    period = torch.randint(shortest, longest + 1, (size, 1), generator=generator)
    at = torch.arange(length).expand(size, -1)
    return Sample(text.gather(1, at % period), at >= period + 1, 1)


def grid(length: int, depths: tuple[float, ...]) -> Tensor:
    """Where a needle at each depth begins in a context of `length` tokens [n]; raises ValueError
    where the needles would overlap."""
    positions = torch.tensor([1 + round(depth * (length - 1 - NEEDLE_LEN)) for depth in depths])
    if len(depths) > 1 and int(positions.diff().min()) < NEEDLE_LEN:
        raise ValueError(
            f"context of {length} tokens - too short for {len(depths)} needles of {NEEDLE_LEN} tokens"
        )
    return positions


def echo_stages(vocab_size: int) -> list[Stage]:
    """What every curriculum starts with: short periods, which a small state can hold, then longer
    ones."""
    return [
        Stage("echoes", 24, partial(echoes, 24, 2, 6, vocab_size), 0.12),
        Stage("echoes", 40, partial(echoes, 40, 4, 16, vocab_size), 0.2),
    ]


def curriculum(trained_len: int, n_needles: int) -> list[Stage]:
    """Echoes, a few needles close together, then longer contexts with more needles; last the
    trained length with all of them."""
    lengths = [48]
    while lengths[-1] * 4 // 3 < trained_len:  # 48, 64, 96, 128, 192, 256, ...
        lengths.append(lengths[-1] * 4 // 3 if len(lengths) % 2 else lengths[-1] * 3 // 2)
    middle = [_needles(n, min(n_needles, n // 10), 0.02) for n in lengths if n < trained_len]
    first = [_needles(13, 1, 0.06), _needles(21, 2, 0.12), _needles(33, 4, 0.12)]
    return [*echo_stages(VOCAB_SIZE), *first, *middle, _needles(trained_len, n_needles, 1.0)]


def _needles(length: int, n_needles: int, max_share: float) -> Stage:
    return Stage(
        f"{n_needles} needles",
        length,
        partial(asked, length, n_needles, min(n_needles, 6)),
        max_share,
    )
