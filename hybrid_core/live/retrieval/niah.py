"""A retrieval run of one design: proxy, training, map, scores, verdict. Each part is stored as soon
as it is known.

Parts: `environment`; `proxy` (the small design and how it was made); `training` (the curve); `map`
(cells, growing row by row, and in the end what of it was not measured); `scores`; `verdict`
(whether the map may be read as a finding)."""

import time
from collections.abc import Sequence
from functools import partial

from hybrid_core.costs.memory import refusal
from hybrid_core.costs.model import model_costs
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.profiling import device
from hybrid_core.live.profiling.job import DoesNotFit, Report, Store, put
from hybrid_core.live.retrieval import task
from hybrid_core.live.retrieval.budget import Budget, Clock
from hybrid_core.live.retrieval.evaluate import evaluate
from hybrid_core.live.retrieval.options import CONTEXTS, DEPTHS, NOTE, NiahOptions
from hybrid_core.live.retrieval.proxy import proxy
from hybrid_core.live.retrieval.scores import GOOD, scores
from hybrid_core.live.retrieval.trainer import Trainer, Training
from hybrid_core.results import retrieval as results
from hybrid_core.results.environment import Environment
from hybrid_core.workload import Workload

ENOUGH_TOKENS = 900_000  # of training; with fewer most designs have not got far
TRAIN_SHARE = 0.85  # of the budget; the rest is for the map, which ends with the budget
EVAL_TOKENS = 16_384  # of haystack in memory at a time, on a CPU
# A step keeps what its backward needs: several times the forward's widest moment.
TRAIN_BYTES_PER_ACTIVATION = 8
SHORTEST = task.NEEDLE_LEN * len(DEPTHS) + len(DEPTHS)  # tokens that hold a needle at each depth


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
        self.spec = spec
        self.options = options
        self.put = partial(put, store)
        self.report = report
        self.budget = Budget(options.budget_s, clock)
        self.device = device.resolve(options.device)
        self.scale = options.scale(self.device.type)
        self.proxy = proxy(
            spec,
            self.scale.d_model,
            self.scale.trained_len,
            task.VOCAB_SIZE,
        )
        lengths = [round(context * self.scale.trained_len) for context in CONTEXTS]
        self.lengths = tuple(length for length in lengths if length >= SHORTEST)
        self.cells: list[results.Cell] = []

    def run(self) -> None:
        """All parts. Raises DoesNotFit before anything is allocated."""
        self.report(0.0, "Looking at the device")
        self.put(Environment.model_validate(device.environment(self.device)))
        self._refuse_what_cannot_fit()
        self.put(self._described())
        model = build(self.proxy, self.device, seed=self.options.seed)
        training = self._train(model)
        self._map(model, training)
        found = scores(self.cells, self.scale.trained_len, training.tokens_to_learn)
        seconds = self.budget.clock() - self.budget.started
        self.put(found.model_copy(update={"seconds": seconds}))
        self.put(verdict(found, training))
        self.report(1.0, "Done")

    def _refuse_what_cannot_fit(self) -> None:
        """The longest context of the map, one sequence, and a training step, by the closed
        forms."""
        free = device.available_bytes(self.device)
        self._refuse(1, max(self.lengths) + task.QUERY_LEN, free)
        step_free = free // TRAIN_BYTES_PER_ACTIVATION
        self._refuse(self.scale.contexts_per_step, self.scale.trained_len, step_free)

    def _refuse(self, batch: int, length: int, free: int) -> None:
        """Raise DoesNotFit where a batch of contexts does not fit into `free` bytes."""
        asked = Workload(
            batch_size=batch,
            context_len=length,
            weight_dtype="fp32",
            kv_cache_dtype="fp32",
        )
        problem = refusal(self.proxy, asked, free)
        if problem:
            raise DoesNotFit(f"{self.proxy.name} at {batch} x {length:,} tokens: {problem}")

    def _described(self) -> results.Proxy:
        return results.Proxy(
            spec_yaml=self.proxy.to_yaml(),
            pattern=self.proxy.pattern,
            design_pattern=self.spec.pattern,
            params=int(model_costs(self.proxy).params().total),
            trained_len=self.scale.trained_len,
            n_needles=len(DEPTHS),
            note=NOTE,
        )

    def _train(self, model: HybridLM) -> Training:
        budget_s = self.options.budget_s * TRAIN_SHARE

        def progress(state: Training) -> None:
            self.put(state.result())
            done = max(state.seconds / budget_s, state.tokens / state.planned_tokens)
            recalled = f"{state.accuracy:.0%} recalled at {state.length} tokens"
            message = f"Training: {state.tokens / 1e6:.2f}M tokens, {recalled}"
            self.report(TRAIN_SHARE * min(1.0, done), message)

        return Trainer(
            model,
            task.curriculum(self.scale.trained_len, len(DEPTHS)),
            self.scale.step_tokens,
            round(self.scale.tokens_per_s * self.options.budget_s),
            self.options.seed,
            self.budget.at(TRAIN_SHARE),
            progress,
            self.budget.clock,
        ).run()

    def _asked(self, training: Training) -> list[int]:
        """All lengths. Of an unfinished proxy none beyond where its training has got to, except the
        shortest.

        What tells most comes first, should time run out: the shortest, the trained one, then the
        others."""
        shortest = self.lengths[0]
        trained = self.scale.trained_len
        asked = list(self.lengths)
        if unfinished(training, trained):
            longest = max(training.length, shortest)
            asked = [length for length in asked if length <= longest]
        first = [length for length in (shortest, trained) if length in asked]
        return list(dict.fromkeys([*first, *asked]))

    def _map(self, model: HybridLM, training: Training) -> None:
        batch_tokens = EVAL_TOKENS
        if self.device.type == "cuda":
            batch_tokens *= 16
        asked = self._asked(training)
        rows = evaluate(
            model,
            tuple(asked),
            DEPTHS,
            self.scale.trials,
            self.options.seed,
            self.device,
            batch_tokens,
            self.budget.until(1.0),
        )
        self._put_map([])
        for done, row in enumerate(rows, 1):
            self.cells += row
            self._put_map([])
            share = TRAIN_SHARE + (1 - TRAIN_SHARE) * done / len(asked)
            self.report(share, f"Asking for needles: {row[0].context_len:,} tokens")
        self._put_map(self._not_measured(asked, training))

    def _put_map(self, not_measured: Sequence[results.MissingLength]) -> None:
        part = results.Map(
            depths=DEPTHS,
            lengths=self.lengths,
            trained_len=self.scale.trained_len,
            trials=self.scale.trials,
            cells=tuple(self.cells),
            not_measured=tuple(not_measured),
        )
        self.put(part)

    def _not_measured(
        self, asked: Sequence[int], training: Training
    ) -> list[results.MissingLength]:
        """The lengths that have not had all their trials, and why."""
        trials = {cell.context_len: cell.trials for cell in self.cells}
        missing = []
        for length in self.lengths:
            measured = trials.get(length, 0)
            why = self.budget.used_up
            if length not in asked:
                why = f"training only got to contexts of {training.length:,} tokens"
            elif measured == self.scale.trials:
                continue
            row = results.MissingLength(
                context_len=length,
                measured=measured,
                of=self.scale.trials,
                why=why,
            )
            missing.append(row)
        return missing


def unfinished(training: Training, trained_len: int) -> bool:
    """Whether the budget was too small to learn in, and nothing was learnt."""
    has_learnt = training.length >= trained_len and training.accuracy > GOOD
    return training.tokens < ENOUGH_TOKENS and not has_learnt


def verdict(found: results.Scores, training: Training) -> results.Verdict:
    """Whether the map says something about the architecture, or only that time was short."""
    reached = found.at_trained_len
    trained = f"the trained length of {found.trained_len} tokens"
    tokens = f"{training.tokens / 1e6:.2f}M"
    if reached is not None and reached >= GOOD:
        text = f"{reached:.0%} recalled at {trained}."
        return results.Verdict(learnt=True, finding=True, text=text)
    if unfinished(training, found.trained_len):
        text = (
            f"The budget ended after {tokens} training tokens. It takes at least "
            f"{ENOUGH_TOKENS / 1e6:.1f}M to tell designs apart. The proxy got to contexts of "
            f"{training.length} of {found.trained_len} tokens, {training.accuracy:.0%} recalled: "
            "an unfinished proxy, not a finding. Give it a larger budget."
        )
        return results.Verdict(learnt=False, finding=False, text=text)
    if reached is None:
        text = (
            f"The budget ended before {trained} was asked: not a finding. Give it a larger budget."
        )
        learnt = training.tokens_to_learn is not None
        return results.Verdict(learnt=learnt, finding=False, text=text)
    text = (
        f"Not learnt with {tokens} tokens: {reached:.0%} recalled at {trained}. "
        "Other designs learn with as many. One run cannot tell whether this design's memory is too "
        "small or its training too short."
    )
    return results.Verdict(learnt=False, finding=True, text=text)


def niah(
    spec: ArchSpec,
    options: NiahOptions,
    store: Store,
    report: Report,
) -> None:
    """Train and ask a proxy of `spec`. `store(part, data)` is called when a part is known,
    `report(fraction, message)` as it goes."""
    Niah(spec, options, store, report).run()
