"""Associative recall, selective copying and loss by position: their data, curricula and runs."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.retrieval import task
from hybrid_core.live.retrieval.budget import Deadline
from hybrid_core.live.retrieval.options import ProbeOptions, least_text_bytes
from hybrid_core.live.retrieval.probe_tasks import (
    copying_stages,
    excerpts,
    pairs,
    recall_stages,
    scattered,
)
from hybrid_core.live.retrieval.probes import Probes, loss_by_position, probes
from hybrid_core.validation import SpecError
from tests.designs import design
from tests.live.watch import timed

TEXT = b"to be or not to be, that is the question. " * 100


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- data


def test_recall_asks_every_pair_again() -> None:
    sample = pairs(6, 2400, generator())
    assert sample.tokens.shape == (2400 // 24, 24)
    for row, answers in zip(sample.tokens.tolist(), sample.answers.tolist(), strict=True):
        told = dict(zip(row[0:12:2], row[1:12:2], strict=True))
        again = dict(zip(row[12:24:2], row[13:24:2], strict=True))
        assert told == again
        assert len(told) == 6
        assert [i for i, answer in enumerate(answers) if answer] == [13, 15, 17, 19, 21, 23]


def test_copying_keeps_the_order() -> None:
    sample = scattered(20, 4, 500, generator())
    assert sample.tokens.shape == (500 // 25, 25)
    for row, answers in zip(sample.tokens, sample.answers, strict=True):
        context, copy = row[:20], row[21:]
        assert torch.equal(context[context >= task.N_NOISE], copy)
        assert torch.equal(row[answers], copy)


def test_excerpts_are_windows_of_the_text_from_its_beginning_to_its_end() -> None:
    text = torch.arange(100)
    sample = excerpts(text, 40, 40 * 2000, generator())
    starts = sample.tokens[:, 0]
    assert torch.equal(sample.tokens, starts[:, None] + torch.arange(40))
    assert (int(starts.min()), int(starts.max())) == (0, 60)
    assert not sample.answers[:, 0].any()
    assert sample.answers[:, 1:].all()


def test_recall_grows_to_its_number_of_pairs() -> None:
    lengths = [stage.length for stage in recall_stages(12)]
    assert lengths == [24, 40, 16, 24, 32, 48]  # two of echoes; then 4, 6, 8 and 12 pairs


def test_copying_gets_its_symbols_first_and_then_its_length() -> None:
    stages = copying_stages(256)
    assert [stage.length for stage in stages] == [8, 16, 32, 48, 64, 96, 128, 192, 256]
    for stage, n_symbols in zip(stages, [2, 4, 8, 12] + [16] * 5, strict=True):
        assert stage.draw(1, generator()).width == n_symbols


def test_a_text_that_is_just_long_enough_is_read_at_twice_the_trained_length() -> None:
    held_out = least_text_bytes(512) - least_text_bytes(512) * 9 // 10
    assert held_out == 1024


# ---------------------------------------------------------------- loss by position


def test_the_loss_of_a_model_that_diverged_is_none() -> None:
    model = build(design("A", vocab_size=256))
    with torch.no_grad():
        model.norm.weight.fill_(math.nan)
    rows, _ = loss_by_position(model, torch.arange(64), 64, 1, 2, Deadline(0.0))
    assert [row.nats_per_byte for row in rows] == [None, None]


@torch.no_grad()
def test_loss_by_position_is_the_models_loss_there() -> None:
    model = build(design("AM", vocab_size=256), seed=1)
    text = torch.randint(256, (64,), generator=generator(2))
    (first, second), n_windows = loss_by_position(model, text, 64, 1, 2, Deadline(0.0))
    assert n_windows == 1
    losses = F.cross_entropy(model(text[None, :-1])[0], text[1:], reduction="none")
    assert first.nats_per_byte == pytest.approx(float(losses[: first.to].mean()), rel=1e-5)
    assert second.nats_per_byte == pytest.approx(float(losses[second.start :].mean()), rel=1e-5)


# ---------------------------------------------------------------- runs


@pytest.fixture
def text_path(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT)
    return path


def test_probes_share_the_budget_and_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, text_path: Path
) -> None:
    watch = timed(monkeypatch, 10, 0)
    forward = HybridLM.forward

    def slow(self: HybridLM, *given: Any, **how: Any) -> torch.Tensor:
        if not self.training:
            watch.now += 5
        return forward(self, *given, **how)

    monkeypatch.setattr(HybridLM, "forward", slow)
    options = ProbeOptions(
        device="cpu",
        budget_s=120,
        trials=3,
        d_model=32,
        trained_len=128,
        text_path=str(text_path),
    )
    parts: dict[str, dict[str, Any]] = {}
    Probes(design("A"), options, parts.__setitem__, lambda *_: None, lambda: watch.now).run()
    # Shares of 40 s, steps of 10, pieces of 5: the first trains until 34 are over, at 40, and asks
    # once, to 45; the second trains until 74 are over, at 75, and asks once, to 80; the third
    # trains until 114 are over, at 120, and asks once.
    recall, copying, last = (parts[part] for part in ("recall", "copying", "text"))
    assert [part["training"]["steps"] for part in (recall, copying, last)] == [4, 3, 4]
    assert watch.now == 125
    (row,) = recall["rows"]
    assert (row["n_pairs"], row["answers"]) == (2, 6)
    assert [(row["n_pairs"], row["measured"], row["of"]) for row in recall["not_measured"]] == [
        (4, 0, 12), (8, 0, 24), (16, 0, 48), (24, 0, 72), (32, 0, 96),
    ]  # fmt: skip
    assert [row["context_len"] for row in copying["rows"]] == [32]
    assert len(copying["not_measured"]) == 7
    why = "the budget of 120 s was used up"
    assert last["not_measured"] == [{"measured": 1, "of": 3, "why": why}]
    assert len(last["rows"]) == 16


def test_probes_run_and_a_short_text_is_refused(
    text_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ProbeOptions(
        device="cpu",
        budget_s=30,
        trials=2,
        trained_len=128,
        text_path=str(text_path),
    )
    parts: dict[str, dict[str, Any]] = {}
    watch = timed(monkeypatch, 1, 0)  # 9 steps each
    Probes(design("AM"), options, parts.__setitem__, lambda *_: None, lambda: watch.now).run()
    assert set(parts) == {"environment", "recall", "copying", "text"}
    assert [row["n_pairs"] for row in parts["recall"]["rows"]] == [2, 4, 8, 16, 24, 32]
    assert parts["text"]["rows"][-1]["to"] == 255
    assert all(parts[part]["not_measured"] == [] for part in ("recall", "copying", "text"))
    text_path.write_bytes(b"short")
    with pytest.raises(SpecError, match="5 bytes"):
        probes(design("AM"), options, parts.__setitem__, lambda *_: None)
