"""Binomial tails, and confidence intervals for the share of correct trials. Needs no torch."""

import math
from collections.abc import Callable
from typing import NamedTuple

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
    share = correct / trials
    z2 = Z95**2
    shrink = 1 + z2 / trials
    centre = (share + z2 / (2 * trials)) / shrink
    variance = share * (1 - share) / trials + z2 / (4 * trials**2)
    half = Z95 / shrink * math.sqrt(variance)
    low = max(0.0, centre - half)
    high = min(1.0, centre + half)
    return Interval(share, low, high)


def clopper_pearson(
    successes: int,
    trials: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """The exact confidence interval of a binomial share (Clopper and Pearson, Biometrika 1934).
    Each tail has probability (1 - level) / 2."""
    tail = (1 - level) / 2
    low, high = 0.0, 1.0
    if successes > 0:
        low = _bisect(lambda chance: at_least(successes, trials, chance) < tail)
    if successes < trials:
        high = _bisect(lambda chance: at_most(successes, trials, chance) > tail)
    return low, high


def at_least(successes: int, trials: int, chance: float) -> float:
    """The probability of at least `successes` successes, for 0 < `chance` < 1. Returns 1 if
    `successes` is at most the expected number."""
    if successes <= trials * chance:
        return 1.0
    term = _exactly(successes, trials, chance)
    odds = chance / (1 - chance)
    total = 0.0
    for done in range(successes, trials + 1):  # each term is a fraction of the previous one
        total += term
        term *= (trials - done) / (done + 1) * odds
        if term < total * 1e-15:
            break
    return total


def at_most(successes: int, trials: int, chance: float) -> float:
    """The probability of at most `successes` successes. Returns 1 if `successes` is at least the
    expected number."""
    return at_least(trials - successes, trials, 1 - chance)


def _exactly(successes: int, trials: int, chance: float) -> float:
    failures = trials - successes
    log_ways = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(failures + 1)
    return math.exp(log_ways + successes * math.log(chance) + failures * math.log1p(-chance))


def _bisect(below: Callable[[float], bool]) -> float:
    """The largest number from 0 to 1 for which `below` holds, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if below(middle):
            low = middle
        else:
            high = middle
    return low
