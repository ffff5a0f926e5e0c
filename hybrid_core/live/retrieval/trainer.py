"""How a proxy is trained: through the stages of a curriculum, until it has learnt the last one.

Muon (arXiv 2502.16982) trains the weights of linear layers, Adam all other parameters. The learning
rates depend only on the number of steps and tokens, never on the clock, so the same design, options
and seed give the same proxy on the same machine. The clock can only end training early.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.live.modules.model import HybridLM
from hybrid_core.live.modules.moe import MixtureOfExperts
from hybrid_core.live.retrieval.budget import Clock
from hybrid_core.live.retrieval.scores import GOOD
from hybrid_core.live.retrieval.task import Stage
from hybrid_core.results import retrieval as results

MUON_LR = 0.015
ADAM_LR = 0.015
WARMUP_STEPS = 30
COOLDOWN = 0.25  # share of the planned tokens over which the learning rates fall to FLOOR
FLOOR = 0.05  # share of the full learning rates
NEW_STEP_WEIGHT = 0.1  # weight of the latest step in the running accuracy
SOLVED = 0.98  # running accuracy at the trained length that starts the cooldown early
EARLY_COOLDOWN = 0.08  # share of the planned tokens that an early cooldown takes
NEXT_STAGE = 0.8  # running accuracy (whole answers) that starts the next stage
SETTLE_STEPS = 10  # steps of a stage before its running accuracy counts
# Share of the steps that are preceded by a step on an earlier stage, to avoid forgetting it.
REHEARSAL = 0.4
DISCOUNT = 0.8  # factor on the running accuracy when the next stage begins
REPORT_EVERY = 10
DIVERGED = "diverged: the loss is not finite"


@dataclass
class Training:
    """The progress of a training.

    `accuracy` is the running accuracy, in whole answers. `tokens_to_learn`: training tokens until
    it was GOOD at the trained length.
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
    curve: list[results.CurvePoint] = field(default_factory=list)

    def add_point(self, loss: float) -> None:
        """Add a point to the curve.

        A loss that is not finite ends the training, because the weights are ruined by then. Such a
        point has no loss: JSON cannot represent it.
        """
        finite_loss = None
        if isfinite(loss):
            finite_loss = loss
        else:
            self.ended = DIVERGED
        point = results.CurvePoint(
            tokens=self.tokens,
            accuracy=self.accuracy,
            stage=self.stage,
            length=self.length,
            loss=finite_loss,
            seconds=round(self.seconds, 2),
        )
        self.curve.append(point)

    def result(self) -> results.Training:
        """The training so far, as a part of a run."""
        return results.Training(
            planned_tokens=self.planned_tokens,
            tokens=self.tokens,
            steps=self.steps,
            seconds=self.seconds,
            accuracy=self.accuracy,
            stage=self.stage,
            length=self.length,
            tokens_to_learn=self.tokens_to_learn,
            ended=self.ended,
            curve=tuple(self.curve),
        )


class Optimiser:
    """Muon for the weights of all linear layers but the head, Adam for all other parameters.

    Adam trains the embedding and the head, norms, biases, convolutions, decays and lambdas, and the
    experts, whose matrices are stacked in one tensor, which torch's Muon does not accept.
    """

    def __init__(self, model: HybridLM) -> None:
        matrices = []
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not model.head:
                matrices.append(module.weight)
        trained_by_muon = {id(matrix) for matrix in matrices}
        self.others = []
        for parameter in model.parameters():
            if id(parameter) not in trained_by_muon:
                self.others.append(parameter)
        muon = torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.0)
        adam = torch.optim.AdamW(
            self.others,
            lr=ADAM_LR,
            betas=(0.9, 0.95),
            weight_decay=0.0,
        )
        self.parts: list[torch.optim.Optimizer] = [muon, adam]

    def step(self, loss: Tensor, rate: float) -> None:
        """Make one step at `rate` times the full learning rates.

        Only Adam's gradients are clipped: the size of a Muon step does not depend on the gradient's
        size.
        """
        for part in self.parts:
            part.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.others, 1.0)
        full_rates = (MUON_LR, ADAM_LR)
        for part, full_rate in zip(self.parts, full_rates, strict=True):
            for group in part.param_groups:
                group["lr"] = full_rate * rate
            part.step()


class Trainer:
    """Trains a model in place through `stages`.

    `step_tokens(length)` is the number of tokens of a step on contexts of that length.
    `progress(training)` is called every REPORT_EVERY steps. `deadline` is a time on `clock`.
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
        self.moe_layers = []
        for module in model.modules():
            if isinstance(module, MixtureOfExperts):
                self.moe_layers.append(module)
        self.generator = torch.Generator().manual_seed(seed)
        self.training = Training(planned_tokens)
        self.cooldown_from = round(planned_tokens * (1 - COOLDOWN))
        self.cooldown_to = planned_tokens

    def run(self) -> Training:
        """Train until the last stage is solved, the tokens are used up, or time is up."""
        self.model.train()
        if self.device.type == "cuda":
            self._compile()
        started = self.clock()
        state = self.training
        current = 0  # index of the stage
        stage_began = 0  # tokens seen before this stage
        stage_steps = 0
        while not state.ended:
            stage = self.stages[current]
            self._rehearse(current)
            loss, accuracy = self._step(stage)
            stage_steps += 1
            state.accuracy += NEW_STEP_WEIGHT * (accuracy - state.accuracy)
            state.stage = stage.name
            state.length = stage.length
            state.seconds = self.clock() - started
            settled = stage_steps > SETTLE_STEPS
            learnt = settled and state.accuracy > NEXT_STAGE
            stage_tokens = state.tokens - stage_began
            used_up = stage_tokens > stage.max_share * state.planned_tokens
            if current == len(self.stages) - 1:
                self._watch_last_stage(settled)
            elif learnt or used_up:
                current += 1
                stage_began = state.tokens
                stage_steps = 0
                state.accuracy *= DISCOUNT
            if self.clock() >= self.deadline:
                state.ended = state.ended or "time"
            if stage_steps % REPORT_EVERY == 1 or state.ended:
                state.add_point(float(loss))
                self.progress(state)
        self.model.eval()
        return state

    def _rehearse(self, current: int) -> None:
        """Occasionally make a step on a stage before the current one."""
        if current == 0:
            return
        if self._draw() < REHEARSAL:
            earlier = int(self._draw() * current)
            self._step(self.stages[earlier])

    def _watch_last_stage(self, settled: bool) -> None:
        """Note when the last stage is learnt, and end training after the cooldown.

        The cooldown begins early once the stage is solved.
        """
        state = self.training
        solved = state.accuracy > SOLVED
        if settled and state.accuracy > GOOD and state.tokens_to_learn is None:
            state.tokens_to_learn = state.tokens
        if settled and solved and state.tokens < self.cooldown_from:
            cooldown_tokens = round(state.planned_tokens * EARLY_COOLDOWN)
            self.cooldown_from = state.tokens
            self.cooldown_to = state.tokens + cooldown_tokens
        if state.tokens >= self.cooldown_to:
            state.ended = "planned tokens used"
            if solved:
                state.ended = "solved"

    def _draw(self) -> float:
        """A random number from 0 to 1."""
        return float(torch.rand((), generator=self.generator))

    def _rate(self) -> float:
        """The share of the full learning rates: warm-up, plateau, cooldown."""
        warmup = (self.training.steps + 1) / WARMUP_STEPS
        cooldown_tokens = max(1, self.cooldown_to - self.cooldown_from)
        left = self.cooldown_to - self.training.tokens
        cooldown = left / cooldown_tokens
        return min(1.0, warmup, max(FLOOR, cooldown))

    def _step(self, stage: Stage) -> tuple[Tensor, float]:
        """Make one optimiser step on new data. Returns the loss and the share of right answers."""
        loss, accuracy, n_tokens = self._forward(stage, self.generator)
        self.optimiser.step(loss, self._rate())
        for moe in self.moe_layers:
            moe.update_balance()
        self.training.steps += 1
        self.training.tokens += n_tokens
        return loss.detach(), float(accuracy)

    def _forward(
        self,
        stage: Stage,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, int]:
        """Loss, share of answers that are right as a whole, and number of tokens, on new data."""
        sample = stage.draw(self.step_tokens(stage.length), generator)
        tokens = sample.tokens.to(self.device)
        inputs = tokens[:, :-1]
        targets = tokens[:, 1:]
        is_answer = sample.answers.to(self.device)[:, 1:]
        logits = self.model(inputs)[is_answer]
        expected = targets[is_answer]
        token_right = logits.argmax(-1) == expected
        answer_right = token_right.view(-1, sample.width).all(-1)
        accuracy = answer_right.float().mean()
        return F.cross_entropy(logits, expected), accuracy, tokens.numel()

    def _compile(self) -> None:
        """Run forward and backward once per stage, without changing the model.

        Kernels compile when they first see a shape. This takes time from the budget, but does not
        count as training.
        """
        for stage in self.stages:
            other_data = torch.Generator().manual_seed(0)
            loss, accuracy, _ = self._forward(stage, other_data)
            loss.backward()
            float(accuracy)  # wait for the device
        self.model.zero_grad()
        for moe in self.moe_layers:
            moe.load.zero_()
