"""Three more probes of recall and state, each with a proxy of its own and the same trainer: what else a design can keep.

- **Multi-query associative recall** (Zoology, arXiv 2312.04927): n pairs of key and value, then every key again in random order.
  Example with two pairs: `k3 v9 k1 v4 | k1 v4 k3 v9`, answers at the values after the bar. Swept over n, up to twice the trained n.
- **Selective copying** (Mamba, arXiv 2312.00752): COPIED symbols scattered in noise, then a mark, then the symbols in order:
  `n n s5 n s2 n n | ? s5 s2`. Swept over the length, up to twice the trained one.
- **Loss by position** (the paper's Figure 3c) on a text of the user's, bytes as tokens: trained on its first nine tenths, read on the rest.

Parts of the run: `environment`, `recall`, `copying`, `text`; each says what was trained and how far.
"""

import time
from functools import partial
from itertools import pairwise
from math import isfinite
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_core.binomial import wilson
from hybrid_core.files import MAX_TEXT_BYTES, read_file
from hybrid_core.modules.model import HybridLM, build
from hybrid_core.profiling import device
from hybrid_core.profiling.job import Report, Store
from hybrid_core.retrieval.options import CONTEXTS, NOTE, ProbeOptions, least_text_bytes
from hybrid_core.retrieval.proxy import proxy
from hybrid_core.retrieval.task import FIRST_KEY, N_NOISE, QUERY, VOCAB_SIZE, Sample, Stage, distinct, echo_stages, spread
from hybrid_core.retrieval.trainer import Trainer, Training
from hybrid_core.spec import ArchSpec, SpecError

COPIED = 16  # symbols of selective copying, as in the Mamba paper
BYTES = 256
BUCKETS = 16  # of the loss by position, over twice the trained length
TRAIN_SHARE = 0.9  # of a probe's time
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


def scattered(length: int, n_symbols: int, n_tokens: int, generator: torch.Generator) -> Sample:
    """`n_symbols` in `length` tokens of noise, a mark, and the symbols in order: [size, length + 1 + n_symbols]."""
    size = max(2, n_tokens // (length + 1 + n_symbols))
    symbols = N_NOISE + torch.randint(FIRST_KEY - N_NOISE, (size, n_symbols), generator=generator)
    noise = torch.randint(N_NOISE, (size, length), generator=generator)
    haystack = noise.scatter(1, spread(size, n_symbols, 1, length, generator), symbols)
    tokens = torch.cat([haystack, torch.full((size, 1), QUERY), symbols], 1)
    return Sample(tokens, torch.arange(tokens.shape[1]).expand_as(tokens) > length, n_symbols)


def excerpts(text: Tensor, length: int, n_tokens: int, generator: torch.Generator) -> Sample:
    """Windows of `length` bytes at random places of `text` [N]; every byte but the first is an answer."""
    size = max(2, n_tokens // length)
    starts = torch.randint(len(text) - length + 1, (size, 1), generator=generator)
    tokens = text[starts + torch.arange(length)]
    return Sample(tokens, torch.arange(length).expand(size, -1) > 0, 1)


def recall_stages(n_pairs: int) -> list[Stage]:
    """Echoes, then from four pairs to `n_pairs`."""
    ladder = [n for n in (4, 6, 8, 12, 16, 24, 32, 48, 64) if n < n_pairs]
    sizes = [*((n, 0.06) for n in ladder), (n_pairs, 1.0)]
    return [*echo_stages(4 * KEYS), *(Stage("pairs", 4 * n, partial(pairs, n), share) for n, share in sizes)]


def copying_stages(trained_len: int) -> list[Stage]:
    """From a few symbols close together to COPIED in the trained length."""
    close = [(8, 2), (16, 4), (32, 8), (48, 12), (64, COPIED)]
    far = [(n, COPIED) for n in (96, 128, 192, 256, 384, 512, 1024) if n < trained_len]
    sizes = [*((size, 0.05) for size in (*close, *far)), ((trained_len, COPIED), 1.0)]
    return [Stage(f"{k} symbols", n, partial(scattered, n, k), share) for (n, k), share in sizes]


@torch.no_grad()
def accuracy(model: HybridLM, sample: Sample, max_tokens: int) -> tuple[int, int]:
    """Whole answers that are right, and answers; `max_tokens` in memory at a time."""
    rows, where = max(1, max_tokens // sample.tokens.shape[1]), next(model.parameters()).device
    right = 0
    for tokens, answers in zip(sample.tokens.split(rows), sample.answers.split(rows), strict=True):
        said = model(tokens[:, :-1].to(where)).argmax(-1).cpu()
        hits = (said == tokens[:, 1:])[answers[:, 1:]]
        right += int(hits.view(-1, sample.width).all(-1).sum())
    return right, int(sample.answers.sum()) // sample.width


@torch.no_grad()
def loss_by_position(model: HybridLM, text: Tensor, length: int, n_windows: int, buckets: int) -> list[dict[str, float | None]]:
    """Mean loss (nats per byte) in each of `buckets` equal parts of `n_windows` windows of `length` bytes spread over `text`; None where
    it is no number, because training diverged."""
    where = next(model.parameters()).device
    starts = torch.linspace(0, len(text) - length, n_windows).long()
    losses = []
    for start in starts.tolist():
        window = text[start : start + length].to(where)[None]
        losses.append(F.cross_entropy(model(window[:, :-1])[0], window[0, 1:], reduction="none").cpu())
    edges = torch.linspace(0, length - 1, buckets + 1).long().tolist()
    each = torch.stack(losses)
    means = [float(each[:, a:b].mean()) for a, b in pairwise(edges)]
    return [
        {"from": a, "to": b, "nats_per_byte": mean if isfinite(mean) else None} for (a, b), mean in zip(pairwise(edges), means, strict=True)
    ]


class Probes:
    """Runs the probes that were asked for, one after another; each has an equal share of the budget."""

    def __init__(self, spec: ArchSpec, options: ProbeOptions, store: Store, report: Report) -> None:
        self.spec, self.options, self.store, self.report = spec, options, store, report
        self.device = device.resolve(options.device)
        self.scale = options.scale(self.device.type)
        self.generator = torch.Generator().manual_seed(options.seed + 1_000_003)  # of the evaluation
        self.tasks = [self._recall, self._copying] + ([self._text] if options.text_path else [])

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
            self.report((self._done + TRAIN_SHARE * done) / len(self.tasks), f"{what}: {state.tokens / 1e6:.2f}M tokens")

        planned, deadline = round(self.scale.tokens_per_s * share), time.monotonic() + TRAIN_SHARE * share
        return model, Trainer(model, stages, self.scale.step_tokens, planned, self.options.seed, deadline, progress).run()

    def _recall(self) -> None:
        trained = min(KEYS, self.scale.trained_len // 8)
        model, training = self._train("Associative recall", recall_stages(trained), 4 * KEYS)
        rows = []
        for n in sorted({trained * k // 8 for k in (1, 2, 4, 8, 12, 16)}):
            right, of = accuracy(model, pairs(n, 4 * n * self.scale.trials, self.generator), self.scale.step_tokens(self.scale.trained_len))
            rows.append({"n_pairs": n, "accuracy": right / of, "answers": of})
            self.store("recall", {"trained_pairs": trained, "rows": rows, "training": training.record(), "note": NOTE})

    def _copying(self) -> None:
        trained = self.scale.trained_len
        model, training = self._train("Selective copying", copying_stages(trained), VOCAB_SIZE)
        rows = []
        for length in (round(c * trained) for c in CONTEXTS):
            sample = scattered(length, COPIED, (length + 1 + COPIED) * self.scale.trials, self.generator)
            right, of = accuracy(model, sample, self.scale.step_tokens(self.scale.trained_len))
            rows.append({"context_len": length, **wilson(right, of)._asdict(), "trials": of})
            self.store("copying", {"trained_len": trained, "n_symbols": COPIED, "rows": rows, "training": training.record(), "note": NOTE})

    def _text(self) -> None:
        trained = self.scale.trained_len
        text = read_bytes(str(self.options.text_path), least_text_bytes(trained))
        cut = len(text) * 9 // 10
        stage = Stage("text", trained, partial(excerpts, text[:cut], trained), 1.0)
        model, training = self._train("Text", [stage], BYTES)
        rows = loss_by_position(model, text[cut:], min(2 * trained, len(text) - cut), self.scale.trials, BUCKETS)
        self.store("text", {"trained_len": trained, "rows": rows, "training": training.record(), "note": NOTE})


def read_bytes(path: str, at_least: int) -> Tensor:
    """The bytes of a file [N]. Raises SpecError with one line where it cannot be read or is too short."""
    try:
        data = read_file(Path(path), "text", MAX_TEXT_BYTES)
    except SpecError as error:
        raise SpecError(f"text: {error}") from None
    if len(data) < at_least:
        raise SpecError(f"text: {path} - {len(data):,} bytes; at least {at_least:,} are needed for this trained length")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long()


def probes(spec: ArchSpec, options: ProbeOptions, store: Store, report: Report) -> None:
    """Run the probes on proxies of `spec`; parts and progress as in `niah`."""
    Probes(spec, options, store, report).run()
