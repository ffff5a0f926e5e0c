"""The kind of every layer, from a strategy, a ratio and a placement.

Kinds are letters (LETTERS). M is Mamba-1 or Mamba-2, depending on the section `ssm`. Layers are
numbered from 1, as in the paper. A strategy mixes two kinds: one with attention (an attention layer
or an intra-hybrid block) and one without."""

import math
import re
from typing import Literal, get_args

from hybrid_core.mixers.registry import WRITTEN

LETTERS: dict[str, str] = {}
for _letter, _kind in WRITTEN.items():
    if _kind.entry.sections:
        LETTERS[_letter] = _kind.entry.short

Placement = Literal["middle", "scatter", "front", "end", "cluster", "sandwich", "custom"]
Strategy = Literal["transformer", "swa", "mamba", "inter", "intra", "custom"]

# The placements that follow a rule; `custom` uses the given indices.
PLACEMENTS: tuple[Placement, ...] = tuple(name for name in get_args(Placement) if name != "custom")
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

# strategy -> (letter of the kind with attention, letter of the other kind)
MIXTURES: dict[Strategy, tuple[str, str]] = {
    "transformer": ("A", "A"),
    "mamba": ("M", "M"),
    "swa": ("A", "S"),
    "inter": ("A", "M"),
    "intra": ("H", "M"),
}
UNIFORM: tuple[Strategy, ...] = ("transformer", "mamba")


def parse_ratio(text: str) -> tuple[int, int]:
    """`"1:5"` -> (1, 5): layers with attention, layers without. Raises ValueError on anything
    else and on 0:0."""
    match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)
    if not match:
        raise ValueError('must be two whole numbers "a:b", layers with attention to those without')
    a, b = int(match[1]), int(match[2])
    if a == b == 0:
        raise ValueError("must not be 0:0; at least one number must be positive")
    return a, b


def n_with_attention(n_layers: int, ratio: tuple[int, int]) -> int:
    """How many of `n_layers` have attention at `ratio` a:b. Halves round up (7 of 13 at 1:1,
    Table 21), and there is at least one if a > 0."""
    a, b = ratio
    if not a:
        return 0
    return max(1, _rounded(n_layers * a / (a + b)))


def _rounded(value: float) -> int:
    """The nearest whole number; halves round up."""
    return math.floor(value + 0.5)


def _spread(k: int, n: int) -> list[int]:
    """k of n layers with gaps as equal as possible, including before the first and after the
    last."""
    return [_rounded(i * (n + 1) / (k + 1)) for i in range(1, k + 1)]


def place(k: int, n: int, placement: Placement) -> tuple[int, ...]:
    """The numbers, from 1, of `k` layers with attention among `n` (0 <= k <= n), placed by
    one of PLACEMENTS."""
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
        ends = [1, n][:k]
        between = _spread(k - 2, n - 2)
        chosen = ends + [1 + i for i in between]
    return tuple(sorted(chosen))


def pattern(strategy: Strategy, n_layers: int, indices: tuple[int, ...]) -> str:
    """The letter of each layer, e.g. `MMMMAMMMAMMMM`, with attention at `indices`."""
    with_attention, without = MIXTURES[strategy]
    letters = [without] * n_layers
    for i in indices:
        letters[i - 1] = with_attention
    return "".join(letters)
