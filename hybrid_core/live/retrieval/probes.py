"""Three more probes of what a design can remember, each with its own proxy.

- **Associative recall**, for numbers of pairs up to twice the trained number.
- **Selective copying**, for lengths up to twice the trained length.
- **Loss by position** (Figure 3c of arXiv 2510.04800v3) on the user's text. The proxy is
  trained on its first nine tenths and evaluated on the rest.

`probe_tasks.py` makes the training data. The trainer is the same as in the needle test. A run has
the parts `environment`, `recall`, `copying` and `text`. Each records how far its proxy was trained
and which measurements there was no time for.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_core.binomial import wilson
from hybrid_core.design.spec import ArchSpec
from hybrid_core.files import MAX_TEXT_BYTES, read_file
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.profiling import device
from hybrid_core.live.profiling.job import Report, Store, put
from hybrid_core.live.retrieval.budget import Budget, Clock, Deadline
from hybrid_core.live.retrieval.options import CONTEXTS, NOTE, ProbeOptions, least_text_bytes
from hybrid_core.live.retrieval.probe_tasks import (
    BYTES,
    COPIED,
    MAX_PAIRS,
    RECALL_VOCAB_SIZE,
    copying_stages,
    excerpts,
    pairs,
    recall_stages,
    scattered,
)
from hybrid_core.live.retrieval.proxy import proxy
from hybrid_core.live.retrieval.task import VOCAB_SIZE, Sample, Stage
from hybrid_core.live.retrieval.trainer import Trainer, Training
from hybrid_core.results import probes as results
from hybrid_core.results.environment import Environment
from hybrid_core.results.part import Missing
from hybrid_core.results.retrieval import MissingLength
from hybrid_core.results.retrieval import Training as TrainingPart
from hybrid_core.validation import SpecError

BUCKETS = 16  # of the loss by position, over twice the trained length
TRAIN_SHARE = 0.85  # of a probe's time; its questions get the rest
EVAL_SEED = 1_000_003  # added to the seed, so that questions differ from the training data


class _Answers(NamedTuple):
    """How many whole answers were right, how many were tested, and how many were planned."""

    right: int
    asked: int
    wanted: int


@torch.no_grad()
def _ask(
    model: HybridLM,
    sample: Sample,
    max_tokens: int,
    deadline: Deadline,
) -> _Answers:
    """Test a model on the answers of a sample, in batches of `max_tokens`, until the deadline."""
    batch_size = max(1, max_tokens // sample.tokens.shape[1])
    where = next(model.parameters()).device
    batches = zip(
        sample.tokens.split(batch_size),
        sample.answers.split(batch_size),
        strict=True,
    )
    right = 0
    asked = 0
    for tokens, answers in batches:
        if deadline.over():
            break
        inputs = tokens[:, :-1].to(where)
        predicted = model(inputs).argmax(-1).cpu()
        is_right = predicted == tokens[:, 1:]
        token_right = is_right[answers[:, 1:]]
        answer_right = token_right.view(-1, sample.width).all(-1)
        right += int(answer_right.sum())
        asked += len(answer_right)
    wanted = int(sample.answers.sum()) // sample.width
    return _Answers(right, asked, wanted)


@torch.no_grad()
def loss_by_position(
    model: HybridLM,
    text: Tensor,
    length: int,
    n_windows: int,
    buckets: int,
    deadline: Deadline,
) -> tuple[list[results.LossRow], int]:
    """Mean loss in nats per byte in each of `buckets` equal parts of windows of `length` bytes, and
    the number of windows that were read.

    The windows are spread over the text and read in random order, so that those read by the
    deadline are spread over it, too. The loss is None if it is not finite because training
    diverged.
    """
    where = next(model.parameters()).device
    losses: list[Tensor] = []
    for start in _window_starts(len(text), length, n_windows):
        if deadline.over():
            break
        window = text[start : start + length].to(where)
        inputs = window[None, :-1]
        logits = model(inputs)[0]
        loss = F.cross_entropy(logits, window[1:], reduction="none")
        losses.append(loss.cpu())
    by_position = torch.stack(losses)  # [windows, length - 1]
    edges = torch.linspace(0, length - 1, buckets + 1).long()
    rows = []
    for start, end in pairwise(edges.tolist()):
        mean_loss = float(by_position[:, start:end].mean())
        row = results.LossRow(
            start=start,
            to=end,
            nats_per_byte=mean_loss if isfinite(mean_loss) else None,
        )
        rows.append(row)
    return rows, len(losses)


def _window_starts(
    text_len: int,
    length: int,
    n_windows: int,
) -> list[int]:
    """Start positions of windows of `length` that cover a text evenly, in random order."""
    starts = torch.linspace(0, text_len - length, n_windows).long()
    generator = torch.Generator().manual_seed(n_windows)
    order = torch.randperm(n_windows, generator=generator)
    shuffled: list[int] = starts[order].tolist()
    return shuffled


class Probes:
    """One run. Each requested probe gets an equal share of the budget."""

    def __init__(
        self,
        spec: ArchSpec,
        options: ProbeOptions,
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
        self.eval_generator = torch.Generator().manual_seed(options.seed + EVAL_SEED)
        self.probes: list[Callable[[], None]] = [self._recall, self._copying]
        if options.text_path:
            least_bytes = least_text_bytes(self.scale.trained_len)
            text = read_bytes(options.text_path, least_bytes)
            self.probes.append(partial(self._text, text))

    def run(self) -> None:
        """Run and store all parts."""
        self.put(Environment.model_validate(device.environment(self.device)))
        for done, probe in enumerate(self.probes):
            self._done = done
            probe()
        self.report(1.0, "Done")

    def _train(
        self,
        what: str,
        stages: list[Stage],
        vocab_size: int,
    ) -> tuple[HybridLM, TrainingPart]:
        """Build a proxy with its own vocabulary and train it."""
        budget_s = self.options.budget_s / len(self.probes)
        small = proxy(
            self.spec,
            self.scale.d_model,
            self.scale.trained_len,
            vocab_size,
        )
        model = build(small, self.device, seed=self.options.seed)

        def progress(state: Training) -> None:
            time_spent = state.seconds / budget_s
            tokens_spent = state.tokens / state.planned_tokens
            done = min(1.0, max(time_spent, tokens_spent))
            run_done = self._share(TRAIN_SHARE * done)
            self.report(run_done, f"{what}: {state.tokens / 1e6:.2f}M tokens")

        trainer = Trainer(
            model,
            stages,
            self.scale.step_tokens,
            round(self.scale.tokens_per_s * budget_s),
            self.options.seed,
            self.budget.at(self._share(TRAIN_SHARE)),
            progress,
            self.budget.clock,
        )
        training = trainer.run()
        return model, training.result()

    def _share(self, done: float) -> float:
        """The share of the whole budget spent when this probe has spent `done` of its part."""
        return (self._done + done) / len(self.probes)

    def _answers(
        self,
        model: HybridLM,
        samples: Iterable[tuple[int, Sample]],
    ) -> Iterator[tuple[int, _Answers]]:
        """The size of each sample, and a model's answers to it before this probe's time is up."""
        deadline = self.budget.until(self._share(1.0))
        max_tokens = self.scale.step_tokens(self.scale.trained_len)
        for size, sample in samples:
            yield size, _ask(model, sample, max_tokens, deadline)

    def _recall(self) -> None:
        trained = min(MAX_PAIRS, self.scale.trained_len // 8)
        model, training = self._train(
            "Associative recall",
            recall_stages(trained),
            RECALL_VOCAB_SIZE,
        )
        rows: list[results.RecallRow] = []
        missing: list[results.MissingPairs] = []
        for n_pairs, found in self._answers(model, self._pairs(trained)):
            right, asked, wanted = found
            if asked:
                row = results.RecallRow(
                    n_pairs=n_pairs,
                    accuracy=right / asked,
                    answers=asked,
                )
                rows.append(row)
            if asked < wanted:
                gap = results.MissingPairs(
                    n_pairs=n_pairs,
                    measured=asked,
                    of=wanted,
                    why=self.budget.used_up,
                )
                missing.append(gap)
            part = results.Recall(
                trained_pairs=trained,
                training=training,
                rows=tuple(rows),
                not_measured=tuple(missing),
                note=NOTE,
            )
            self.put(part)

    def _pairs(self, trained: int) -> Iterator[tuple[int, Sample]]:
        """Questions for up to twice the trained number of pairs."""
        numbers = {trained * eighths // 8 for eighths in (1, 2, 4, 8, 12, 16)}
        for n_pairs in sorted(numbers):
            n_tokens = 4 * n_pairs * self.scale.trials
            yield n_pairs, pairs(n_pairs, n_tokens, self.eval_generator)

    def _copying(self) -> None:
        trained = self.scale.trained_len
        model, training = self._train(
            "Selective copying",
            copying_stages(trained),
            VOCAB_SIZE,
        )
        rows: list[results.CopyingRow] = []
        missing: list[MissingLength] = []
        for length, found in self._answers(model, self._scattered(trained)):
            right, asked, wanted = found
            if asked:
                share, low, high = wilson(right, asked)
                row = results.CopyingRow(
                    context_len=length,
                    share=share,
                    low=low,
                    high=high,
                    trials=asked,
                )
                rows.append(row)
            if asked < wanted:
                gap = MissingLength(
                    context_len=length,
                    measured=asked,
                    of=wanted,
                    why=self.budget.used_up,
                )
                missing.append(gap)
            part = results.Copying(
                trained_len=trained,
                n_symbols=COPIED,
                training=training,
                rows=tuple(rows),
                not_measured=tuple(missing),
                note=NOTE,
            )
            self.put(part)

    def _scattered(self, trained: int) -> Iterator[tuple[int, Sample]]:
        """Questions for up to twice the trained length."""
        for context in CONTEXTS:
            length = round(context * trained)
            n_tokens = (length + 1 + COPIED) * self.scale.trials
            sample = scattered(
                length,
                COPIED,
                n_tokens,
                self.eval_generator,
            )
            yield length, sample

    def _text(self, text: Tensor) -> None:
        trained = self.scale.trained_len
        n_windows = self.scale.trials
        cut = len(text) * 9 // 10
        training_text = text[:cut]
        held_out_text = text[cut:]
        draw = partial(excerpts, training_text, trained)
        stage = Stage("text", trained, draw, 1.0)
        model, training = self._train("Text", [stage], BYTES)
        rows, n_read = loss_by_position(
            model,
            held_out_text,
            min(2 * trained, len(held_out_text)),
            n_windows,
            BUCKETS,
            self.budget.until(self._share(1.0)),
        )
        missing = []
        if n_read < n_windows:
            gap = Missing(
                measured=n_read,
                of=n_windows,
                why=self.budget.used_up,
            )
            missing.append(gap)
        part = results.LossByPosition(
            trained_len=trained,
            training=training,
            note=NOTE,
            rows=tuple(rows),
            not_measured=tuple(missing),
        )
        self.put(part)


def read_bytes(path: str, at_least: int) -> Tensor:
    """The bytes of a file: [N]. Raises SpecError if it cannot be read or is too short."""
    try:
        data = read_file(Path(path), "text", MAX_TEXT_BYTES)
    except SpecError as error:
        raise SpecError(f"text: {error}") from None
    if len(data) < at_least:
        needed = f"at least {at_least:,} are needed for this trained length"
        raise SpecError(f"text: {path} - {len(data):,} bytes; {needed}")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long()


def probes(
    spec: ArchSpec,
    options: ProbeOptions,
    store: Store,
    report: Report,
) -> None:
    """Run the probes on proxies of `spec`, with parts and progress as in `niah`."""
    Probes(spec, options, store, report).run()
