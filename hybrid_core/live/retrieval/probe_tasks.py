"""Training data and questions for the three other probes.

- **Multi-query associative recall** (Zoology, arXiv 2312.04927): n pairs of a key and a value, then
  every key again in random order. With two pairs: `k3 v9 k1 v4 | k1 v4 k3 v9`. The answers are the
  values after the bar.
- **Selective copying** (Mamba, arXiv 2312.00752): symbols scattered in noise, then a mark, then the
  symbols in order: `n n s5 n s2 n n | ? s5 s2`.
- **Text**: excerpts of a text, with bytes as tokens. Every byte but the first is an answer.
"""

from functools import partial

import torch
from torch import Tensor

from hybrid_core.live.retrieval.task import (
    FIRST_KEY,
    N_NOISE,
    QUERY,
    Sample,
    Stage,
    distinct,
    echo_stages,
    spread,
)

MAX_PAIRS = 64  # of associative recall
N_KEYS = 2 * MAX_PAIRS  # different keys, and the same number of values
RECALL_VOCAB_SIZE = 2 * N_KEYS
COPIED = 16  # symbols of selective copying, as in the Mamba paper
BYTES = 256  # different tokens of a text


def pairs(
    n_pairs: int,
    n_tokens: int,
    generator: torch.Generator,
) -> Sample:
    """Sequences of `n_pairs` of key and value, then each pair again: [B, 4 n_pairs]."""
    sequence_len = 4 * n_pairs
    batch = max(2, n_tokens // sequence_len)
    keys = distinct(batch, n_pairs, N_KEYS, generator)
    value_numbers = torch.randint(
        N_KEYS,
        (batch, n_pairs),
        generator=generator,
    )
    values = N_KEYS + value_numbers
    told = torch.stack([keys, values], -1)
    order = distinct(batch, n_pairs, n_pairs, generator)
    rows = torch.arange(batch)[:, None]
    asked = told[rows, order]
    tokens = torch.cat([told, asked], 1).flatten(1)
    is_answer = torch.zeros(sequence_len, dtype=torch.bool)
    is_answer[2 * n_pairs + 1 :: 2] = True
    return Sample(tokens, is_answer.expand(batch, -1), 1)


def scattered(
    length: int,
    n_symbols: int,
    n_tokens: int,
    generator: torch.Generator,
) -> Sample:
    """Sequences of `length` tokens of noise with `n_symbols` in them, a mark, and the symbols in
    order: [B, length + 1 + n_symbols]."""
    sequence_len = length + 1 + n_symbols
    batch = max(2, n_tokens // sequence_len)
    symbol_numbers = torch.randint(
        FIRST_KEY - N_NOISE,
        (batch, n_symbols),
        generator=generator,
    )
    symbols = N_NOISE + symbol_numbers
    noise = torch.randint(
        N_NOISE,
        (batch, length),
        generator=generator,
    )
    places = spread(batch, n_symbols, 1, length, generator)
    context = noise.scatter(1, places, symbols)
    mark = torch.full((batch, 1), QUERY)
    tokens = torch.cat([context, mark, symbols], 1)
    is_answer = torch.arange(sequence_len) > length
    return Sample(tokens, is_answer.expand(batch, -1), n_symbols)


def excerpts(
    text: Tensor,
    length: int,
    n_tokens: int,
    generator: torch.Generator,
) -> Sample:
    """Windows of `length` bytes at random places of `text` [N]: [B, length]."""
    batch = max(2, n_tokens // length)
    starts = torch.randint(
        len(text) - length + 1,
        (batch, 1),
        generator=generator,
    )
    positions = torch.arange(length)
    tokens = text[starts + positions]
    is_answer = positions > 0
    return Sample(tokens, is_answer.expand(batch, -1), 1)


def recall_stages(n_pairs: int) -> list[Stage]:
    """The curriculum of associative recall: echoes, then from four pairs to `n_pairs`."""
    stages = echo_stages(RECALL_VOCAB_SIZE)
    for fewer in (4, 6, 8, 12, 16, 24, 32, 48, 64):
        if fewer < n_pairs:
            stages.append(_pairs_stage(fewer, 0.06))
    return [*stages, _pairs_stage(n_pairs, 1.0)]


def _pairs_stage(n_pairs: int, max_share: float) -> Stage:
    draw = partial(pairs, n_pairs)
    return Stage("pairs", 4 * n_pairs, draw, max_share)


def copying_stages(trained_len: int) -> list[Stage]:
    """The curriculum of selective copying: first more symbols, then longer contexts.

    It ends with COPIED symbols in the trained length.
    """
    stages = []
    few_symbols = [(8, 2), (16, 4), (32, 8), (48, 12), (64, COPIED)]
    for length, n_symbols in few_symbols:
        stages.append(_copying_stage(length, n_symbols, 0.05))
    for length in (96, 128, 192, 256, 384, 512, 1024):
        if length < trained_len:
            stages.append(_copying_stage(length, COPIED, 0.05))
    return [*stages, _copying_stage(trained_len, COPIED, 1.0)]


def _copying_stage(
    length: int,
    n_symbols: int,
    max_share: float,
) -> Stage:
    draw = partial(scattered, length, n_symbols)
    return Stage(f"{n_symbols} symbols", length, draw, max_share)
