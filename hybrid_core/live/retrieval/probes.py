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

Parts of the run: `environment`, `recall`, `copying`, `text`; each says what was trained and how
far, and what there was no time for."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_core.binomial import wilson
from hybrid_core.design.spec import ArchSpec
from hybrid_core.files import MAX_TEXT_BYTES, read_file
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.profiling import device
from hybrid_core.live.profiling.job import Report, Store
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
from hybrid_core.validation import SpecError

COPIED = 16  # symbols of selective copying, as in the Mamba paper
BYTES = 256
BUCKETS = 16  # of the loss by position, over twice the trained length
TRAIN_SHARE = 0.85  # of a probe's time; the rest is for its questions, which end with it
KEYS = 64  # of associative recall; as many values

Score = Callable[[int, int], dict[str, Any]]  # right answers of so many, as a row says it


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


def scattered(length: int, n_symbols: int, n_tokens: int, generator: torch.Generator) -> Sample:
    """`n_symbols` in `length` tokens of noise, a mark, and the symbols in order: [size, length + 1
    + n_symbols]."""
    size = max(2, n_tokens // (length + 1 + n_symbols))
    symbols = N_NOISE + torch.randint(FIRST_KEY - N_NOISE, (size, n_symbols), generator=generator)
    noise = torch.randint(N_NOISE, (size, length), generator=generator)
    haystack = noise.scatter(1, spread(size, n_symbols, 1, length, generator), symbols)
    tokens = torch.cat([haystack, torch.full((size, 1), QUERY), symbols], 1)
    return Sample(tokens, torch.arange(tokens.shape[1]).expand_as(tokens) > length, n_symbols)


def excerpts(text: Tensor, length: int, n_tokens: int, generator: torch.Generator) -> Sample:
    """Windows of `length` bytes at random places of `text` [N]; every byte but the first is an
    answer."""
    size = max(2, n_tokens // length)
    starts = torch.randint(len(text) - length + 1, (size, 1), generator=generator)
    tokens = text[starts + torch.arange(length)]
    return Sample(tokens, torch.arange(length).expand(size, -1) > 0, 1)


def recall_stages(n_pairs: int) -> list[Stage]:
    """Echoes, then from four pairs to `n_pairs`."""
    ladder = [n for n in (4, 6, 8, 12, 16, 24, 32, 48, 64) if n < n_pairs]
    sizes = [*((n, 0.06) for n in ladder), (n_pairs, 1.0)]
    return [
        *echo_stages(4 * KEYS),
        *(Stage("pairs", 4 * n, partial(pairs, n), share) for n, share in sizes),
    ]


def copying_stages(trained_len: int) -> list[Stage]:
    """From a few symbols close together to COPIED in the trained length."""
    close = [(8, 2), (16, 4), (32, 8), (48, 12), (64, COPIED)]
    far = [(n, COPIED) for n in (96, 128, 192, 256, 384, 512, 1024) if n < trained_len]
    sizes = [*((size, 0.05) for size in (*close, *far)), ((trained_len, COPIED), 1.0)]
    return [Stage(f"{k} symbols", n, partial(scattered, n, k), share) for (n, k), share in sizes]


@torch.no_grad()
def accuracy(
    model: HybridLM, sample: Sample, max_tokens: int, deadline: Deadline
) -> tuple[int, int]:
    """Whole answers that are right, and answers asked for until the deadline; `max_tokens` in
    memory at a time."""
    rows, where = max(1, max_tokens // sample.tokens.shape[1]), next(model.parameters()).device
    right = asked = 0
    for tokens, answers in zip(sample.tokens.split(rows), sample.answers.split(rows), strict=True):
        if deadline.over():
            break
        said = model(tokens[:, :-1].to(where)).argmax(-1).cpu()
        hits = (said == tokens[:, 1:])[answers[:, 1:]]
        right += int(hits.view(-1, sample.width).all(-1).sum())
        asked += int(answers.sum()) // sample.width
    return right, asked


@torch.no_grad()
def loss_by_position(
    model: HybridLM, text: Tensor, length: int, n_windows: int, buckets: int, deadline: Deadline
) -> tuple[list[dict[str, float | None]], int]:
    """Mean loss (nats per byte) in each of `buckets` equal parts of windows of `length` bytes, None
    where it is no number, because training diverged; and of how many windows.

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
        losses.append(
            F.cross_entropy(model(window[:, :-1])[0], window[0, 1:], reduction="none").cpu()
        )
    edges = torch.linspace(0, length - 1, buckets + 1).long().tolist()
    each = torch.stack(losses)
    means = [float(each[:, a:b].mean()) for a, b in pairwise(edges)]
    rows = [
        {"from": a, "to": b, "nats_per_byte": mean if isfinite(mean) else None}
        for (a, b), mean in zip(pairwise(edges), means, strict=True)
    ]
    return rows, len(losses)


class Probes:
    """Runs the probes that were asked for, one after another; each has an equal share of the
    budget."""

    def __init__(
        self,
        spec: ArchSpec,
        options: ProbeOptions,
        store: Store,
        report: Report,
        clock: Clock = time.monotonic,
    ) -> None:
        self.spec, self.options, self.store, self.report = spec, options, store, report
        self.budget = Budget(options.budget_s, clock)
        self.device = device.resolve(options.device)
        self.scale = options.scale(self.device.type)
        self.generator = torch.Generator().manual_seed(
            options.seed + 1_000_003
        )  # of the evaluation
        self.tasks: list[Callable[[], None]] = [self._recall, self._copying]
        if options.text_path:
            text = read_bytes(options.text_path, least_text_bytes(self.scale.trained_len))
            self.tasks.append(partial(self._text, text))

    def run(self) -> None:
        """All parts."""
        self.store("environment", device.environment(self.device))
        for done, probe in enumerate(self.tasks):
            self._done = done
            probe()
        self.report(1.0, "Done")

    def _train(self, what: str, stages: list[Stage], vocab_size: int) -> tuple[HybridLM, Training]:
        share = self.options.budget_s / len(self.tasks)
        small = proxy(self.spec, self.scale.d_model, self.scale.trained_len, vocab_size)
        model = build(small, self.device, seed=self.options.seed)

        def progress(state: Training) -> None:
            done = min(1.0, max(state.seconds / share, state.tokens / state.planned_tokens))
            self.report(
                (self._done + TRAIN_SHARE * done) / len(self.tasks),
                f"{what}: {state.tokens / 1e6:.2f}M tokens",
            )

        planned, deadline, clock = (
            round(self.scale.tokens_per_s * share),
            self.budget.at(self._share(TRAIN_SHARE)),
            self.budget.clock,
        )
        return model, Trainer(
            model,
            stages,
            self.scale.step_tokens,
            planned,
            self.options.seed,
            deadline,
            progress,
            clock,
        ).run()

    def _share(self, done: float) -> float:
        """Of the budget, when this probe has used `done` of its own share."""
        return (self._done + done) / len(self.tasks)

    def _ask(
        self,
        part: str,
        about: dict[str, Any],
        model: HybridLM,
        samples: Iterable[tuple[str, int, Sample]],
        score: Score,
    ) -> None:
        """A row for each (name, value, sample) until this probe's time is up, stored as it is known
        with what is missing."""
        deadline, max_tokens = (
            self.budget.until(self._share(1.0)),
            self.scale.step_tokens(self.scale.trained_len),
        )
        rows, missing = [], []
        for name, value, sample in samples:
            right, answers = accuracy(model, sample, max_tokens, deadline)
            wanted = int(sample.answers.sum()) // sample.width
            if answers:
                rows.append({name: value} | score(right, answers))
            if answers < wanted:
                missing.append(
                    {name: value, "measured": answers, "of": wanted, "why": self.budget.used_up}
                )
            self.store(part, about | {"rows": rows, "not_measured": missing, "note": NOTE})

    def _recall(self) -> None:
        trained = min(KEYS, self.scale.trained_len // 8)
        model, training = self._train("Associative recall", recall_stages(trained), 4 * KEYS)
        sizes = sorted({trained * k // 8 for k in (1, 2, 4, 8, 12, 16)})
        samples = (
            ("n_pairs", n, pairs(n, 4 * n * self.scale.trials, self.generator)) for n in sizes
        )
        about = {"trained_pairs": trained, "training": training.record()}
        self._ask(
            "recall",
            about,
            model,
            samples,
            lambda right, of: {"accuracy": right / of, "answers": of},
        )

    def _copying(self) -> None:
        trained = self.scale.trained_len
        model, training = self._train("Selective copying", copying_stages(trained), VOCAB_SIZE)
        lengths = (round(c * trained) for c in CONTEXTS)
        samples = (
            (
                "context_len",
                n,
                scattered(n, COPIED, (n + 1 + COPIED) * self.scale.trials, self.generator),
            )
            for n in lengths
        )
        about = {"trained_len": trained, "n_symbols": COPIED, "training": training.record()}
        self._ask(
            "copying",
            about,
            model,
            samples,
            lambda right, of: {**wilson(right, of)._asdict(), "trials": of},
        )

    def _text(self, text: Tensor) -> None:
        trained, windows = self.scale.trained_len, self.scale.trials
        cut = len(text) * 9 // 10
        stage = Stage("text", trained, partial(excerpts, text[:cut], trained), 1.0)
        model, training = self._train("Text", [stage], BYTES)
        deadline = self.budget.until(self._share(1.0))
        rows, read = loss_by_position(
            model, text[cut:], min(2 * trained, len(text) - cut), windows, BUCKETS, deadline
        )
        missing = (
            [{"measured": read, "of": windows, "why": self.budget.used_up}]
            if read < windows
            else []
        )
        about = {"trained_len": trained, "training": training.record(), "note": NOTE}
        self.store("text", about | {"rows": rows, "not_measured": missing})


def read_bytes(path: str, at_least: int) -> Tensor:
    """The bytes of a file [N]. Raises SpecError with one line where it cannot be read or is too
    short."""
    try:
        data = read_file(Path(path), "text", MAX_TEXT_BYTES)
    except SpecError as error:
        raise SpecError(f"text: {error}") from None
    if len(data) < at_least:
        raise SpecError(
            f"text: {path} - {len(data):,} bytes; at least {at_least:,} are needed for this trained length"
        )
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long()


def probes(spec: ArchSpec, options: ProbeOptions, store: Store, report: Report) -> None:
    """Run the probes on proxies of `spec`; parts and progress as in `niah`."""
    Probes(spec, options, store, report).run()
