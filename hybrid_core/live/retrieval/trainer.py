"""The quick trainer: a curriculum from few needles close by to many in the whole trained length.

The weights depend on steps and tokens alone, so the same design, options and seed give the same
proxy on the same machine. The clock can only cut training short. The weights of linear layers are
trained by Muon (arXiv 2502.16982), the rest by Adam.
"""

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

MUON_LR = 0.015
ADAM_LR = 0.015
WARMUP_STEPS = 30
COOLDOWN = 0.25  # share of the planned tokens over which the learning rates fall to FLOOR
FLOOR = 0.05
MEMORY = 0.1  # share of a new step in the running accuracy
SOLVED = 0.98  # accuracy at the trained length at which the rates start to fall
SHORT_COOLDOWN = 0.08  # share of the planned tokens for that fall; then training ends
DOOR = 0.8  # running accuracy (whole answers) that opens the next stage
SETTLE_STEPS = 10  # steps of a stage before its running accuracy counts
# How often a step on the current stage follows one on an earlier stage, so that nothing is
# forgotten.
REHEARSAL = 0.4
DISCOUNT = 0.8  # factor on the running accuracy when the next stage begins
REPORT_EVERY = 10
DIVERGED = "diverged: the loss is no number"


@dataclass
class Training:
    """The state of a training, and in the end its record.

    `tokens_to_learn`: training tokens until the running accuracy at the trained length was GOOD.
    """

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
        """Add a point to the curve.

        A loss that is no finite number ends the training: the weights are lost by then, and JSON
        has no word for it.
        """
        finite = isfinite(loss)
        if not finite:
            self.ended = DIVERGED
        self.curve.append(
            {
                "tokens": self.tokens,
                "accuracy": self.accuracy,
                "stage": self.stage,
                "length": self.length,
                "loss": loss if finite else None,
                "seconds": round(self.seconds, 2),
            }
        )

    def record(self) -> dict[str, Any]:
        """The form in which it is stored."""
        return asdict(self)


class Optimiser:
    """Muon for the weights of linear layers except the head; Adam for all other parameters.

    The others are embeddings and head, norms, biases, convolutions, decays and lambdas. Experts are
    among them, because torch's Muon does not take matrices that are stacked in one tensor.
    """

    def __init__(self, model: HybridLM) -> None:
        matrices = []
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not model.head:
                matrices.append(module.weight)
        taken = {id(matrix) for matrix in matrices}
        self.rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
        muon = torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.0)
        adam = torch.optim.AdamW(
            self.rest,
            lr=ADAM_LR,
            betas=(0.9, 0.95),
            weight_decay=0.0,
        )
        self.parts: list[torch.optim.Optimizer] = [muon, adam]

    def step(self, loss: Tensor, rate: float) -> None:
        """One step at `rate` times the full learning rates.

        The size of Muon's step does not depend on the size of the gradient, so only Adam's
        gradients are clipped.
        """
        for part in self.parts:
            part.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
        for part, full in zip(self.parts, (MUON_LR, ADAM_LR), strict=True):
            for group in part.param_groups:
                group["lr"] = full * rate
            part.step()


class Trainer:
    """Trains a model in place through `stages`.

    `step_tokens(length)` is the number of tokens in a step on contexts of that length.
    `progress(training)` is called every few steps. `deadline` is a time on `clock`.
    """

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
        self.model = model
        self.stages = stages
        self.step_tokens = step_tokens
        self.deadline = deadline
        self.progress = progress
        self.clock = clock
        self.device = next(model.parameters()).device
        self.optimiser = Optimiser(model)
        self.balanced = [
            module for module in model.modules() if isinstance(module, MixtureOfExperts)
        ]
        self.generator = torch.Generator().manual_seed(seed)
        self.training = Training(planned_tokens)
        self.cooldown_from = round(planned_tokens * (1 - COOLDOWN))
        self.cooldown_to = planned_tokens

    def run(self) -> Training:
        """Train until the last stage is solved, the tokens are used, or the deadline is reached."""
        self.model.train()
        if self.device.type == "cuda":
            self._compile()
        started = self.clock()
        state = self.training
        at = 0
        stage_began = 0  # tokens seen before this stage
        stage_steps = 0
        while not state.ended:
            stage = self.stages[at]
            if at and self._draw() < REHEARSAL:
                self._step(self.stages[int(self._draw() * at)])
            loss, accuracy = self._step(stage)
            stage_steps += 1
            state.accuracy += MEMORY * (accuracy - state.accuracy)
            state.stage = stage.name
            state.length = stage.length
            state.seconds = self.clock() - started
            settled = stage_steps > SETTLE_STEPS
            learnt = settled and state.accuracy > DOOR
            stage_tokens = state.tokens - stage_began
            if at == len(self.stages) - 1:
                self._watch_the_end(settled)
            elif learnt or stage_tokens > stage.max_share * state.planned_tokens:
                at += 1
                stage_began = state.tokens
                stage_steps = 0
                state.accuracy *= DISCOUNT
            if self.clock() >= self.deadline:
                state.ended = state.ended or "time"
            if stage_steps % REPORT_EVERY == 1 or state.ended:
                state.note(float(loss))
                self.progress(state)
        self.model.eval()
        return state

    def _watch_the_end(self, settled: bool) -> None:
        """In the last stage, note when it is learnt, and decide when training ends.

        Once it is solved, the learning rates begin to fall. Training ends when they have fallen.
        """
        state = self.training
        if settled and state.accuracy > GOOD and state.tokens_to_learn is None:
            state.tokens_to_learn = state.tokens
        if settled and state.accuracy > SOLVED and state.tokens < self.cooldown_from:
            self.cooldown_from = state.tokens
            self.cooldown_to = state.tokens + round(state.planned_tokens * SHORT_COOLDOWN)
        if state.tokens >= self.cooldown_to:
            state.ended = "solved" if state.accuracy > SOLVED else "planned tokens used"

    def _draw(self) -> float:
        """A random number from 0 to 1, drawn with the seed."""
        return float(torch.rand((), generator=self.generator))

    def _rate(self) -> float:
        """Share of the full learning rates: a warm-up, a plateau, a fall."""
        warming = (self.training.steps + 1) / WARMUP_STEPS
        cooldown = max(1, self.cooldown_to - self.cooldown_from)
        falling = (self.cooldown_to - self.training.tokens) / cooldown
        return min(1.0, warming, max(FLOOR, falling))

    def _step(self, stage: Stage) -> tuple[Tensor, float]:
        """One optimiser step on new data; the loss, and the share of answers right as a whole."""
        loss, right, n_tokens = self._forward(stage, self.generator)
        self.optimiser.step(loss, self._rate())
        for module in self.balanced:
            module.update_balance()
        self.training.steps += 1
        self.training.tokens += n_tokens
        return loss.detach(), float(right)

    def _forward(
        self,
        stage: Stage,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, int]:
        """Loss, share of answers right as a whole, and number of tokens, on data of a stage."""
        drawn = stage.draw(self.step_tokens(stage.length), generator)
        tokens = drawn.tokens.to(self.device)
        answers = drawn.answers.to(self.device)[:, 1:]
        logits = self.model(tokens[:, :-1])[answers]
        true = tokens[:, 1:][answers]
        right = (logits.argmax(-1) == true).view(-1, drawn.width)
        accuracy = right.all(-1).float().mean()
        return F.cross_entropy(logits, true), accuracy, tokens.numel()

    def _compile(self) -> None:
        """Run both passes on every stage without changing anything.

        Kernels are compiled at their first use with a shape. This takes time from the budget but
        does not count as training.
        """
        for stage in self.stages:
            loss, right, _ = self._forward(stage, torch.Generator().manual_seed(0))
            loss.backward()
            float(right)  # waits for the device
        self.model.zero_grad()
        for module in self.balanced:
            module.load.zero_()
