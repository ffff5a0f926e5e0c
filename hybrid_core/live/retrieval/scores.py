"""From the cells of a map to the few numbers that compare designs. No torch."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from hybrid_core.binomial import Z95, at_least, at_most, wilson
from hybrid_core.results.retrieval import Cell, Scores

GOOD = 0.9  # retrieval that counts as working, over all depths
CONFIDENCE = 0.95  # that the true effective context is in its interval


def cell(
    context_len: int,
    depth: float,
    correct: int,
    trials: int,
) -> Cell:
    """One cell of the map: the share of trials that were right, with its Wilson interval."""
    share, low, high = wilson(correct, trials)
    return Cell(
        context_len=context_len,
        depth=depth,
        correct=correct,
        trials=trials,
        accuracy=share,
        low=low,
        high=high,
    )


def at_length(cells: Sequence[Cell], context_len: int) -> float | None:
    """Mean accuracy over the depths of one length; None where it was not evaluated."""
    row = [cell.accuracy for cell in cells if cell.context_len == context_len]
    if not row:
        return None
    return sum(row) / len(row)


class EffectiveContext(NamedTuple):
    """The longest context up to which every evaluated length has GOOD retrieval, over all depths; 0
    where not even the shortest has.

    `low`: up to here every length is shown to have it. `high`: up to here none is shown to lack it.
    The truth is between them in CONFIDENCE of all maps. `estimate`: the best guess. `censored`: no
    longer context was evaluated, so all three may be larger."""

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


def effective_context(cells: Sequence[Cell]) -> EffectiveContext:
    """Reads a map from the shortest length to the first that fails, by exact binomial tests of each
    length against GOOD.

    `low` overstates only where the first length that fails is shown to be good. That is one test,
    whichever length it is, so it has half of the error to itself (tests in a fixed sequence need
    no correction). `high` understates where any of the good lengths is shown to be bad. These are
    as many tests as lengths, which share the other half (Bonferroni)."""
    rows = _rows(cells)
    error = (1 - CONFIDENCE) / 2
    shown_good = [_as_many_by_luck(row) <= error for row in rows]
    not_shown_bad = [_as_few_by_luck(row) > error / len(rows) for row in rows]
    low = _reached(rows, shown_good)
    high = _reached(rows, not_shown_bad)
    shares = zip(rows, _falling(rows), strict=True)
    near = [share >= _nearly_good(row.trials) for row, share in shares]
    estimate = min(high, max(low, _reached(rows, near)))
    censored = bool(rows) and high == rows[-1].context_len
    return EffectiveContext(low, estimate, high, censored)


def _nearly_good(trials: int) -> float:
    """GOOD less two standard errors of so many trials."""
    return GOOD - Z95 * math.sqrt(GOOD * (1 - GOOD) / trials)


def _context_len(cell: Cell) -> int:
    return cell.context_len


def _rows(cells: Sequence[Cell]) -> list[Row]:
    """The lengths of a map, shortest first."""
    by_length = groupby(sorted(cells, key=_context_len), key=_context_len)
    return [_row(length, list(of_length)) for length, of_length in by_length]


def _row(context_len: int, cells: Sequence[Cell]) -> Row:
    """The cells of one length as so many independent trials as tell as much.

    The cells share their haystacks, so needles of one haystack may be recalled, or lost, together.
    The design effect (Kish 1965) is how much more the number recalled varies between haystacks than
    independent needles would. It is never taken below 1. Runs of earlier versions did not store
    that variance: their needles count as independent."""
    trials = sum(cell.trials for cell in cells)
    share = sum(cell.correct for cell in cells) / trials
    independent = len(cells) * share * (1 - share)
    varies = cells[0].haystack_variance
    effect = 1.0
    if varies and independent:
        effect = max(1.0, varies / independent)
    counted = max(cells[0].trials, math.floor(trials / effect))
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
    shares: list[float] = []
    for pool in pools:
        shares += [_pooled(pool)] * len(pool)
    return shares


def _pooled(rows: Sequence[Row]) -> float:
    correct = sum(row.correct for row in rows)
    trials = sum(row.trials for row in rows)
    return correct / trials


def _as_many_by_luck(row: Row) -> float:
    """The probability that as many, or more, are recalled where the truth is GOOD."""
    return at_least(math.floor(row.correct + 1e-9), row.trials, GOOD)


def _as_few_by_luck(row: Row) -> float:
    """The probability that as few, or fewer, are recalled where the truth is GOOD."""
    return at_most(math.ceil(row.correct - 1e-9), row.trials, GOOD)


def scores(
    cells: Sequence[Cell],
    trained_len: int,
    tokens_to_learn: int | None,
) -> Scores:
    """The numbers of one design. `tokens_to_learn`: training tokens until GOOD at the trained
    length, None if it was never reached."""
    found = effective_context(cells)
    return Scores(
        at_trained_len=at_length(cells, trained_len),
        at_1_5x=at_length(cells, trained_len * 3 // 2),
        effective_context=found.estimate,
        effective_context_low=found.low,
        effective_context_high=found.high,
        censored=found.censored,
        tokens_to_learn=tokens_to_learn,
        trained_len=trained_len,
    )
