"""From a strategy, a ratio and a placement to the kind of every layer.

Kinds are letters (LETTERS); M is Mamba-1 or Mamba-2, as the section `ssm` says. Layer indices are
1-based, as the paper prints them."""

import math
import re
from typing import Literal, get_args

from hybrid_core.mixers.registry import WRITTEN

LETTERS = {letter: kind.entry.short for letter, kind in WRITTEN.items() if kind.entry.sections}
LEGEND = ", ".join(f"{letter} ({name})" for letter, name in LETTERS.items())

Placement = Literal["middle", "scatter", "front", "end", "cluster", "sandwich", "custom"]
Strategy = Literal["transformer", "swa", "mamba", "inter", "intra", "custom"]

# The placements that a rule makes; `custom` is the indices as given.
PLACEMENTS: tuple[Placement, ...] = tuple(name for name in get_args(Placement) if name != "custom")
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

# strategy -> (letter of the expensive block, letter of the cheap block)
MIXTURES: dict[Strategy, tuple[str, str]] = {
    "transformer": ("A", "A"),
    "mamba": ("M", "M"),
    "swa": ("A", "S"),
    "inter": ("A", "M"),
    "intra": ("H", "M"),
}
UNIFORM: tuple[Strategy, ...] = ("transformer", "mamba")


def parse_ratio(text: str) -> tuple[int, int]:
    """`"1:5"` -> (1, 5), (expensive, cheap). Raises ValueError on anything else and on 0:0."""
    match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)
    if not match:
        raise ValueError('must be two whole numbers "a:b", expensive blocks to cheap blocks')
    a, b = int(match[1]), int(match[2])
    if a == b == 0:
        raise ValueError("must not be 0:0; one of the two numbers has to be positive")
    return a, b


def n_expensive(n_layers: int, ratio: tuple[int, int]) -> int:
    """How many of `n_layers` are expensive blocks at `ratio`; halves round up (7 of 13 at 1:1,
    Table 21), and at least one if a > 0."""
    a, b = ratio
    return max(1, math.floor(n_layers * a / (a + b) + 0.5)) if a else 0


def _spread(k: int, n: int) -> list[int]:
    return [math.floor(i * (n + 1) / (k + 1) + 0.5) for i in range(1, k + 1)]


def place(k: int, n: int, placement: Placement) -> tuple[int, ...]:
    """The 1-based indices of `k` expensive blocks among `n` layers (0 <= k <= n), by one of
    PLACEMENTS."""
    if placement not in PLACEMENTS:
        raise ValueError(f"placement: {placement!r} - must be one of {', '.join(PLACEMENTS)}")
    if k == 0:
        return ()
    spread = _spread(k, n)
    if placement in ("middle", "scatter"):
        chosen = spread
    elif placement == "front":
        chosen = [1, *spread[1:]]
    elif placement == "end":
        chosen = [*spread[:-1], n]
    elif placement == "cluster":
        first = (n - k) // 2 + 1
        chosen = list(range(first, first + k))
    else:  # sandwich: layers 1 and n first, the rest evenly between them
        between = _spread(k - 2, n - 2)
        chosen = [1, n][:k] + [1 + i for i in between]
    return tuple(sorted(chosen))


def pattern(strategy: Strategy, n_layers: int, indices: tuple[int, ...]) -> str:
    """The letter of each layer, e.g. `MMMMAMMMAMMMM`, with the expensive kind at `indices`."""
    expensive, cheap = MIXTURES[strategy]
    letters = [cheap] * n_layers
    for i in indices:
        letters[i - 1] = expensive
    return "".join(letters)
