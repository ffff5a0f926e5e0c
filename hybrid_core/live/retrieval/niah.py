"""A needle test of one design: make its proxy, train it, test it, score it.

Each part is stored as soon as it is ready: `environment`; `proxy` (the small design and how it was
made); `training` (with its curve); `map` (it grows row by row, and in the end lists what was not
measured); `scores`; `verdict` (whether the map may be read as a finding).
"""

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

ENOUGH_TOKENS = 900_000  # training tokens; with fewer, most designs have not learnt much
TRAIN_SHARE = 0.85  # of the budget; the map gets the rest
EVAL_TOKENS = 16_384  # haystack tokens per test batch on a CPU
GPU_EVAL_FACTOR = 16  # times as many on a GPU
# A training step keeps everything that its backward pass needs. That is several times the peak of a
# forward pass.
TRAIN_BYTES_PER_ACTIVATION = 8
SHORTEST = len(DEPTHS) * (task.NEEDLE_LEN + 1)  # a context with a needle at each depth


class Niah:
    """One run. It makes the parts in order, within the budget."""

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
        lengths = []
        for context in CONTEXTS:
            length = round(context * self.scale.trained_len)
            if length >= SHORTEST:
                lengths.append(length)
        self.lengths = tuple(lengths)
        self.cells: list[results.Cell] = []

    def run(self) -> None:
        """Run and store all parts.

        Raises DoesNotFit, before anything is allocated, if the proxy is too large for the device.
        """
        self.report(0.0, "Reading device information")
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
        """Raise DoesNotFit unless the map's longest context and a training step fit, by the closed
        forms."""
        available = device.available_bytes(self.device)
        longest = max(self.lengths) + task.QUERY_LEN
        self._refuse(1, longest, available)
        self._refuse(
            self.scale.contexts_per_step,
            self.scale.trained_len,
            available // TRAIN_BYTES_PER_ACTIVATION,
        )

    def _refuse(
        self,
        batch: int,
        length: int,
        available_bytes: int,
    ) -> None:
        """Raise DoesNotFit if a batch of contexts needs more memory than is available."""
        asked = Workload(
            batch_size=batch,
            context_len=length,
            weight_dtype="fp32",
            kv_cache_dtype="fp32",
        )
        problem = refusal(self.proxy, asked, available_bytes)
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
            time_spent = state.seconds / budget_s
            tokens_spent = state.tokens / state.planned_tokens
            done = min(1.0, max(time_spent, tokens_spent))
            recalled = f"{state.accuracy:.0%} recalled at {state.length} tokens"
            message = f"Training: {state.tokens / 1e6:.2f}M tokens, {recalled}"
            self.report(TRAIN_SHARE * done, message)

        planned_tokens = round(self.scale.tokens_per_s * self.options.budget_s)
        trainer = Trainer(
            model,
            task.curriculum(self.scale.trained_len, len(DEPTHS)),
            self.scale.step_tokens,
            planned_tokens,
            self.options.seed,
            self.budget.at(TRAIN_SHARE),
            progress,
            self.budget.clock,
        )
        return trainer.run()

    def _lengths_to_ask(self, training: Training) -> list[int]:
        """The lengths of the map, in the order in which they are tested.

        The shortest and the trained length come first, since they say most if time runs out. An
        unfinished proxy is tested only at the shortest length and at lengths that its training has
        reached.
        """
        shortest = self.lengths[0]
        trained = self.scale.trained_len
        longest = max(self.lengths)
        if unfinished(training, trained):
            longest = max(training.length, shortest)
        within_reach = []
        for length in (shortest, trained, *self.lengths):
            if length in self.lengths and length <= longest:
                within_reach.append(length)
        return list(dict.fromkeys(within_reach))

    def _map(self, model: HybridLM, training: Training) -> None:
        batch_tokens = EVAL_TOKENS
        if self.device.type == "cuda":
            batch_tokens *= GPU_EVAL_FACTOR
        asked = self._lengths_to_ask(training)
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
            map_done = done / len(asked)
            run_done = TRAIN_SHARE + (1 - TRAIN_SHARE) * map_done
            self.report(run_done, f"Testing needles: {row[0].context_len:,} tokens")
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
        self,
        asked: Sequence[int],
        training: Training,
    ) -> list[results.MissingLength]:
        """The lengths that were not tested with all their trials, and why."""
        trials = {cell.context_len: cell.trials for cell in self.cells}
        missing = []
        for length in self.lengths:
            measured = trials.get(length, 0)
            if measured == self.scale.trials:
                continue
            why = self.budget.used_up
            if length not in asked:
                why = f"training only got to contexts of {training.length:,} tokens"
            row = results.MissingLength(
                context_len=length,
                measured=measured,
                of=self.scale.trials,
                why=why,
            )
            missing.append(row)
        return missing


def unfinished(training: Training, trained_len: int) -> bool:
    """Whether training ended too early for most designs, and this one has not learnt the task."""
    at_trained_len = training.length >= trained_len
    has_learnt = at_trained_len and training.accuracy > GOOD
    return training.tokens < ENOUGH_TOKENS and not has_learnt


def verdict(found: results.Scores, training: Training) -> results.Verdict:
    """Whether the map says something about the architecture, or time was just too short."""
    accuracy = found.at_trained_len
    trained = f"the trained length of {found.trained_len} tokens"
    tokens = f"{training.tokens / 1e6:.2f}M"
    if accuracy is not None and accuracy >= GOOD:
        text = f"{accuracy:.0%} recalled at {trained}."
        return results.Verdict(learnt=True, finding=True, text=text)
    if unfinished(training, found.trained_len):
        text = (
            f"The budget ended after {tokens} training tokens. It takes at least "
            f"{ENOUGH_TOKENS / 1e6:.1f}M to tell designs apart. The proxy got to contexts of "
            f"{training.length} of {found.trained_len} tokens, {training.accuracy:.0%} recalled: "
            "an unfinished proxy, not a finding. Give it a larger budget."
        )
        return results.Verdict(learnt=False, finding=False, text=text)
    if accuracy is None:
        text = (
            f"The budget ended before {trained} was tested: not a finding. Give it a larger budget."
        )
        learnt = training.tokens_to_learn is not None
        return results.Verdict(learnt=learnt, finding=False, text=text)
    text = (
        f"Not learnt with {tokens} tokens: {accuracy:.0%} recalled at {trained}. "
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
    """Train a proxy of `spec` and test it on needles.

    Calls `store(part, data)` whenever a part is ready, and `report(fraction, message)` as work goes
    on. Raises SpecError and DoesNotFit.
    """
    Niah(spec, options, store, report).run()
