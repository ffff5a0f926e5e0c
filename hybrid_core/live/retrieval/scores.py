"""From the cells of a map to the few numbers that compare designs. No torch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from hybrid_core.binomial import Z95, at_least, at_most, wilson

GOOD = 0.9  # retrieval that counts as working, over all depths
CONFIDENCE = 0.95  # that the true effective context is in its interval


def cell(context_len: int, depth: float, correct: int, trials: int) -> dict[str, Any]:
    """One cell of the map as it is stored."""
    share, low, high = wilson(correct, trials)
    return {
        "context_len": context_len,
        "depth": depth,
        "correct": correct,
        "trials": trials,
        "accuracy": share,
        "low": low,
        "high": high,
    }


def at_length(cells: Sequence[dict[str, Any]], context_len: int) -> float | None:
    """Mean accuracy over the depths of one length; None where it was not evaluated."""
    row = [c["accuracy"] for c in cells if c["context_len"] == context_len]
    return sum(row) / len(row) if row else None


class EffectiveContext(NamedTuple):
    """The longest context up to which every evaluated length has GOOD retrieval, over all depths; 0
    where not even the shortest has.

    `low`: up to here every length is shown to have it. `high`: up to here none is shown to lack it.
    The truth is between them in CONFIDENCE of all maps. `estimate`: the best guess. `censored`: no
    longer context was evaluated, so all may be larger."""

    low: int
    estimate: int
    high: int
    censored: bool


class Row(NamedTuple):
    """One length of a map: needles recalled of those asked for, over all depths, counted as
    independent trials."""

    context_len: int
    correct: float
    trials: int

    @property
    def share(self) -> float:
        return self.correct / self.trials


def effective_context(cells: Sequence[dict[str, Any]]) -> EffectiveContext:
    """Reads a map from the shortest length to the first that fails, by exact binomial tests of each
    length against GOOD.

    `low` overstates only where the first length that fails is shown to be good: one test, whichever
    length it is, so it has half of the error to itself (tests in a fixed sequence need no
    correction). `high` understates where any of the good lengths is shown to be bad: as many tests
    as lengths, which share the other half (Bonferroni)."""
    rows = _rows(cells)
    error = (1 - CONFIDENCE) / 2
    low = _reached(rows, [_as_many_by_luck(row) <= error for row in rows])
    high = _reached(rows, [_as_few_by_luck(row) > error / len(rows) for row in rows])
    near = [
        share >= _nearly_good(row.trials) for row, share in zip(rows, _falling(rows), strict=True)
    ]
    estimate = min(high, max(low, _reached(rows, near)))
    return EffectiveContext(low, estimate, high, bool(rows) and high == rows[-1].context_len)


def _nearly_good(trials: int) -> float:
    """GOOD less two standard errors of so many trials."""
    return GOOD - Z95 * math.sqrt(GOOD * (1 - GOOD) / trials)


def _rows(cells: Sequence[dict[str, Any]]) -> list[Row]:
    """The lengths of a map, shortest first."""
    lengths = sorted({c["context_len"] for c in cells})
    return [_row(length, [c for c in cells if c["context_len"] == length]) for length in lengths]


def _row(context_len: int, cells: Sequence[dict[str, Any]]) -> Row:
    """The cells of one length as so many independent trials as tell as much.

    The cells share their haystacks, so needles of one haystack may be recalled, or lost, together.
    The design effect (Kish 1965) is how much more the number recalled varies between haystacks than
    independent needles would; never taken below 1. Runs of earlier versions did not store that
    variance: their needles count as independent."""
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
    """The non-increasing shares that fit best: neighbours that rise are pooled (isotonic
    regression)."""
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
    return at_most(math.ceil(row.correct - 1e-9), row.trials, GOOD)


def scores(
    cells: Sequence[dict[str, Any]], trained_len: int, tokens_to_learn: int | None
) -> dict[str, Any]:
    """One row for a design. `tokens_to_learn`: training tokens until GOOD at the trained length,
    None if it was never reached."""
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
