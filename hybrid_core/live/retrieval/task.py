"""The needle task that a proxy is trained and tested on.

The language is synthetic. A context is a haystack of noise with needles in it, followed by queries.
A needle binds a key to a value of seven symbols. A query is a query mark and a key, and the model
has to continue with the value. A special token begins every text, so that attention has a sink. No
symbol appears twice in a context: in a long text, too, a word is rarely followed by two different
words. Here is a sequence with two needles in a haystack of 25 tokens (^ start,
n noise, s symbol, k key):

    ^ n3 n1 k7 s12 s4 s90 s33 s8 s51 s2 n6 n6 n0 n2 k1 s70 s9 s41 s66 s17 s5 s30 n4 n3 | ? k7 s12 s4
    s90 s33 s8 s51 s2 | ? k1 s70 ...

Only the seven symbols after a queried key count for the loss. Training queries near needles more
often than far ones, in proportion to 1 / distance, because references in text behave that way. A
map queries all depths equally often.

The curriculum begins with echoes: random text that repeats, with a different period in every row.
Echoes teach a model to look up what followed a token last time:

    s9 n2 k4 ? s9 n2 k4 ? s9 n2 ...
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
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
MAX_QUERIES = 6  # of a training context


class Sample(NamedTuple):
    """A batch of training sequences, and which of their tokens are answers."""

    tokens: Tensor  # [B, T]
    answers: Tensor  # [B, T], true where a token belongs to an answer
    width: int  # tokens per answer


class Stage(NamedTuple):
    """One stage of a curriculum. It ends when it is learnt, or after `max_share` of the plan."""

    name: str
    length: int  # tokens per context
    draw: Callable[[int, torch.Generator], Sample]  # makes about this many tokens of data
    max_share: float  # of the planned training tokens


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
    """n distinct random numbers below `among` in each row: [batch, n]."""
    random = torch.rand(batch, among, generator=generator)
    return random.argsort(1)[:, :n]


def spread(
    batch: int,
    n: int,
    width: int,
    length: int,
    generator: torch.Generator,
) -> Tensor:
    """Random starts for n blocks of `width` tokens in `length` tokens: [batch, n], ascending.

    The blocks do not overlap.
    """
    free_tokens = length - n * width
    drawn = torch.randint(
        free_tokens + 1,
        (batch, n),
        generator=generator,
    )
    free_before = drawn.sort(1).values
    return free_before + torch.arange(n) * width


def contexts(
    batch: int,
    length: int,
    n_needles: int,
    generator: torch.Generator,
    positions: Tensor | None = None,
) -> Contexts:
    """Random contexts of `length` tokens with `n_needles` each.

    The needles begin at `positions` [n_needles]. Without `positions`, they begin at random places
    and do not overlap.
    """
    noise = torch.randint(
        N_NOISE,
        (batch, length),
        generator=generator,
    )
    noise[:, 0] = BEGIN
    needles = _random_needles(batch, n_needles, generator)
    if positions is None:
        after_begin = spread(
            batch,
            n_needles,
            NEEDLE_LEN,
            length - 1,
            generator,
        )
        positions = 1 + after_begin
    positions = positions.expand(batch, n_needles)
    places = positions[..., None] + torch.arange(NEEDLE_LEN)
    haystack = noise.scatter(
        1,
        places.flatten(1),
        needles.flatten(1),
    )
    return Contexts(haystack, needles, positions)


def _random_needles(
    batch: int,
    n_needles: int,
    generator: torch.Generator,
) -> Tensor:
    """A key and a value for each needle; no key and no symbol twice in a row of the batch.

    [batch, n_needles, NEEDLE_LEN]
    """
    key_numbers = distinct(batch, n_needles, N_KEYS, generator)
    symbol_numbers = distinct(
        batch,
        n_needles * VALUE_LEN,
        N_SYMBOLS,
        generator,
    )
    keys = FIRST_KEY + key_numbers.unsqueeze(-1)
    symbols = FIRST_SYMBOL + symbol_numbers
    values = symbols.unflatten(1, (n_needles, VALUE_LEN))
    return torch.cat([keys, values], -1)


def queries(needles: Tensor) -> Tensor:
    """The query and the answer for each needle [B, n, NEEDLE_LEN]: [B, n, QUERY_LEN]."""
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

    Needles are drawn without replacement, in proportion to 1 / distance, and queried in random
    order. There are about `n_tokens` in all, and at least two contexts.
    """
    sequence_len = length + n_queries * QUERY_LEN
    size = max(2, n_tokens // sequence_len)
    made = contexts(size, length, n_needles, generator)
    drawn = _drawn_by_distance(length - made.positions, n_queries, generator)
    order = distinct(size, n_queries, n_queries, generator)
    shuffled = drawn.gather(1, order)
    rows = torch.arange(size)[:, None]
    tail = queries(made.needles[rows, shuffled])
    tokens = torch.cat([made.haystack, tail.flatten(1)], 1)
    in_context = torch.zeros(length, dtype=torch.bool)
    in_query = torch.arange(QUERY_LEN) >= QUERY_LEN - VALUE_LEN
    in_tail = in_query.repeat(n_queries)
    answers = torch.cat([in_context, in_tail])
    return Sample(tokens, answers.expand(size, -1), VALUE_LEN)


def _drawn_by_distance(
    distance: Tensor,
    n: int,
    generator: torch.Generator,
) -> Tensor:
    """Indices of n distinct needles of each row, drawn in proportion to 1 / distance: [B, n].

    Each needle gets an exponential arrival time with the rate 1 / distance. A needle arrives first
    with a probability proportional to its rate, and so on among the remaining ones (Efraimidis and
    Spirakis, 2006).
    """
    at_rate_one = torch.empty(distance.shape).exponential_(generator=generator)
    arrival = at_rate_one * distance
    return arrival.argsort(1)[:, :n]


def echoes(
    length: int,
    shortest: int,
    longest: int,
    vocab_size: int,
    n_tokens: int,
    generator: torch.Generator,
) -> Sample:
    """Random texts of `shortest` to `longest` tokens, each repeated up to `length` tokens.

    The first repeated token cannot be predicted. Every token after it is an answer.
    """
    size = max(2, n_tokens // length)
    text = torch.randint(
        vocab_size,
        (size, longest),
        generator=generator,
    )
    period = torch.randint(
        shortest,
        longest + 1,
        (size, 1),
        generator=generator,
    )
    position = torch.arange(length).expand(size, -1)
    tokens = text.gather(1, position % period)
    answers = position >= period + 1
    return Sample(tokens, answers, 1)


def grid(length: int, depths: tuple[float, ...]) -> Tensor:
    """Where the needle of each depth (0 to 1) begins in a context of `length` tokens: [n].

    Raises ValueError if the needles would overlap.
    """
    places = length - 1 - NEEDLE_LEN  # after the token that begins the text
    starts = [1 + round(depth * places) for depth in depths]
    for start, next_start in pairwise(starts):
        if next_start - start < NEEDLE_LEN:
            too_many = f"{len(depths)} needles of {NEEDLE_LEN} tokens"
            raise ValueError(f"context of {length} tokens - too short for {too_many}")
    return torch.tensor(starts)


def echo_stages(vocab_size: int) -> list[Stage]:
    """The first stages of every curriculum: echoes with short periods, then with longer ones.

    Short periods come first because even a small state can hold them.
    """
    short = partial(echoes, 24, 2, 6, vocab_size)
    longer = partial(echoes, 40, 4, 16, vocab_size)
    return [
        Stage("echoes", 24, short, 0.12),
        Stage("echoes", 40, longer, 0.2),
    ]


def curriculum(trained_len: int, n_needles: int) -> list[Stage]:
    """Echoes, then a few needles close together, then more needles in longer contexts.

    The last stage has all needles in the trained length.
    """
    stages = echo_stages(VOCAB_SIZE)
    stages += [
        _needle_stage(13, 1, 0.06),
        _needle_stage(21, 2, 0.12),
        _needle_stage(33, 4, 0.12),
    ]
    for length in _middle_lengths(trained_len):
        fitting = min(n_needles, length // 10)
        stages.append(_needle_stage(length, fitting, 0.02))
    stages.append(_needle_stage(trained_len, n_needles, 1.0))
    return stages


def _middle_lengths(trained_len: int) -> Iterator[int]:
    """48, 64, 96, 128, 192, 256, ... below `trained_len`."""
    length, next_length = 48, 64
    while length < trained_len:
        yield length
        length, next_length = next_length, 2 * length


def _needle_stage(
    length: int,
    n_needles: int,
    max_share: float,
) -> Stage:
    n_queries = min(n_needles, MAX_QUERIES)
    draw = partial(asked, length, n_needles, n_queries)
    return Stage(f"{n_needles} needles", length, draw, max_share)
