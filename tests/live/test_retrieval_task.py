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
        assert haystack[0] == task.BEGIN
        assert task.BEGIN not in haystack[1:]
        places = [haystack.index(needle[0]) for needle in needles]
        assert places == sorted(places)
        for place, needle in zip(places, needles, strict=True):
            assert haystack[place : place + task.NEEDLE_LEN] == needle
        not_noise = [token for token in haystack[1:] if token >= task.FIRST_SYMBOL]
        assert len(not_noise) == 11 * task.NEEDLE_LEN
        keys = {needle[0] for needle in needles}
        assert len(keys) == 11
        symbols = [token for needle in needles for token in needle[1:]]
        assert len(set(symbols)) == len(symbols)


def test_positions_cover_the_haystack_evenly() -> None:
    first = task.spread(20_000, 1, 8, 108, generator()).flatten()
    assert (int(first.min()), int(first.max())) == (0, 100)
    assert first.float().mean() == pytest.approx(50, abs=1)
    assert first.float().std() == pytest.approx(101 / 12**0.5, abs=1)


def test_a_needle_is_asked_for_as_one_over_its_distance() -> None:
    sample = task.asked(41, 2, 1, 40_000 * 50, generator())
    is_key = (sample.tokens[:, 1:41] >= task.FIRST_KEY).int()
    near = 40 - is_key.flip(1).argmax(1)
    far = 1 + is_key.argmax(1)
    rows = torch.arange(len(sample.tokens))
    asked_near = sample.tokens[rows, near] == sample.tokens[:, 42]
    weight_near = 1 / (41 - near)
    weight_far = 1 / (41 - far)
    expected = weight_near / (weight_near + weight_far)
    share = float(asked_near.float().mean())
    assert share == pytest.approx(float(expected.mean()), abs=0.01)


def test_answers_are_the_symbols_of_queried_values() -> None:
    sample = task.asked(64, 4, 3, 1000, generator())
    sequence_len = 64 + 3 * 9  # the haystack, and three queries of mark, key and value
    assert sample.tokens.shape == sample.answers.shape == (1000 // sequence_len, sequence_len)
    assert int(sample.answers.sum(1).unique()) == 3 * task.VALUE_LEN
    for row, answers in zip(sample.tokens, sample.answers, strict=True):
        haystack = row[:64].tolist()
        asked = row[64:].view(3, task.QUERY_LEN)
        is_answer = answers[64:].view(3, task.QUERY_LEN)
        assert not answers[:64].any()
        assert is_answer[:, 2:].all()
        for mark, key, *value in asked.tolist():
            place = haystack.index(key)
            assert mark == task.QUERY
            assert haystack[place + 1 : place + task.NEEDLE_LEN] == value


def test_every_answer_of_an_echo_has_been_heard_one_period_before() -> None:
    sample = task.echoes(40, 4, 16, 100, 4000, generator())
    periods = 39 - sample.answers.sum(1)
    assert (int(periods.min()), int(periods.max())) == (4, 16)
    for row, answers, period in zip(sample.tokens, sample.answers, periods.tolist(), strict=True):
        assert torch.equal(row[period:], row[:-period])
        assert not answers[: period + 1].any()
        assert answers[period + 1 :].all()


def test_a_seed_fixes_the_data() -> None:
    for stage in task.curriculum(256, 11):
        one = stage.draw(4096, generator(3))
        same = stage.draw(4096, generator(3))
        other = stage.draw(4096, generator(4))
        assert torch.equal(one.tokens, same.tokens)
        assert not torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("trained_len", [128, 256, 512, 2048])
def test_the_curriculum_grows_to_the_trained_length_in_small_steps(trained_len: int) -> None:
    with_needles = task.curriculum(trained_len, 11)[2:]
    lengths = [stage.length for stage in with_needles]
    assert lengths == sorted(lengths)
    assert lengths[-1] == trained_len
    assert all(after <= 2 * before for before, after in pairwise(lengths))


def test_curricula_begin_with_echoes_of_short_periods_then_longer_ones() -> None:
    short, longer = task.echo_stages(vocab_size=7)
    for stage, longest in ((short, 6), (longer, 16)):
        sample = stage.draw(20_000, generator())
        periods = stage.length - 1 - sample.answers.sum(1)
        assert int(periods.max()) == longest
        assert int(sample.tokens.max()) == 6


def test_the_grid_reaches_both_ends_and_refuses_what_would_overlap() -> None:
    places = task.grid(128, DEPTHS).tolist()
    assert places[0] == 1  # after the token that begins the text
    assert places[-1] == 128 - task.NEEDLE_LEN
    with pytest.raises(ValueError, match="too short for 11 needles"):
        task.grid(80, DEPTHS)
