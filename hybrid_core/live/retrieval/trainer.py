"""The quick trainer: a curriculum from few needles close by to many in the whole trained length.

Everything that decides the weights depends on steps and tokens alone, so that the same design,
options and seed give the same proxy on the same machine; the clock can only cut training short.
Matrices of products are trained by Muon (arXiv 2502.16982), the rest by Adam."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.live.modules.model import HybridLM
from hybrid_core.live.modules.moe import MixtureOfExperts
from hybrid_core.live.retrieval.budget import Clock
from hybrid_core.live.retrieval.scores import GOOD
from hybrid_core.live.retrieval.task import Stage

MUON_LR, ADAM_LR = 0.015, 0.015
WARMUP_STEPS = 30
COOLDOWN = 0.25  # share of the planned tokens over which the rates fall to FLOOR
FLOOR = 0.05
MEMORY = 0.1  # how much of the running accuracy a new step replaces
SOLVED = 0.98  # at the trained length: from here on the rates fall, and training ends
SHORT_COOLDOWN = 0.08  # of the planned tokens, once solved
DOOR = 0.8  # whole answers of a stage, to go on to the next
SETTLE_STEPS = 10  # in a stage before its running accuracy counts
REHEARSAL = 0.4  # how often a step on the current stage is preceded by one on an earlier one, so that nothing is unlearnt
DISCOUNT = 0.8  # of the running accuracy at the door of the next stage
REPORT_EVERY = 10
DIVERGED = "diverged: the loss is no number"


@dataclass
class Training:
    """What became of it. `tokens_to_learn`: training tokens until the running accuracy at the
    trained length was GOOD."""

    planned_tokens: int
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    accuracy: float = 0.0
    stage: str = ""
    length: int = 0
    tokens_to_learn: int | None = None
    ended: str = ""
    curve: list[dict[str, Any]] = field(default_factory=list)

    def note(self, loss: float) -> None:
        """Add a point to the curve. A loss that is no number ends the training: no weight is one
        any more, nor can JSON say it."""
        if not isfinite(loss):
            self.ended = DIVERGED
        point = {key: getattr(self, key) for key in ("tokens", "accuracy", "stage", "length")}
        self.curve.append(
            point | {"loss": loss if isfinite(loss) else None, "seconds": round(self.seconds, 2)}
        )

    def record(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)


class Optimiser:
    """Muon for the matrices of products: the weights of Linear modules but the head's. Adam for the
    rest: embeddings and head, norms, biases, convolutions, decays, lambdas, and experts, whose
    matrices lie in stacks that torch's Muon does not take."""

    def __init__(self, model: HybridLM) -> None:
        matrices = [
            module.weight
            for module in model.modules()
            if isinstance(module, nn.Linear) and module is not model.head
        ]
        taken = {id(matrix) for matrix in matrices}
        self.rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.0),
            torch.optim.AdamW(self.rest, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0),
        ]

    def step(self, loss: Tensor, rate: float) -> None:
        """One step at `rate` times the full learning rates. Muon's step has one size whatever the
        gradient, so only Adam's is clipped."""
        for part in self.parts:
            part.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
        for part, full in zip(self.parts, (MUON_LR, ADAM_LR), strict=True):
            for group in part.param_groups:
                group["lr"] = full * rate
            part.step()


class Trainer:
    """Trains a model in place through `stages`. `step_tokens(length)` says how many tokens a step
    on contexts of a length has; `progress(training)` is called every few steps; `deadline` is a
    time on `clock`."""

    def __init__(
        self,
        model: HybridLM,
        stages: list[Stage],
        step_tokens: Callable[[int], int],
        planned_tokens: int,
        seed: int,
        deadline: float,
        progress: Callable[[Training], None],
        clock: Clock = time.monotonic,
    ) -> None:
        self.model, self.stages, self.step_tokens = model, stages, step_tokens
        self.deadline, self.progress, self.clock = deadline, progress, clock
        self.device = next(model.parameters()).device
        self.optimiser = Optimiser(model)
        self.balanced = [
            module for module in model.modules() if isinstance(module, MixtureOfExperts)
        ]
        self.generator = torch.Generator().manual_seed(seed)
        self.training = Training(planned_tokens)
        self.cooldown_from, self.cooldown_to = (
            round(planned_tokens * (1 - COOLDOWN)),
            planned_tokens,
        )

    def run(self) -> Training:
        """All stages, until the last is solved, the planned tokens are used, or the clock says
        stop."""
        self.model.train()
        if self.device.type == "cuda":
            self._compile()
        started, state = self.clock(), self.training
        at, began, steps = 0, 0, 0
        while not state.ended:
            stage = self.stages[at]
            if at and self._draw() < REHEARSAL:
                self._step(self.stages[int(self._draw() * at)])
            loss, accuracy = self._step(stage)
            steps += 1
            state.accuracy += MEMORY * (accuracy - state.accuracy)
            state.stage, state.length, state.seconds = (
                stage.name,
                stage.length,
                self.clock() - started,
            )
            settled = steps > SETTLE_STEPS
            if at == len(self.stages) - 1:
                self._watch_the_end(settled)
            elif (
                settled and state.accuracy > DOOR
            ) or state.tokens - began > stage.max_share * state.planned_tokens:
                at, began, steps = at + 1, state.tokens, 0
                state.accuracy *= DISCOUNT
            if self.clock() >= self.deadline:
                state.ended = state.ended or "time"
            if steps % REPORT_EVERY == 1 or state.ended:
                state.note(float(loss))
                self.progress(state)
        self.model.eval()
        return state

    def _watch_the_end(self, settled: bool) -> None:
        """In the last stage: note when it is learnt; once solved, let the rates fall at once, and
        stop when they have."""
        state = self.training
        if settled and state.accuracy > GOOD and state.tokens_to_learn is None:
            state.tokens_to_learn = state.tokens
        if settled and state.accuracy > SOLVED and state.tokens < self.cooldown_from:
            self.cooldown_from, self.cooldown_to = (
                state.tokens,
                state.tokens + round(state.planned_tokens * SHORT_COOLDOWN),
            )
        if state.tokens >= self.cooldown_to:
            state.ended = "solved" if state.accuracy > SOLVED else "planned tokens used"

    def _draw(self) -> float:
        """A number from 0 to 1, from the seed."""
        return float(torch.rand((), generator=self.generator))

    def _rate(self) -> float:
        """Share of the full learning rates: a warm-up, a plateau, a fall."""
        falling = (self.cooldown_to - self.training.tokens) / max(
            1, self.cooldown_to - self.cooldown_from
        )
        return min(1.0, (self.training.steps + 1) / WARMUP_STEPS, max(FLOOR, falling))

    def _step(self, stage: Stage) -> tuple[Tensor, float]:
        """One optimiser step on fresh data; the loss and the share of whole answers that were
        right."""
        loss, right, n_tokens = self._forward(stage, self.generator)
        self.optimiser.step(loss, self._rate())
        for module in self.balanced:
            module.update_balance()
        self.training.steps += 1
        self.training.tokens += n_tokens
        return loss.detach(), float(right)

    def _forward(self, stage: Stage, generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
        """The loss on data of a stage, the share of whole answers that were right, and how many
        tokens there were."""
        drawn = stage.draw(self.step_tokens(stage.length), generator)
        tokens, answers = drawn.tokens.to(self.device), drawn.answers.to(self.device)[:, 1:]
        said, true = self.model(tokens[:, :-1])[answers], tokens[:, 1:][answers]
        right = (said.argmax(-1) == true).view(-1, drawn.width).all(-1).float().mean()
        return F.cross_entropy(said, true), right, tokens.numel()

    def _compile(self) -> None:
        """Both passes on every stage, which change nothing: kernels are compiled at their first use
        with a shape, and those seconds are of the budget and not of the training."""
        for stage in self.stages:
            loss, right, _ = self._forward(stage, torch.Generator().manual_seed(0))
            loss.backward()
            float(right)  # waits for the device
        self.model.zero_grad()
        for module in self.balanced:
            module.load.zero_()
