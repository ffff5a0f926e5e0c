"""The synthetic retrieval language: needles in a haystack of noise, then queries for them.

A needle binds a key to a value of seven symbols. The tokens are noise, symbols, keys, a query mark,
and one token that begins every text, for attention to rest on. No symbol appears twice in a
context, since in a long text hardly any word follows two different words. A query is the mark and a
key; the model continues with the value. Here is one sequence with two needles in a haystack of 25
tokens (^ the beginning, n noise, s symbols, k keys):

    ^ n3 n1 k7 s12 s4 s90 s33 s8 s51 s2 n6 n6 n0 n2 k1 s70 s9 s41 s66 s17 s5 s30 n4 n3 | ? k7 s12 s4
    s90 s33 s8 s51 s2 | ? k1 s70 ...

Only the seven symbols after a queried key are answers and count for the loss. Training asks for
near needles more often than for far ones, in proportion to 1 / distance, as references in text do.
A map asks for all depths equally often.

Before the needles, the curriculum has echoes: a random text that repeats, with its own period in
every row. Echoes teach a model to look up what followed the same token before:

    s9 n2 k4 ? s9 n2 k4 ? s9 n2 ...
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

N_NOISE = 16
N_SYMBOLS = 96
N_KEYS = 32
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
    """Training sequences, and which of their tokens are answers."""

    tokens: Tensor  # [B, T]
    answers: Tensor  # [B, T], true where a token belongs to an answer
    width: int  # tokens of one answer


class Stage(NamedTuple):
    """A step of a curriculum: `draw(n_tokens, generator)` gives about `n_tokens` of its data.

    It ends when it is learnt, or after `max_share` of the planned tokens.
    """

    name: str
    length: int
    draw: Callable[[int, torch.Generator], Sample]
    max_share: float


class Contexts(NamedTuple):
    """B haystacks with n needles each, in the order of their positions."""

    haystack: Tensor  # [B, T], needles included
    needles: Tensor  # [B, n, NEEDLE_LEN]
    positions: Tensor  # [B, n], where each needle begins


def distinct(
    batch: int,
    n: int,
    among: int,
    generator: torch.Generator,
) -> Tensor:
    """[batch, n]: n different numbers below `among` in each row, in random order."""
    order = torch.rand(batch, among, generator=generator).argsort(1)
    return order[:, :n]


def spread(
    batch: int,
    n: int,
    width: int,
    length: int,
    generator: torch.Generator,
) -> Tensor:
    """[batch, n]: random starts of n things of `width` tokens in `length` tokens.

    They ascend, and no two things overlap.
    """
    slack = length - n * width
    drawn = torch.randint(slack + 1, (batch, n), generator=generator)
    gaps = drawn.sort(1).values
    return gaps + torch.arange(n) * width


def contexts(
    batch: int,
    length: int,
    n_needles: int,
    generator: torch.Generator,
    positions: Tensor | None = None,
) -> Contexts:
    """Random contexts of `length` tokens.

    Needles begin at `positions` [n_needles], or at random places where they do not overlap.
    """
    haystack = torch.randint(N_NOISE, (batch, length), generator=generator)
    haystack[:, 0] = BEGIN
    keys = FIRST_KEY + distinct(batch, n_needles, N_KEYS, generator)
    symbols = FIRST_SYMBOL + distinct(batch, n_needles * VALUE_LEN, N_SYMBOLS, generator)
    values = symbols.unflatten(1, (n_needles, VALUE_LEN))
    needles = torch.cat([keys.unsqueeze(-1), values], -1)
    if positions is None:
        positions = 1 + spread(batch, n_needles, NEEDLE_LEN, length - 1, generator)
    positions = positions.expand(batch, n_needles)
    places = positions.unsqueeze(-1) + torch.arange(NEEDLE_LEN)
    haystack = haystack.scatter(1, places.flatten(1), needles.flatten(1))
    return Contexts(haystack, needles, positions)


def queries(needles: Tensor) -> Tensor:
    """The queries for needles [B, n, NEEDLE_LEN], answers included: [B, n, QUERY_LEN]."""
    marks = torch.full_like(needles[..., :1], QUERY)
    return torch.cat([marks, needles], -1)


def asked(
    length: int,
    n_needles: int,
    n_queries: int,
    n_tokens: int,
    generator: torch.Generator,
) -> Sample:
    """Contexts of `length` tokens, each followed by queries for `n_queries` of its needles.

    Needles are drawn in proportion to 1 / distance and asked for in random order.
    """
    size = max(2, n_tokens // (length + n_queries * QUERY_LEN))
    made = contexts(size, length, n_needles, generator)
    distance = length - made.positions
    # A race: the smallest of exponential times with rates 1 / distance belongs to each needle with
    # a chance in proportion to its rate, and so on for the second smallest.
    arrival = torch.empty(distance.shape).exponential_(generator=generator) * distance
    first = arrival.argsort(1)[:, :n_queries]
    order = first.gather(1, distinct(size, n_queries, n_queries, generator))
    index = order.unsqueeze(-1).expand(-1, -1, NEEDLE_LEN)
    tail = queries(made.needles.gather(1, index))
    in_context = torch.zeros(length, dtype=torch.bool)
    in_tail = (torch.arange(QUERY_LEN) >= 2).repeat(n_queries)
    answers = torch.cat([in_context, in_tail]).expand(size, -1)
    tokens = torch.cat([made.haystack, tail.flatten(1)], 1)
    return Sample(tokens, answers, VALUE_LEN)


def echoes(
    length: int,
    shortest: int,
    longest: int,
    vocab_size: int,
    n_tokens: int,
    generator: torch.Generator,
) -> Sample:
    """Random texts of `shortest` to `longest` tokens, repeated up to `length` tokens.

    Every token after the first repetition has begun is an answer.
    """
    size = max(2, n_tokens // length)
    text = torch.randint(vocab_size, (size, longest), generator=generator)
    period = torch.randint(
        shortest,
        longest + 1,
        (size, 1),
        generator=generator,
    )
    at = torch.arange(length).expand(size, -1)
    tokens = text.gather(1, at % period)
    return Sample(tokens, at >= period + 1, 1)


def grid(length: int, depths: tuple[float, ...]) -> Tensor:
    """The start of a needle at each depth (0 to 1) in a context of `length` tokens [n].

    Raises ValueError where the needles would overlap.
    """
    last_start = length - 1 - NEEDLE_LEN
    positions = torch.tensor([1 + round(depth * last_start) for depth in depths])
    if len(depths) > 1 and int(positions.diff().min()) < NEEDLE_LEN:
        raise ValueError(
            f"context of {length} tokens - "
            f"too short for {len(depths)} needles of {NEEDLE_LEN} tokens"
        )
    return positions


def echo_stages(vocab_size: int) -> list[Stage]:
    """The first stages of every curriculum: short periods, then longer ones.

    A small state can hold a short period.
    """
    short = partial(echoes, 24, 2, 6, vocab_size)
    longer = partial(echoes, 40, 4, 16, vocab_size)
    return [
        Stage("echoes", 24, short, 0.12),
        Stage("echoes", 40, longer, 0.2),
    ]


def curriculum(trained_len: int, n_needles: int) -> list[Stage]:
    """Echoes, then a few needles close together, then longer contexts with more needles.

    The last stage is the trained length with all needles.
    """
    stages = echo_stages(VOCAB_SIZE)
    stages += [
        _needles(13, 1, 0.06),
        _needles(21, 2, 0.12),
        _needles(33, 4, 0.12),
    ]
    for length in _middle_lengths(trained_len):
        stages.append(_needles(length, min(n_needles, length // 10), 0.02))
    stages.append(_needles(trained_len, n_needles, 1.0))
    return stages


def _middle_lengths(trained_len: int) -> Iterator[int]:
    """48, 64, 96, 128, 192, 256, ... below `trained_len`: times 4/3 and 3/2 in turn."""
    lengths = [48]
    while lengths[-1] * 4 // 3 < trained_len:
        if len(lengths) % 2:
            lengths.append(lengths[-1] * 4 // 3)
        else:
            lengths.append(lengths[-1] * 3 // 2)
    for length in lengths:
        if length < trained_len:
            yield length


def _needles(length: int, n_needles: int, max_share: float) -> Stage:
    draw = partial(asked, length, n_needles, min(n_needles, 6))
    return Stage(f"{n_needles} needles", length, draw, max_share)
