"""The synthetic language: what stands where, and that a seed fixes it."""

from itertools import pairwise

import pytest
import torch

from hybrid_core.live.retrieval import task
from hybrid_core.live.retrieval.options import DEPTHS


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_needles_stand_whole_in_the_haystack_and_nothing_else_is_key_or_symbol() -> None:
    made = task.contexts(20, 128, 11, generator())
    for haystack, needles in zip(made.haystack.tolist(), made.needles.tolist(), strict=True):
        assert haystack[0] == task.BEGIN and task.BEGIN not in haystack[1:]
        places = [haystack.index(needle[0]) for needle in needles]
        assert places == sorted(places)
        for place, needle in zip(places, needles, strict=True):
            assert haystack[place : place + task.NEEDLE_LEN] == needle
        assert sum(token >= task.FIRST_SYMBOL for token in haystack[1:]) == 11 * task.NEEDLE_LEN
        symbols = [token for needle in needles for token in needle[1:]]
        assert len(set(symbols)) == len(symbols) and len({needle[0] for needle in needles}) == 11


def test_positions_cover_the_haystack_evenly() -> None:
    first = task.spread(20_000, 1, 8, 108, generator()).flatten()
    assert (int(first.min()), int(first.max())) == (0, 100)
    assert first.float().mean() == pytest.approx(50, abs=1)
    assert first.float().std() == pytest.approx(101 / 12**0.5, abs=1)


def test_a_needle_is_asked_for_as_one_over_its_distance() -> None:
    sample = task.asked(41, 2, 1, 40_000 * 50, generator())
    firsts = (sample.tokens[:, :41] >= task.FIRST_KEY).int()[:, 1:]  # of keys, the two places
    near, far = 40 - firsts.flip(1).argmax(1), 1 + firsts.argmax(1)
    asked_near = sample.tokens.gather(1, near.unsqueeze(1)).squeeze(1) == sample.tokens[:, 42]
    expected = (1 / (41 - near)) / (1 / (41 - near) + 1 / (41 - far))
    assert float(asked_near.float().mean()) == pytest.approx(float(expected.mean()), abs=0.01)


def test_answers_are_the_symbols_of_queried_values() -> None:
    sample = task.asked(64, 4, 3, 1000, generator())
    assert sample.tokens.shape == sample.answers.shape == (1000 // (64 + 27), 64 + 27)
    assert int(sample.answers.sum(1).unique()) == 3 * task.VALUE_LEN
    for row, answers in zip(sample.tokens, sample.answers, strict=True):
        haystack, tail = row[:64].tolist(), row[64:].unflatten(0, (3, task.QUERY_LEN))
        assert not answers[:64].any()
        assert answers[64:].unflatten(0, (3, task.QUERY_LEN))[:, 2:].all()
        for mark, key, *value in tail.tolist():
            at = haystack.index(key)
            assert mark == task.QUERY and haystack[at + 1 : at + task.NEEDLE_LEN] == value


def test_every_answer_of_an_echo_has_been_heard_one_period_before() -> None:
    sample = task.echoes(40, 4, 16, 100, 4000, generator())
    periods = 39 - sample.answers.sum(1)
    assert (int(periods.min()), int(periods.max())) == (4, 16)
    for row, answers, period in zip(sample.tokens, sample.answers, periods.tolist(), strict=True):
        assert torch.equal(row[period:], row[:-period])
        assert not answers[: period + 1].any() and answers[period + 1 :].all()


def test_a_seed_fixes_the_data() -> None:
    for stage in task.curriculum(256, 11):
        one, same, other = (stage.draw(4096, generator(seed)) for seed in (3, 3, 4))
        assert torch.equal(one.tokens, same.tokens) and not torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("trained_len", [128, 256, 512, 2048])
def test_the_curriculum_grows_to_the_trained_length_in_small_steps(trained_len: int) -> None:
    lengths = [stage.length for stage in task.curriculum(trained_len, 11)][2:]
    assert lengths == sorted(lengths) and lengths[-1] == trained_len
    assert all(after <= 2 * before for before, after in pairwise(lengths))


def test_the_grid_reaches_both_ends_and_refuses_what_would_overlap() -> None:
    places = task.grid(128, DEPTHS).tolist()
    assert (
        places[0] == 1 and places[-1] == 128 - task.NEEDLE_LEN
    )  # the text's first token comes before
    with pytest.raises(ValueError, match="too short for 11 needles"):
        task.grid(80, DEPTHS)
