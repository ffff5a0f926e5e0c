"""The quick trainer: a curriculum from few needles close by to many in the whole trained length.

Everything that decides the weights depends on steps and tokens alone, so that the same design, options and seed give the same proxy on
the same machine; the clock can only cut training short. Matrices are trained by Muon (arXiv 2502.16982), the rest by Adam.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.modules.model import HybridLM
from hybrid_core.modules.moe import MixtureOfExperts
from hybrid_core.retrieval import task
from hybrid_core.retrieval.options import DEPTHS, Scale
from hybrid_core.retrieval.scores import GOOD

MUON_LR, ADAM_LR = 0.02, 0.005
WARMUP_STEPS = 30
COOLDOWN = 0.25  # share of the planned tokens over which the rates fall to FLOOR
FLOOR = 0.05
MEMORY = 0.1  # how much of the running accuracy a new step replaces
SOLVED = 0.98  # at the trained length: from here on the rates fall, and training ends
REPORT_EVERY = 10


class Stage(NamedTuple):
    """A step of the curriculum, left when GOOD, or after `max_share` of the planned tokens."""

    length: int
    n_needles: int
    n_queries: int
    max_share: float


@dataclass
class Training:
    """What became of it. `tokens_to_learn`: training tokens until the running accuracy at the trained length was GOOD."""

    planned_tokens: int
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    accuracy: float = 0.0
    length: int = 0
    tokens_to_learn: int | None = None
    ended: str = ""
    curve: list[dict[str, Any]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        return asdict(self)


def curriculum(trained_len: int) -> list[Stage]:
    """Dense contexts of four needles first, then longer ones with more; the last stage is the trained length with all needles."""
    dense = [Stage(32, 4, 4, 0.2)] if trained_len > 32 else []
    lengths = [n for n in (48, 64, 96, 128, 192) if n < trained_len]
    while lengths and lengths[-1] * 4 // 3 < trained_len:
        longer = lengths[-1] * 3 // 2 if len(lengths) % 2 else lengths[-1] * 4 // 3
        if longer >= trained_len:
            break
        lengths.append(longer)
    middle = [Stage(n, min(len(DEPTHS), n // 10), 6 if n >= 64 else 5, 0.04) for n in lengths]
    return [*dense, *[s._replace(n_queries=min(s.n_queries, s.n_needles)) for s in middle], Stage(trained_len, len(DEPTHS), 6, 1.0)]


class Optimiser:
    """Muon for matrices, Adam for embeddings, vectors and convolutions."""

    def __init__(self, model: nn.Module) -> None:
        named = list(model.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name and "conv" not in name]
        taken = {id(p) for p in matrices}
        self.rest = [p for _, p in named if id(p) not in taken]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.0),
            torch.optim.AdamW(self.rest, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0),
        ]

    def step(self, loss: Tensor, rate: float) -> None:
        """One step at `rate` times the full learning rates. Muon's step has one size whatever the gradient, so only Adam's is clipped."""
        for part in self.parts:
            part.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
        for part, full in zip(self.parts, (MUON_LR, ADAM_LR), strict=True):
            for group in part.param_groups:
                group["lr"] = full * rate
            part.step()


class Trainer:
    """Trains a model in place. `progress(training)` is called every few steps."""

    def __init__(
        self, model: HybridLM, scale: Scale, planned_tokens: int, seed: int, deadline: float, progress: Callable[[Training], None]
    ) -> None:
        self.model, self.scale, self.deadline, self.progress = model, scale, deadline, progress
        self.device = next(model.parameters()).device
        self.optimiser = Optimiser(model)
        self.generator = torch.Generator().manual_seed(seed)
        self.stages = curriculum(scale.trained_len)
        self.training = Training(planned_tokens)
        self.cooldown_from = round(planned_tokens * (1 - COOLDOWN))
        self.cooldown_to = planned_tokens

    def run(self) -> Training:
        """All stages, until the trained length is solved, the planned tokens are used, or the clock says stop."""
        started, state = time.monotonic(), self.training
        stage, stage_began, since = 0, 0, 0
        self.model.train()
        while not state.ended:
            here = self.stages[stage]
            loss, accuracy = self._step(here)
            since += 1
            state.accuracy += MEMORY * (accuracy - state.accuracy)
            state.length, state.seconds = here.length, time.monotonic() - started
            last = stage == len(self.stages) - 1
            if last:
                self._watch_the_end(since)
            elif (state.accuracy > GOOD and since > 10) or state.tokens - stage_began > here.max_share * state.planned_tokens:
                stage, stage_began, since = stage + 1, state.tokens, 0
                state.accuracy *= 0.8  # the next stage has to earn it
            if time.monotonic() > self.deadline:
                state.ended = state.ended or "time"
            if state.steps % REPORT_EVERY == 1 or state.ended:
                state.curve.append(
                    {
                        "tokens": state.tokens,
                        "seconds": round(state.seconds, 2),
                        "loss": float(loss),
                        "accuracy": state.accuracy,
                        "length": here.length,
                        "n_needles": here.n_needles,
                    }
                )
                self.progress(state)
        self.model.eval()
        return state

    def _watch_the_end(self, since: int) -> None:
        """At the trained length: note when it is learnt; once solved, let the rates fall at once, and stop when they have."""
        state = self.training
        if state.accuracy > GOOD and since > 10 and state.tokens_to_learn is None:
            state.tokens_to_learn = state.tokens
        if state.accuracy > SOLVED and since > 10 and state.tokens < self.cooldown_from:
            self.cooldown_from = state.tokens
            self.cooldown_to = state.tokens + round(state.planned_tokens * COOLDOWN / 3)
        if state.tokens >= self.cooldown_to:
            state.ended = "solved" if state.accuracy > SOLVED else "planned tokens used"

    def _rate(self) -> float:
        tokens = self.training.tokens
        falling = (self.cooldown_to - tokens) / max(1, self.cooldown_to - self.cooldown_from)
        return min(1.0, (self.training.steps + 1) / WARMUP_STEPS, max(FLOOR, falling))

    def _step(self, stage: Stage) -> tuple[Tensor, float]:
        """One optimiser step on fresh data; the loss and the share of values recalled whole."""
        size = max(2, self.scale.tokens_per_step // (stage.length + stage.n_queries * task.QUERY_LEN))
        tokens = task.batch(size, stage.length, stage.n_needles, stage.n_queries, self.generator).to(self.device)
        said, right = task.answers(self.model(tokens), tokens, stage.n_queries)
        loss = F.cross_entropy(said.flatten(0, 2), right.flatten())
        self.optimiser.step(loss, self._rate())
        for module in self.model.modules():
            if isinstance(module, MixtureOfExperts):
                module.update_balance()
        self.training.steps += 1
        self.training.tokens += tokens.numel()
        return loss.detach(), float((said.argmax(-1) == right).all(-1).float().mean())
