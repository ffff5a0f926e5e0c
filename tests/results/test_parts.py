"""Parts as they are stored: what a job gives is what JSON has, and what was stored is read."""

from typing import Any

import pytest

from hybrid_core.results.environment import Environment
from hybrid_core.results.part import Unreadable
from hybrid_core.results.probes import LossRow
from hybrid_core.results.profile import Counts, Energy, Prefill
from hybrid_core.results.retrieval import Cell, Map, Training

STORED: dict[str, Any] = {
    "median_s": 1.5,
    "min_s": 1.0,
    "max_s": 2.0,
    "repeats": 3,
    "convention": "measured",
    "batch_size": 4,
    "prompt_len": 512,
    "chunk_tokens": None,
    "tokens_per_s": 1365.3,
    "predicted_tokens_per_s": 2000.0,
    "shortened": False,
}


def test_a_part_is_stored_as_it_was_read() -> None:
    assert Prefill.read(STORED).record() == STORED
    assert Prefill.part == "prefill"


def test_what_was_not_given_is_not_stored() -> None:
    cell = Cell(context_len=64, depth=0.5, correct=1, trials=2, accuracy=0.5, low=0.1, high=0.9)
    assert "haystack_variance" not in cell.record()
    assert cell.model_copy(update={"haystack_variance": None}).record()["haystack_variance"] is None


def test_a_part_of_an_earlier_version_is_read_with_defaults() -> None:
    earlier = {key: STORED[key] for key in STORED if key not in ("chunk_tokens", "shortened")}
    assert Prefill.read(earlier).chunk_tokens is None
    old = Energy.read({"note": "NVML", "parts": {"decode": {"joules": 4321.0, "seconds": 9.0}}})
    assert old.parts and old.parts.decode.joules == 4321.0 and old.rows == ()
    assert Map.read({"cells": []}).lengths == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"batch_size": 4}, "its part 'prefill' lacks 'median_s'"),
        (STORED | {"repeats": "many"}, "has an invalid value (repeats: "),
        (STORED | {"version": 2}, "has version 2, and this program reads 1"),
    ],
)
def test_what_cannot_be_read_is_one_line(data: dict[str, Any], said: str) -> None:
    with pytest.raises(Unreadable) as refused:
        Prefill.read(data)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_key_that_python_reserves_keeps_its_name_in_json() -> None:
    row = LossRow(start=0, to=16, nats_per_byte=2.0)
    assert row.record() == {"from": 0, "to": 16, "nats_per_byte": 2.0}
    assert LossRow.model_validate(row.record()) == row


def test_three_counters_agree_only_where_all_do() -> None:
    assert Counts(fvcore=6, torch=6, exact=6).agree
    assert not Counts(fvcore=6, torch=6, exact=7).agree


def test_a_key_of_a_later_version_is_left_alone() -> None:
    found = Environment.read(
        {"device": "cpu", "name": "cpu", "threads": 1, "packages": {"torch": "2"}, "warp": 9}
    )
    assert found.kernels == {} and found.state_dtype is None


def test_a_training_that_goes_on_has_no_end_yet() -> None:
    point = {"tokens": 9, "accuracy": 0.1, "stage": "echoes", "length": 24, "loss": None}
    found = Training.read(
        {
            "tokens": 9,
            "accuracy": 0.1,
            "length": 24,
            "tokens_to_learn": None,
            "ended": "",
            "curve": [point | {"seconds": 1.0}],
        }
    )
    assert found.curve[0].loss is None and found.steps == 0
