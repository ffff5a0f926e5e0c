"""The paper's retrieval protocol (Appendix K of arXiv 2510.04800v3) on a trained checkpoint.

A checkpoint is a folder in Hugging Face format with its tokenizer. By default it is tested as in
the paper: haystacks of 960, 1984, ..., 16320 tokens, depths of 0 %, 10 %, ..., 100 %, and 100
trials a cell. An answer is at most 20 new tokens, greedy, and it is right if they contain the
number. `prompts.py` makes the prompts. Prompts of the same length are batched together, so none is
padded or cut.

Finished cells are kept on disk (`kept.py`), so a second run with the same options and files resumes
where the first one stopped. A run has the parts `environment`, `checkpoint` and `map`.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybrid_core.costs.memory import refusal
from hybrid_core.design.spec import ArchSpec
from hybrid_core.files import read_text
from hybrid_core.live.modules.cache import TORCH_DTYPES
from hybrid_core.live.profiling import device
from hybrid_core.live.profiling.job import DoesNotFit, Report, Store, put
from hybrid_core.live.retrieval.kept import Kept
from hybrid_core.live.retrieval.options import CheckpointOptions
from hybrid_core.live.retrieval.prompts import NEEDLE, NOISE, PROMPT, Prompt, Protocol
from hybrid_core.live.retrieval.scores import cell
from hybrid_core.results.checkpoint import Checkpoint, NotRun
from hybrid_core.results.environment import Environment
from hybrid_core.results.retrieval import Map
from hybrid_core.validation import SpecError

NEW_TOKENS = 20  # per answer


def batches(prompts: list[Prompt], size: int) -> Iterator[list[Prompt]]:
    """The prompts in batches of at most `size`; all prompts of a batch have the same length."""
    by_length: dict[int, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        by_length[len(prompt.ids)].append(prompt)
    for group in by_length.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


@torch.inference_mode()
def n_right(
    model: Any,
    tokenizer: Any,
    prompts: list[Prompt],
    batch_size: int,
    where: torch.device,
) -> int:
    """How many prompts the model answers with their number."""
    right = 0
    for batch in batches(prompts, batch_size):
        ids = torch.tensor([prompt.ids for prompt in batch], device=where)
        new_ids = _generated(model, tokenizer, ids)
        answers = tokenizer.batch_decode(new_ids, skip_special_tokens=True)
        for prompt, answer in zip(batch, answers, strict=True):
            if prompt.number in answer:
                right += 1
    return right


def _generated(model: Any, tokenizer: Any, ids: Tensor) -> Tensor:
    """The greedy continuation of prompts [B, T]: at most NEW_TOKENS tokens each."""
    pad_id = tokenizer.pad_token_id
    if pad_id is None:
        pad_id = tokenizer.eos_token_id or 0
    prompts_and_answers: Tensor = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=pad_id,
    )
    return prompts_and_answers[:, ids.shape[1] :]


def load(
    path: str,
    dtype: torch.dtype,
    where: torch.device,
) -> tuple[Any, Any]:
    """The tokenizer and the model in a folder. Raises SpecError if either cannot be read.

    transformers raises errors of any type, depending on the family and on what is wrong.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    safely = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **safely)
        if len(tokenizer) == 0:
            raise ValueError("it is empty")
    except Exception as error:
        why = _first_line(error)
        raise SpecError(f"checkpoint: {path} - no readable tokenizer ({why})") from None
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **safely)
    except Exception as error:
        why = _first_line(error)
        raise SpecError(f"checkpoint: {path} - no readable model ({why})") from None
    return tokenizer, model.to(where).eval()


def _first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters, or its type if it is empty."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0][:200]


class CheckpointRun:
    """One run. It tests cell by cell and stores the map after each."""

    def __init__(
        self,
        spec: ArchSpec,
        options: CheckpointOptions,
        store: Store,
        report: Report,
    ) -> None:
        self.spec = spec
        self.options = options
        self.put = partial(put, store)
        self.report = report
        self.device = device.resolve(options.device)
        self.kept = Kept(options)

    def run(self) -> None:
        """Test all cells.

        Raises DoesNotFit if not even one length fits into memory, and SpecError if the folder or
        the haystack's text cannot be read.
        """
        self.report(0.0, "Reading device information")
        self.put(Environment.model_validate(device.environment(self.device)))
        lengths, refused = self._fitting()
        self.report(0.01, "Loading the checkpoint")
        tokenizer, model = load(
            self.options.path,
            TORCH_DTYPES[self.options.dtype],
            self.device,
        )
        protocol = Protocol(tokenizer, self.options, self._text())
        self._put_question(protocol, refused)
        places = list(product(lengths, self.options.depths))
        for done, (length, depth) in enumerate(places, 1):
            if self.kept.get(length, depth) is None:
                prompts = protocol.prompts(length, depth)
                right = n_right(
                    model,
                    tokenizer,
                    prompts,
                    self.options.batch_size,
                    self.device,
                )
                self.kept.add(cell(length, depth, right, len(prompts)))
            self._put_map(lengths)
            self.report(done / len(places), f"{length:,} tokens, needle at {depth:.0%}")
        self.report(1.0, "Done")

    def _put_question(self, protocol: Protocol, refused: list[NotRun]) -> None:
        """Store the test's settings, and how many cells come from an earlier run."""
        part = Checkpoint(
            path=self.options.path,
            task=self.options.task,
            prompt=PROMPT,
            needle=NEEDLE,
            new_tokens=NEW_TOKENS,
            haystack=self.options.haystack_path or "built-in noise",
            haystack_repeats=protocol.haystack.repeats,
            resumed_cells=len(self.kept.cells),
            dropped=self.kept.dropped,
            not_run=tuple(refused),
        )
        self.put(part)

    def _put_map(self, lengths: list[int]) -> None:
        part = Map(
            depths=self.options.depths,
            lengths=tuple(lengths),
            trained_len=None,
            trials=self.options.trials,
            cells=tuple(self.kept.cells),
        )
        self.put(part)

    def _text(self) -> str:
        if self.options.haystack_path is None:
            return NOISE
        try:
            return read_text(Path(self.options.haystack_path), "haystack")
        except SpecError as error:
            raise SpecError(f"haystack: {error}") from None

    def _fitting(self) -> tuple[list[int], list[NotRun]]:
        """The lengths that fit into memory, and those that do not, with reasons.

        Raises DoesNotFit if none fits.
        """
        available_bytes = device.available_bytes(self.device)
        fitting = []
        refused = []
        for length in self.options.lengths:
            problem = refusal(self.spec, self.options.workload(length), available_bytes)
            if problem is None:
                fitting.append(length)
            else:
                refused.append(NotRun(context_len=length, why=str(problem)))
        if not fitting:
            asked = f"{self.spec.name} at batch {self.options.batch_size}"
            raise DoesNotFit(f"{asked}: {refused[0].why}")
        return fitting, refused


def checkpoint(
    spec: ArchSpec,
    options: CheckpointOptions,
    store: Store,
    report: Report,
) -> None:
    """Run the protocol on a checkpoint, with parts and progress as in `niah`."""
    run = CheckpointRun(spec, options, store, report)
    with device.current(run.device):
        run.run()
