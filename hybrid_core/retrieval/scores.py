"""From the cells of a map to the few numbers that compare designs. No torch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

GOOD = 0.9  # retrieval that counts as working, over all depths
CONFIDENCE = 0.95  # that the true effective context is in its interval
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


class EffectiveContext(NamedTuple):
    """The longest context up to which every evaluated length has GOOD retrieval, over all depths; 0 where not even the shortest has.

    `low`: up to here every length is shown to have it. `high`: up to here none is shown to lack it. The truth is between them in
    CONFIDENCE of all maps. `estimate`: the best guess. `censored`: no longer context was evaluated, so all may be larger.
    """

    low: int
    estimate: int
    high: int
    censored: bool


class Row(NamedTuple):
    """One length of a map: needles recalled of those asked for, over all depths, counted as independent trials."""

    context_len: int
    correct: float
    trials: int

    @property
    def share(self) -> float:
        return self.correct / self.trials


def effective_context(cells: Sequence[dict[str, Any]]) -> EffectiveContext:
    """Reads a map from the shortest length to the first that fails, by exact binomial tests of each length against GOOD.

    `low` overstates only where the first length that fails is shown to be good: one test, whichever length it is, so it has half of the
    error to itself (tests in a fixed sequence need no correction). `high` understates where any of the good lengths is shown to be
    bad: as many tests as lengths, which share the other half (Bonferroni).
    """
    rows = _rows(cells)
    error = (1 - CONFIDENCE) / 2
    low = _reached(rows, [_as_many_by_luck(row) <= error for row in rows])
    high = _reached(rows, [_as_few_by_luck(row) > error / len(rows) for row in rows])
    near = [share >= GOOD - Z95 * math.sqrt(GOOD * (1 - GOOD) / row.trials) for row, share in zip(rows, _falling(rows), strict=True)]
    estimate = min(high, max(low, _reached(rows, near)))
    return EffectiveContext(low, estimate, high, bool(rows) and high == rows[-1].context_len)


def _rows(cells: Sequence[dict[str, Any]]) -> list[Row]:
    """The lengths of a map, shortest first."""
    lengths = sorted({c["context_len"] for c in cells})
    return [_row(length, [c for c in cells if c["context_len"] == length]) for length in lengths]


def _row(context_len: int, cells: Sequence[dict[str, Any]]) -> Row:
    """The cells of one length as so many independent trials as tell as much.

    The cells share their haystacks, so needles of one haystack may be recalled, or lost, together. The design effect (Kish 1965) is how
    much more the number recalled varies between haystacks than independent needles would; never taken below 1. Runs of earlier
    versions did not store that variance: their needles count as independent.
    """
    trials = sum(c["trials"] for c in cells)
    share = sum(c["correct"] for c in cells) / trials
    independent = len(cells) * share * (1 - share)
    varies = cells[0].get("haystack_variance")
    effect = max(1.0, varies / independent) if varies and independent else 1.0
    counted = max(cells[0]["trials"], math.floor(trials / effect))
    return Row(context_len, share * counted, counted)


def _reached(rows: Sequence[Row], passed: Sequence[bool]) -> int:
    """The last length before the first that has not passed."""
    reached = 0
    for row, fine in zip(rows, passed, strict=True):
        if not fine:
            break
        reached = row.context_len
    return reached


def _falling(rows: Sequence[Row]) -> list[float]:
    """The non-increasing shares that fit best: neighbours that rise are pooled (isotonic regression)."""
    pools: list[list[Row]] = []
    for row in rows:
        pools.append([row])
        while len(pools) > 1 and _pooled(pools[-2]) < _pooled(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    return [_pooled(pool) for pool in pools for _ in pool]


def _pooled(rows: Sequence[Row]) -> float:
    return sum(row.correct for row in rows) / sum(row.trials for row in rows)


def _as_many_by_luck(row: Row) -> float:
    """The probability that as many, or more, are recalled where the truth is GOOD."""
    return at_least(math.floor(row.correct + 1e-9), row.trials, GOOD)


def _as_few_by_luck(row: Row) -> float:
    """The probability that as few, or fewer, are recalled where the truth is GOOD."""
    lost = math.floor(row.trials - row.correct + 1e-9)
    return at_least(lost, row.trials, 1 - GOOD)


def at_least(successes: int, trials: int, chance: float) -> float:
    """The probability of that many successes or more; 1 where that many are expected."""
    if successes <= trials * chance:
        return 1.0
    ways = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    term = math.exp(ways + successes * math.log(chance) + (trials - successes) * math.log1p(-chance))
    total = 0.0
    for done in range(successes, trials + 1):  # each term is the last times a factor below 1
        total += term
        term *= (trials - done) / (done + 1) * chance / (1 - chance)
        if term < total * 1e-15:
            break
    return total


def scores(cells: Sequence[dict[str, Any]], trained_len: int, tokens_to_learn: int | None) -> dict[str, Any]:
    """One row for a design. `tokens_to_learn`: training tokens until GOOD at the trained length, None if it was never reached."""
    return {
        "at_trained_len": at_length(cells, trained_len),
        "at_1_5x": at_length(cells, trained_len * 3 // 2),
        **reached(cells),
        "tokens_to_learn": tokens_to_learn,
        "trained_len": trained_len,
    }


def reached(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The effective context as it is stored."""
    found = effective_context(cells)
    return {
        "effective_context": found.estimate,
        "effective_context_low": found.low,
        "effective_context_high": found.high,
        "censored": found.censored,
    }
