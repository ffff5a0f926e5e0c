"""A retrieval run of one design: proxy, training, map, scores, verdict. Each part is handed over as
soon as it is known.

Parts: `environment`; `proxy` (the small design and how it was made); `training` (the curve); `map`
(cells, growing row by row, and in the end what of it was not measured); `scores`; `verdict`
(whether the map may be read as a finding)."""

import time
from collections.abc import Sequence
from typing import Any

from hybrid_core.costs.memory import refusal
from hybrid_core.costs.model import model_costs
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.profiling import device
from hybrid_core.live.profiling.job import DoesNotFit, Report, Store
from hybrid_core.live.retrieval import task
from hybrid_core.live.retrieval.budget import Budget, Clock
from hybrid_core.live.retrieval.evaluate import evaluate
from hybrid_core.live.retrieval.options import CONTEXTS, DEPTHS, NOTE, NiahOptions
from hybrid_core.live.retrieval.proxy import proxy
from hybrid_core.live.retrieval.scores import GOOD, scores
from hybrid_core.live.retrieval.trainer import Trainer, Training
from hybrid_core.workload import Workload

ENOUGH_TOKENS = 900_000  # of training; with fewer most designs are on their way
TRAIN_SHARE = 0.85  # of the budget; the rest is for the map, which ends with the budget
EVAL_TOKENS = 16_384  # of haystack in memory at a time, on a CPU
TRAIN_BYTES_PER_ACTIVATION = (
    8  # a step keeps what its backward needs: several times the forward's widest moment
)


class Niah:
    """Runs the parts in order against a clock."""

    def __init__(
        self,
        spec: ArchSpec,
        options: NiahOptions,
        store: Store,
        report: Report,
        clock: Clock = time.monotonic,
    ) -> None:
        self.spec, self.options, self.store, self.report = spec, options, store, report
        self.budget = Budget(options.budget_s, clock)
        self.device = device.resolve(options.device)
        self.scale = options.scale(self.device.type)
        self.proxy = proxy(spec, self.scale.d_model, self.scale.trained_len, task.VOCAB_SIZE)
        self.lengths = tuple(
            round(c * self.scale.trained_len)
            for c in CONTEXTS
            if c * self.scale.trained_len >= self._shortest
        )
        self.cells: list[dict[str, Any]] = []

    _shortest = task.NEEDLE_LEN * len(DEPTHS) + len(DEPTHS)

    def run(self) -> None:
        """All parts. Raises DoesNotFit before anything is allocated."""
        self.report(0.0, "Looking at the device")
        self.store("environment", device.environment(self.device))
        self._refuse_what_cannot_fit()
        self.store("proxy", self._described())
        model = build(self.proxy, self.device, seed=self.options.seed)
        training = self._train(model)
        self._map(model, training)
        found = scores(self.cells, self.scale.trained_len, training.tokens_to_learn)
        self.store("scores", found | {"seconds": self.budget.clock() - self.budget.started})
        self.store("verdict", verdict(found, training))
        self.report(1.0, "Done")

    def _refuse_what_cannot_fit(self) -> None:
        """The longest context of the map, one sequence, and a training step, by the closed
        forms."""
        free = device.available_bytes(self.device)
        longest, rows = max(self.lengths) + task.QUERY_LEN, self.scale.contexts_per_step
        for batch, length in ((1, longest), (rows, self.scale.trained_len)):
            asked = Workload(
                batch_size=batch, context_len=length, weight_dtype="fp32", kv_cache_dtype="fp32"
            )
            problem = refusal(
                self.proxy, asked, free // TRAIN_BYTES_PER_ACTIVATION if batch > 1 else free
            )
            if problem:
                raise DoesNotFit(f"{self.proxy.name} at {batch} x {length:,} tokens: {problem}")

    def _described(self) -> dict[str, Any]:
        return {
            "spec_yaml": self.proxy.to_yaml(),
            "pattern": self.proxy.pattern,
            "design_pattern": self.spec.pattern,
            "params": int(model_costs(self.proxy).params().total),
            "trained_len": self.scale.trained_len,
            "n_needles": len(DEPTHS),
            "note": NOTE,
        }

    def _train(self, model: HybridLM) -> Training:
        budget = self.options.budget_s * TRAIN_SHARE

        def progress(state: Training) -> None:
            self.store("training", state.record())
            done = max(state.seconds / budget, state.tokens / state.planned_tokens)
            self.report(
                TRAIN_SHARE * min(1.0, done),
                f"Training: {state.tokens / 1e6:.2f}M tokens, {state.accuracy:.0%} recalled at {state.length} tokens",
            )

        planned = round(self.scale.tokens_per_s * self.options.budget_s)
        stages = task.curriculum(self.scale.trained_len, len(DEPTHS))
        deadline, clock = self.budget.at(TRAIN_SHARE), self.budget.clock
        return Trainer(
            model,
            stages,
            self.scale.step_tokens,
            planned,
            self.options.seed,
            deadline,
            progress,
            clock,
        ).run()

    def _asked(self, training: Training) -> tuple[int, ...]:
        """All lengths, but of an unfinished proxy none beyond where its training has got to, except
        the shortest.

        What tells most comes first, should time run out: the shortest, the trained one, then the
        others."""
        shortest, trained = self.lengths[0], self.scale.trained_len
        short = unfinished(training, trained)
        asked = [
            length
            for length in self.lengths
            if not short or length <= max(training.length, shortest)
        ]
        return tuple(
            sorted(asked, key=lambda length: (length != shortest, length != trained, length))
        )

    def _map(self, model: HybridLM, training: Training) -> None:
        batch_tokens = EVAL_TOKENS * (16 if self.device.type == "cuda" else 1)
        asked, trials = self._asked(training), self.scale.trials
        rows = evaluate(
            model,
            asked,
            DEPTHS,
            trials,
            self.options.seed,
            self.device,
            batch_tokens,
            self.budget.until(1.0),
        )
        self._store_map()
        for done, row in enumerate(rows, 1):
            self.cells += row
            self._store_map()
            self.report(
                TRAIN_SHARE + (1 - TRAIN_SHARE) * done / len(asked),
                f"Asking for needles: {row[0]['context_len']:,} tokens",
            )
        self._store_map(self._not_measured(asked, training))

    def _store_map(self, not_measured: Sequence[dict[str, Any]] = ()) -> None:
        header = {
            "depths": list(DEPTHS),
            "lengths": list(self.lengths),
            "trained_len": self.scale.trained_len,
            "trials": self.scale.trials,
        }
        self.store("map", header | {"cells": self.cells, "not_measured": list(not_measured)})

    def _not_measured(self, asked: Sequence[int], training: Training) -> list[dict[str, Any]]:
        """The lengths that have not had all their trials, and why."""
        trials = {found["context_len"]: found["trials"] for found in self.cells}
        missing = []
        for length in self.lengths:
            row = {
                "context_len": length,
                "measured": trials.get(length, 0),
                "of": self.scale.trials,
            }
            if length not in asked:
                missing.append(
                    row | {"why": f"training only got to contexts of {training.length:,} tokens"}
                )
            elif row["measured"] < row["of"]:
                missing.append(row | {"why": self.budget.used_up})
        return missing


def unfinished(training: Training, trained_len: int) -> bool:
    """Whether the budget was too small to learn in, and nothing was learnt."""
    return training.tokens < ENOUGH_TOKENS and not (
        training.length >= trained_len and training.accuracy > GOOD
    )


def verdict(found: dict[str, Any], training: Training) -> dict[str, Any]:
    """Whether the map says something about the architecture, or only that time was short."""
    reached, trained_len = found["at_trained_len"], found["trained_len"]
    tokens = f"{training.tokens / 1e6:.2f}M"
    if reached is not None and reached >= GOOD:
        return {
            "learnt": True,
            "finding": True,
            "text": f"{reached:.0%} recalled at the trained length of {trained_len} tokens.",
        }
    if unfinished(training, trained_len):
        text = (
            f"The budget ended after {tokens} training tokens ({ENOUGH_TOKENS / 1e6:.1f}M are the least that tells designs apart), "
            f"at contexts of {training.length} of {trained_len} tokens, {training.accuracy:.0%} recalled: an unfinished proxy, "
            "not a finding. Give it a larger budget."
        )
        return {"learnt": False, "finding": False, "text": text}
    if reached is None:
        text = f"The budget ended before the trained length of {trained_len} tokens was asked: not a finding. Give it a larger budget."
        return {"learnt": training.tokens_to_learn is not None, "finding": False, "text": text}
    text = (
        f"Not learnt with {tokens} tokens: {reached:.0%} recalled at the trained length of {trained_len} tokens. "
        "Other designs learn with as many; whether this one's memory is too small or its training too short, a run cannot tell."
    )
    return {"learnt": False, "finding": True, "text": text}


def niah(spec: ArchSpec, options: NiahOptions, store: Store, report: Report) -> None:
    """Train and ask a proxy of `spec`. `store(part, data)` is called when a part is known,
    `report(fraction, message)` as it goes."""
    Niah(spec, options, store, report).run()
