"""A clock that tests set, and work that takes as long on it as a test says."""

from typing import Any

import pytest
import torch

from hybrid_core.live.modules.model import HybridLM
from hybrid_core.live.retrieval import task
from hybrid_core.live.retrieval.evaluate import recalled
from hybrid_core.live.retrieval.trainer import Trainer


class Watch:
    """A clock that goes on by a second whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def timed(
    monkeypatch: pytest.MonkeyPatch,
    step_s: float,
    haystack_s: float,
) -> Watch:
    """A clock that only training steps and haystacks move on."""
    watch = Watch()
    step, ask = Trainer._step, recalled

    def slow_step(self: Trainer, stage: task.Stage) -> Any:
        watch.now += step_s
        return step(self, stage)

    def slow_ask(
        model: HybridLM,
        contexts: task.Contexts,
        where: torch.device,
    ) -> torch.Tensor:
        watch.now += haystack_s * len(contexts.haystack)
        return ask(model, contexts, where)

    monkeypatch.setattr(Trainer, "_step", slow_step)
    monkeypatch.setattr("hybrid_core.live.retrieval.evaluate.recalled", slow_ask)
    return watch
