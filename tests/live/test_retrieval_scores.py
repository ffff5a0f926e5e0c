"""Wilson's interval and binomial tests against worked numbers; the effective context covers the
truth, and says so alike in every map."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from hybrid_core.binomial import at_least, at_most, wilson
from hybrid_core.live.retrieval.scores import (
    EffectiveContext,
    at_length,
    cell,
    effective_context,
    scores,
)
from hybrid_core.results.retrieval import Cell

LENGTHS = (128, 256, 384, 512, 640, 768, 896, 1024)
DEPTHS = 11
TRIALS = 50
MAPS = 400


@pytest.mark.parametrize(
    ("correct", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.27754),  # z^2 / (n + z^2) = 3.8415 / 13.8415
        (10, 10, 0.72246, 1.0),
        (5, 10, 0.23659, 0.76341),  # centre 1/2; half-width 1.96 sqrt(1/40 + 3.8415/400) / 1.38415
        (81, 263, 0.25529, 0.36621),  # Newcombe 1998, Table I: 0.2553 to 0.3662
    ],
)
def test_wilson_interval(correct: int, trials: int, low: float, high: float) -> None:
    share, *interval = wilson(correct, trials)
    assert share == correct / trials
    assert interval == pytest.approx([low, high], abs=1e-4)


def test_no_trials_no_interval() -> None:
    with pytest.raises(ValueError, match="trials: 0"):
        wilson(0, 0)


def grid(rows: dict[int, list[int]], trials: int = 10) -> list[Cell]:
    cells = []
    for length, row in rows.items():
        for halves, correct in enumerate(row):
            cells.append(cell(length, halves / 2, correct, trials))
    return cells


def test_means_are_over_all_depths() -> None:
    cells = grid({192: [10, 6, 10]})
    assert at_length(cells, 192) == pytest.approx(26 / 30)
    assert at_length(cells, 100) is None


# ---------------------------------------------------------------- effective context, by hand


@pytest.mark.parametrize(
    ("successes", "trials", "chance", "expected"),
    [
        (10, 10, 0.9, 0.34868),  # 0.9^10
        (3, 3, 0.5, 0.125),
        (2, 4, 0.25, 0.26172),  # 1 - 0.75^4 - 4 * 0.25 * 0.75^3
        # (80 - 55) / 7.04 standard deviations: near the normal tail, 0.0003, skewed right
        (80, 550, 0.1, 0.00049),
        (0, 5, 0.5, 1.0),
    ],
)
def test_binomial_tail(successes: int, trials: int, chance: float, expected: float) -> None:
    assert at_least(successes, trials, chance) == pytest.approx(expected, abs=5e-5)


def test_a_length_is_shown_to_be_good_from_36_of_36_on() -> None:
    # 0.9^35 = 0.02503 is above 2.5 %, 0.9^36 = 0.02253 is not.
    assert effective_context([cell(64, 0.0, 35, 35)]) == EffectiveContext(
        low=0, estimate=64, high=64, censored=True
    )
    assert effective_context([cell(64, 0.0, 36, 36)]) == EffectiveContext(
        low=64, estimate=64, high=64, censored=True
    )


def test_a_length_is_shown_to_be_bad_by_its_part_of_the_error() -> None:
    # Lost of 3, each with 0.1: two or more 0.028, three 0.001; 2.5 % for one length, 1.25 % for
    # each of two.
    assert effective_context([cell(64, 0.0, 1, 3)]).high == 64
    assert effective_context([cell(64, 0.0, 0, 3)]) == EffectiveContext(0, 0, 0, False)
    # Lost of 2: both 0.01. Bad where it is one length, or one of two, not where it is one of three
    # (0.83 %).
    for n_lengths, high in ((1, 0), (2, 0), (3, 192)):
        cells = [cell(64 * i, 0.0, 0, 2) for i in range(1, n_lengths + 1)]
        assert effective_context(cells).high == high


def test_the_first_length_that_fails_ends_it() -> None:
    all_recalled = [20, 20, 20]
    rows = {64: all_recalled, 128: all_recalled, 192: [20, 6, 20], 256: all_recalled}
    cells = grid(rows, 20)
    assert effective_context(cells) == EffectiveContext(128, 128, 128, censored=False)


def test_needles_that_are_lost_together_count_as_fewer() -> None:
    # 94 % of 550 shows 90 % where needles are independent; where each haystack has all of its
    # eleven or none, there are 50 answers.
    cells = [cell(64, depth / 10, 47, 50) for depth in range(11)]
    assert effective_context(cells).low == 64
    together = 11**2 * 0.94 * 0.06 * 50 / 49  # the variance of eleven times a coin
    together_lost = [one.model_copy(update={"haystack_variance": together}) for one in cells]
    assert effective_context(together_lost).low == 0


def test_an_empty_map_has_no_effective_context() -> None:
    assert effective_context([]) == EffectiveContext(0, 0, 0, censored=False)


def test_scores_are_read_at_the_trained_length_and_beyond() -> None:
    cells = grid({128: [20, 20, 20], 192: [10, 10, 10]}, 20)
    found = scores(cells, 128, 1_000_000)
    assert found.record() == {
        "at_trained_len": 1.0,
        "at_1_5x": 0.5,
        "effective_context": 128,
        "effective_context_low": 128,
        "effective_context_high": 128,
        "censored": False,
        "tokens_to_learn": 1_000_000,
        "trained_len": 128,
    }


# ---------------------------------------------------------------- effective context, in many maps


def independent(shares: Sequence[float], chance: random.Random) -> list[Cell]:
    """A map of a probe that truly recalls `shares` at LENGTHS, every needle for itself."""
    cells = []
    for length, share in zip(LENGTHS, shares, strict=True):
        for depth in range(DEPTHS):
            right = sum(chance.random() < share for _ in range(TRIALS))
            cells.append(cell(length, depth / 10, right, TRIALS))
    return cells


def in_haystacks(shares: Sequence[float], chance: random.Random) -> list[Cell]:
    """The same share in all, but half of what is lost is lost with whole haystacks."""
    cells = []
    for length, share in zip(LENGTHS, shares, strict=True):
        readable = 1 - (1 - share) / 2
        haystacks = [chance.random() < readable for _ in range(TRIALS)]
        right = [
            [found and chance.random() < share / readable for _ in range(DEPTHS)]
            for found in haystacks
        ]
        counts = [sum(row) for row in right]
        mean = sum(counts) / TRIALS
        squares = sum((count - mean) ** 2 for count in counts)
        variance = squares / (TRIALS - 1)
        for depth in range(DEPTHS):
            correct = sum(row[depth] for row in right)
            found = cell(length, depth / 10, correct, TRIALS)
            cells.append(found.model_copy(update={"haystack_variance": variance}))
    return cells


def contexts(
    draw: Callable[..., list[Cell]], shares: Sequence[float]
) -> Iterator[EffectiveContext]:
    chance = random.Random(16)
    for _ in range(MAPS):
        yield effective_context(draw(shares, chance))


# What a probe truly recalls at each length, and the longest length up to which that is 90 % or
# more.
TRUTHS = {
    "90 % everywhere": ([0.9] * 8, 1024),
    "97 % everywhere": ([0.97] * 8, 1024),
    "80 % everywhere": ([0.8] * 8, 0),
    "a step at 512": ([0.97] * 4 + [0.6] * 4, 512),
    "a slope through 90 %": ([0.97, 0.96, 0.95, 0.92, 0.88, 0.8, 0.7, 0.6], 512),
}


@pytest.mark.parametrize("draw", [independent, in_haystacks])
@pytest.mark.parametrize("name", TRUTHS)
def test_the_interval_holds_the_truth_in_95_of_100_maps(
    name: str, draw: Callable[..., list[Cell]]
) -> None:
    shares, truth = TRUTHS[name]
    covered = sum(found.low <= truth <= found.high for found in contexts(draw, shares))
    assert covered >= 0.95 * MAPS


@pytest.mark.parametrize(
    ("name", "interval"),
    [
        # On the line itself: 550 answers a length show neither.
        ("90 % everywhere", (0, 1024, True)),
        ("97 % everywhere", (1024, 1024, True)),
        ("80 % everywhere", (0, 0, False)),
        ("a step at 512", (512, 512, False)),
    ],
)
def test_maps_of_one_probe_say_the_same(name: str, interval: tuple[int, int, bool]) -> None:
    """A bare threshold on the mean gave the probe of 90 % every answer from 0 to 1,024, none of
    them in more than half of the maps."""
    shares, truth = TRUTHS[name]
    found = list(contexts(independent, shares))
    intervals = Counter((one.low, one.high, one.censored) for one in found)
    estimates = Counter(one.estimate for one in found)
    assert intervals[interval] >= 0.9 * MAPS
    assert estimates[truth] >= 0.9 * MAPS


def test_the_lower_tail_of_a_binomial_is_the_sum_of_its_terms() -> None:
    """3 of 10 or fewer at one half: (1 + 10 + 45 + 120) / 1024."""
    assert at_most(3, 10, 0.5) == pytest.approx(176 / 1024)
    assert at_most(6, 10, 0.5) == 1.0  # more than expected
