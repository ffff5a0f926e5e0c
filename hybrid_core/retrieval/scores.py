"""From the cells of a map to the few numbers that compare designs. No torch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

GOOD = 0.9  # retrieval that counts as working, over all depths
Z95 = 1.959963984540054


class Interval(NamedTuple):
    """A share and its 95 % Wilson interval."""

    share: float
    low: float
    high: float


def wilson(correct: int, trials: int) -> Interval:
    """The share of correct trials, with the Wilson score interval (95 %)."""
    if trials < 1:
        raise ValueError(f"trials: {trials} - must be positive")
    share, z2 = correct / trials, Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def cell(context_len: int, depth: float, correct: int, trials: int) -> dict[str, Any]:
    """One cell of the map as it is stored."""
    share, low, high = wilson(correct, trials)
    return {"context_len": context_len, "depth": depth, "correct": correct, "trials": trials, "accuracy": share, "low": low, "high": high}


def at_length(cells: Sequence[dict[str, Any]], context_len: int) -> float | None:
    """Mean accuracy over the depths of one length; None where it was not evaluated."""
    row = [c["accuracy"] for c in cells if c["context_len"] == context_len]
    return sum(row) / len(row) if row else None


def effective_context(cells: Sequence[dict[str, Any]]) -> int:
    """The longest length up to which every evaluated length has GOOD retrieval, over all depths; 0 if not even the shortest."""
    reached = 0
    for length in sorted({c["context_len"] for c in cells}):
        if (at_length(cells, length) or 0.0) < GOOD - 1e-9:
            break
        reached = length
    return reached


def scores(cells: Sequence[dict[str, Any]], trained_len: int, tokens_to_learn: int | None) -> dict[str, Any]:
    """One row for a design. `tokens_to_learn`: training tokens until GOOD at the trained length, None if it was never reached."""
    return {
        "at_trained_len": at_length(cells, trained_len),
        "at_1_5x": at_length(cells, trained_len * 3 // 2),
        "effective_context": effective_context(cells),
        "tokens_to_learn": tokens_to_learn,
        "trained_len": trained_len,
    }
