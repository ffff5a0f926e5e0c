"""How a map is scored: from its cells to a few numbers for comparing designs. No torch.

The main number is the effective context: the longest context up to which a design recalls at least
90 % of its needles. A map has a limited number of trials, so the effective context comes with a
confidence interval, from exact binomial tests of each length.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from hybrid_core.binomial import Z95, at_least, at_most, wilson
from hybrid_core.results.retrieval import Cell, Scores

GOOD = 0.9  # recall over all depths that counts as good
CONFIDENCE = 0.95  # share of maps whose interval contains the true effective context


def cell(
    context_len: int,
    depth: float,
    correct: int,
    trials: int,
) -> Cell:
    """One cell of a map: the share of trials that were right, with its 95 % Wilson interval."""
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
    """Mean accuracy over the depths of one length, or None if that length was not evaluated."""
    row = [cell.accuracy for cell in cells if cell.context_len == context_len]
    if not row:
        return None
    return sum(row) / len(row)


class EffectiveContext(NamedTuple):
    """The longest context up to which recall over all depths is GOOD at every evaluated length.

    It is 0 if recall is not GOOD at the shortest length.
    """

    low: int  # up to here, every length is shown to be GOOD
    estimate: int  # the best guess
    high: int  # up to here, no length is shown to be worse than GOOD
    censored: bool  # the map ends here, so with longer contexts all three might be larger


class _Row(NamedTuple):
    """One length of a map: needles recalled and needles tested, over all depths, converted to
    independent trials."""

    context_len: int
    correct: float
    trials: int


def effective_context(cells: Sequence[Cell]) -> EffectiveContext:
    """The effective context of a map, with an interval that contains it in CONFIDENCE of all maps.

    The map is read from the shortest length up. `low` is too large only if the first length that
    truly fails is shown to be good. Whichever length that is, it is one test, so it may use half of
    the allowed error: tests in a fixed sequence need no correction. `high` is too small if any
    truly good length is shown to be bad. There is one such test per length, and they share the
    other half (Bonferroni).
    """
    rows = _rows(cells)
    if not rows:
        return EffectiveContext(0, 0, 0, censored=False)
    error = (1 - CONFIDENCE) / 2
    shared_error = error / len(rows)
    shown_good = []
    not_shown_bad = []
    nearly_good = []
    for row, fitted_share in zip(rows, _isotonic(rows), strict=True):
        shown_good.append(_p_value_better(row) <= error)
        not_shown_bad.append(_p_value_worse(row) > shared_error)
        nearly_good.append(fitted_share >= _threshold(row.trials))
    low = _reached(rows, shown_good)
    high = _reached(rows, not_shown_bad)
    estimate = _reached(rows, nearly_good)
    within_interval = min(high, max(low, estimate))
    censored = high == rows[-1].context_len
    return EffectiveContext(low, within_interval, high, censored)


def _threshold(trials: int) -> float:
    """GOOD minus two standard errors of a share of `trials`."""
    variance = GOOD * (1 - GOOD) / trials
    return GOOD - Z95 * math.sqrt(variance)


def _context_len(cell: Cell) -> int:
    return cell.context_len


def _rows(cells: Sequence[Cell]) -> list[_Row]:
    """The lengths of a map, shortest first."""
    shortest_first = sorted(cells, key=_context_len)
    by_length = groupby(shortest_first, key=_context_len)
    return [_row(length, list(row)) for length, row in by_length]


def _row(context_len: int, cells: Sequence[Cell]) -> _Row:
    """The cells of one length as an equivalent number of independent trials.

    All cells of a length share their haystacks, so the needles of one haystack may be recalled or
    missed together. The design effect (Kish, "Survey Sampling", 1965) is the variance of the number
    recalled per haystack over the variance that independent needles would have. It is never
    below 1. Earlier versions did not store that variance; their needles count as independent.
    """
    trials = sum(cell.trials for cell in cells)
    share = sum(cell.correct for cell in cells) / trials
    independent_variance = len(cells) * share * (1 - share)
    variance = cells[0].haystack_variance
    design_effect = 1.0
    if variance and independent_variance:
        design_effect = max(1.0, variance / independent_variance)
    haystacks = cells[0].trials
    effective_trials = max(haystacks, math.floor(trials / design_effect))
    return _Row(context_len, share * effective_trials, effective_trials)


def _reached(rows: Sequence[_Row], passed: Sequence[bool]) -> int:
    """The last length before the first one that did not pass; 0 if the shortest did not."""
    reached = 0
    for row, fine in zip(rows, passed, strict=True):
        if not fine:
            break
        reached = row.context_len
    return reached


def _isotonic(rows: Sequence[_Row]) -> list[float]:
    """The best non-increasing fit to the shares of all lengths (isotonic regression).

    Pool adjacent violators: merge neighbours whose share rises with the length.
    """
    pools: list[list[_Row]] = []
    for row in rows:
        pools.append([row])
        while _last_rises(pools):
            last = pools.pop()
            pools[-1] += last
    shares: list[float] = []
    for pool in pools:
        shares += [_pooled_share(pool)] * len(pool)
    return shares


def _last_rises(pools: Sequence[Sequence[_Row]]) -> bool:
    if len(pools) < 2:
        return False
    return _pooled_share(pools[-1]) > _pooled_share(pools[-2])


def _pooled_share(rows: Sequence[_Row]) -> float:
    correct = sum(row.correct for row in rows)
    trials = sum(row.trials for row in rows)
    return correct / trials


# A design effect makes `correct` a fraction; rounding outwards keeps the tests conservative. 1e-9
# allows for the rounding error of share * trials where there is no design effect.


def _p_value_better(row: _Row) -> float:
    """The p-value of a test for more than GOOD.

    This is the chance of recalling at least this many needles if the true share is GOOD.
    """
    correct = math.floor(row.correct + 1e-9)
    return at_least(correct, row.trials, GOOD)


def _p_value_worse(row: _Row) -> float:
    """The p-value of a test for less than GOOD.

    This is the chance of recalling at most this many needles if the true share is GOOD.
    """
    correct = math.ceil(row.correct - 1e-9)
    return at_most(correct, row.trials, GOOD)


def scores(
    cells: Sequence[Cell],
    trained_len: int,
    tokens_to_learn: int | None,
) -> Scores:
    """The scores of one design, from the cells of its map.

    `tokens_to_learn`: training tokens until recall at the trained length was GOOD, or None if it
    never was.
    """
    context = effective_context(cells)
    return Scores(
        at_trained_len=at_length(cells, trained_len),
        at_1_5x=at_length(cells, trained_len * 3 // 2),
        effective_context=context.estimate,
        effective_context_low=context.low,
        effective_context_high=context.high,
        censored=context.censored,
        tokens_to_learn=tokens_to_learn,
        trained_len=trained_len,
    )
