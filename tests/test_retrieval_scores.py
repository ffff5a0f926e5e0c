"""Wilson's interval against worked numbers, and the few numbers that compare designs."""

import pytest

from hybrid_core.retrieval.scores import at_length, cell, effective_context, scores, wilson


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


def grid(rows: dict[int, list[int]]) -> list[dict[str, object]]:
    return [cell(length, depth / 2, n, 10) for length, row in rows.items() for depth, n in enumerate(row)]


def test_effective_context_ends_at_the_first_length_that_fails() -> None:
    cells = grid({64: [10, 9, 10], 128: [9, 9, 9], 192: [10, 6, 10], 256: [10, 10, 10]})
    assert effective_context(cells) == 128
    assert effective_context(grid({64: [10, 6, 10]})) == 0
    assert at_length(cells, 192) == pytest.approx(26 / 30)
    assert at_length(cells, 100) is None


def test_scores_are_read_at_the_trained_length_and_beyond() -> None:
    found = scores(grid({128: [10, 10, 10], 192: [5, 5, 5]}), 128, 1_000_000)
    assert found == {"at_trained_len": 1.0, "at_1_5x": 0.5, "effective_context": 128, "tokens_to_learn": 1_000_000, "trained_len": 128}
