"""Three more probes of recall and state, each with a proxy of its own and the same trainer: what
else a design can keep.

- **Multi-query associative recall** (Zoology, arXiv 2312.04927): n pairs of key and value, then
  every key again in random order.
  Example with two pairs: `k3 v9 k1 v4 | k1 v4 k3 v9`, answers at the values after the bar. Swept
  over n, up to twice the trained n.
- **Selective copying** (Mamba, arXiv 2312.00752): COPIED symbols scattered in noise, then a mark,
  then the symbols in order:
  `n n s5 n s2 n n | ? s5 s2`. Swept over the length, up to twice the trained one.
- **Loss by position** (the paper's Figure 3c) on a text of the user's, bytes as tokens: trained on
  its first nine tenths, read on the rest.

Parts of the run: `environment`, `recall`, `copying`, `text`. Each says what was trained and how
far, and what there was no time for."""

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
from hybrid_core.live.retrieval.proxy import proxy
from hybrid_core.live.retrieval.task import (
    FIRST_KEY,
    N_NOISE,
    QUERY,
    VOCAB_SIZE,
    Sample,
    Stage,
    distinct,
    echo_stages,
    spread,
)
from hybrid_core.live.retrieval.trainer import Trainer, Training
from hybrid_core.results import probes as results
from hybrid_core.results.environment import Environment
from hybrid_core.results.part import Missing
from hybrid_core.results.retrieval import MissingLength, TrainingRecord
from hybrid_core.validation import SpecError

COPIED = 16  # symbols of selective copying, as in the Mamba paper
BYTES = 256
BUCKETS = 16  # of the loss by position, over twice the trained length
TRAIN_SHARE = 0.85  # of a probe's time; the rest is for its questions, which end with it
KEYS = 64  # of associative recall; as many values


def pairs(n_pairs: int, n_tokens: int, generator: torch.Generator) -> Sample:
    """`n_pairs` of key and value, then each again in random order: [size, 4 n_pairs]."""
    size = max(2, n_tokens // (4 * n_pairs))
    keys = distinct(size, n_pairs, 2 * KEYS, generator)
    values = 2 * KEYS + torch.randint(2 * KEYS, (size, n_pairs), generator=generator)
    told = torch.stack([keys, values], -1)
    order = distinct(size, n_pairs, n_pairs, generator)
    again = told.gather(1, order.unsqueeze(-1).expand(-1, -1, 2))
    answers = torch.zeros(size, 4 * n_pairs, dtype=torch.bool)
    answers[:, 2 * n_pairs + 1 :: 2] = True
    return Sample(torch.cat([told.flatten(1), again.flatten(1)], 1), answers, 1)


def scattered(
    length: int,
    n_symbols: int,
    n_tokens: int,
    generator: torch.Generator,
) -> Sample:
    """`n_symbols` in `length` tokens of noise, a mark, and the symbols in order: [size, length + 1
    + n_symbols]."""
    size = max(2, n_tokens // (length + 1 + n_symbols))
    symbols = N_NOISE + torch.randint(FIRST_KEY - N_NOISE, (size, n_symbols), generator=generator)
    noise = torch.randint(N_NOISE, (size, length), generator=generator)
    haystack = noise.scatter(
        1,
        spread(size, n_symbols, 1, length, generator),
        symbols,
    )
    tokens = torch.cat([haystack, torch.full((size, 1), QUERY), symbols], 1)
    return Sample(
        tokens,
        torch.arange(tokens.shape[1]).expand_as(tokens) > length,
        n_symbols,
    )


def excerpts(
    text: Tensor,
    length: int,
    n_tokens: int,
    generator: torch.Generator,
) -> Sample:
    """Windows of `length` bytes at random places of `text` [N]; every byte but the first is an
    answer."""
    size = max(2, n_tokens // length)
    starts = torch.randint(len(text) - length + 1, (size, 1), generator=generator)
    tokens = text[starts + torch.arange(length)]
    return Sample(tokens, torch.arange(length).expand(size, -1) > 0, 1)


def recall_stages(n_pairs: int) -> list[Stage]:
    """Echoes, then from four pairs to `n_pairs`."""
    stages = echo_stages(4 * KEYS)
    for n in (4, 6, 8, 12, 16, 24, 32, 48, 64):
        if n < n_pairs:
            stages.append(Stage("pairs", 4 * n, partial(pairs, n), 0.06))
    return [*stages, Stage("pairs", 4 * n_pairs, partial(pairs, n_pairs), 1.0)]


def copying_stages(trained_len: int) -> list[Stage]:
    """From a few symbols close together to COPIED in the trained length."""
    close = [(8, 2), (16, 4), (32, 8), (48, 12), (64, COPIED)]
    far = [(length, COPIED) for length in (96, 128, 192, 256, 384, 512, 1024)]
    stages = []
    for length, n_symbols in [*close, *far]:
        if length < trained_len or (length, n_symbols) in close:
            draw = partial(scattered, length, n_symbols)
            stages.append(Stage(f"{n_symbols} symbols", length, draw, 0.05))
    last = partial(scattered, trained_len, COPIED)
    return [*stages, Stage(f"{COPIED} symbols", trained_len, last, 1.0)]


class Answers(NamedTuple):
    """Whole answers that are right, of those that were asked for, of those wanted."""

    right: int
    asked: int
    wanted: int


@torch.no_grad()
def accuracy(
    model: HybridLM,
    sample: Sample,
    max_tokens: int,
    deadline: Deadline,
) -> Answers:
    """How a model answers a sample until the deadline, with `max_tokens` in memory at a time."""
    rows = max(1, max_tokens // sample.tokens.shape[1])
    where = next(model.parameters()).device
    right = asked = 0
    for tokens, answers in zip(sample.tokens.split(rows), sample.answers.split(rows), strict=True):
        if deadline.over():
            break
        said = model(tokens[:, :-1].to(where)).argmax(-1).cpu()
        hits = (said == tokens[:, 1:])[answers[:, 1:]]
        right += int(hits.view(-1, sample.width).all(-1).sum())
        asked += int(answers.sum()) // sample.width
    return Answers(right, asked, int(sample.answers.sum()) // sample.width)


@torch.no_grad()
def loss_by_position(
    model: HybridLM, text: Tensor, length: int, n_windows: int, buckets: int, deadline: Deadline
) -> tuple[list[results.LossRow], int]:
    """Mean loss (nats per byte) in each of `buckets` equal parts of windows of `length` bytes, and
    of how many windows. It is None where it is no number, because training diverged.

    `n_windows` are spread over `text` and read in random order, so that those read until the
    deadline are spread over it, too."""
    where = next(model.parameters()).device
    starts = torch.linspace(0, len(text) - length, n_windows).long()
    order = torch.randperm(n_windows, generator=torch.Generator().manual_seed(n_windows))
    losses: list[Tensor] = []
    for start in starts[order].tolist():
        if deadline.over():
            break
        window = text[start : start + length].to(where)[None]
        logits = model(window[:, :-1])[0]
        losses.append(F.cross_entropy(logits, window[0, 1:], reduction="none").cpu())
    each = torch.stack(losses)
    edges = torch.linspace(0, length - 1, buckets + 1).long().tolist()
    rows = []
    for start, end in pairwise(edges):
        loss = None
        mean = float(each[:, start:end].mean())
        if isfinite(mean):
            loss = mean
        rows.append(results.LossRow(start=start, to=end, nats_per_byte=loss))
    return rows, len(losses)


class Probes:
    """Runs the probes that were asked for, one after another. Each has an equal share of the
    budget."""

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
        # Of the evaluation; training draws from the seed itself.
        self.generator = torch.Generator().manual_seed(options.seed + 1_000_003)
        self.tasks: list[Callable[[], None]] = [self._recall, self._copying]
        if options.text_path:
            text = read_bytes(options.text_path, least_text_bytes(self.scale.trained_len))
            self.tasks.append(partial(self._text, text))

    def run(self) -> None:
        """All parts."""
        self.put(Environment.model_validate(device.environment(self.device)))
        for done, probe in enumerate(self.tasks):
            self._done = done
            probe()
        self.report(1.0, "Done")

    def _train(
        self, what: str, stages: list[Stage], vocab_size: int
    ) -> tuple[HybridLM, TrainingRecord]:
        budget_s = self.options.budget_s / len(self.tasks)
        small = proxy(
            self.spec,
            self.scale.d_model,
            self.scale.trained_len,
            vocab_size,
        )
        model = build(small, self.device, seed=self.options.seed)

        def progress(state: Training) -> None:
            done = max(state.seconds / budget_s, state.tokens / state.planned_tokens)
            share = self._share(TRAIN_SHARE * min(1.0, done))
            self.report(share, f"{what}: {state.tokens / 1e6:.2f}M tokens")

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
        """Of the budget, when this probe has used `done` of its own share."""
        return (self._done + done) / len(self.tasks)

    def _answers(
        self, model: HybridLM, samples: Iterable[tuple[int, Sample]]
    ) -> Iterator[tuple[int, Answers]]:
        """What a model answers to each sample until this probe's time is up, by the sample's
        size."""
        deadline = self.budget.until(self._share(1.0))
        max_tokens = self.scale.step_tokens(self.scale.trained_len)
        for size, sample in samples:
            yield size, accuracy(model, sample, max_tokens, deadline)

    def _recall(self) -> None:
        trained = min(KEYS, self.scale.trained_len // 8)
        model, training = self._train(
            "Associative recall",
            recall_stages(trained),
            4 * KEYS,
        )
        rows: list[results.RecallRow] = []
        missing: list[results.MissingPairs] = []
        for n_pairs, found in self._answers(model, self._pairs(trained)):
            right, asked, wanted = found
            if asked:
                share = right / asked
                row = results.RecallRow(n_pairs=n_pairs, accuracy=share, answers=asked)
                rows.append(row)
            if asked < wanted:
                why = self.budget.used_up
                gap = results.MissingPairs(
                    n_pairs=n_pairs,
                    measured=asked,
                    of=wanted,
                    why=why,
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
        """Samples with up to twice the trained number of pairs."""
        for n in sorted({trained * k // 8 for k in (1, 2, 4, 8, 12, 16)}):
            yield n, pairs(n, 4 * n * self.scale.trials, self.generator)

    def _copying(self) -> None:
        trained = self.scale.trained_len
        model, training = self._train("Selective copying", copying_stages(trained), VOCAB_SIZE)
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
                why = self.budget.used_up
                gap = MissingLength(
                    context_len=length,
                    measured=asked,
                    of=wanted,
                    why=why,
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
        """Samples of up to twice the trained length."""
        for context in CONTEXTS:
            length = round(context * trained)
            n_tokens = (length + 1 + COPIED) * self.scale.trials
            yield length, scattered(length, COPIED, n_tokens, self.generator)

    def _text(self, text: Tensor) -> None:
        trained = self.scale.trained_len
        windows = self.scale.trials
        cut = len(text) * 9 // 10
        stage = Stage(
            "text",
            trained,
            partial(excerpts, text[:cut], trained),
            1.0,
        )
        model, training = self._train("Text", [stage], BYTES)
        deadline = self.budget.until(self._share(1.0))
        length = min(2 * trained, len(text) - cut)
        rows, read = loss_by_position(
            model,
            text[cut:],
            length,
            windows,
            BUCKETS,
            deadline,
        )
        missing = []
        if read < windows:
            missing.append(Missing(measured=read, of=windows, why=self.budget.used_up))
        part = results.LossByPosition(
            trained_len=trained,
            training=training,
            note=NOTE,
            rows=tuple(rows),
            not_measured=tuple(missing),
        )
        self.put(part)


def read_bytes(path: str, at_least: int) -> Tensor:
    """The bytes of a file [N]. Raises SpecError with one line where it cannot be read or is too
    short."""
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
    """Run the probes on proxies of `spec`; parts and progress as in `niah`."""
    Probes(spec, options, store, report).run()
