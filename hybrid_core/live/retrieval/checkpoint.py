"""The paper's retrieval protocol (Appendix K) on a trained checkpoint: a folder in Hugging Face
format with its tokenizer.

Haystacks of 960, 1984, ..., 16320 tokens; depths 0 %, 10 %, ..., 100 %; 100 trials a cell; a random
city and a random 7-digit number in the needle; 20 new tokens, greedy; right if they contain the
number. Prompt: see `PROMPT`. Task names follow RULER (arXiv 2404.06654): `niah_single` has one
needle, `niah_multikey` three more of other cities at random places.

A haystack counts `length` tokens with its needle in it; the needle stands at the end of the last
sentence before its depth. Prompts of one length are batched without padding, and none is ever cut.
Finished cells are kept on disk: the same question to the same files goes on where it stopped.

Parts: `environment`, `checkpoint`, `map`.
"""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hybrid_core.costs.memory import refusal
from hybrid_core.data import data_path, folder, write_whole
from hybrid_core.design.spec import ArchSpec
from hybrid_core.files import read_text
from hybrid_core.live.modules.cache import TORCH_DTYPES
from hybrid_core.live.profiling import device
from hybrid_core.live.profiling.job import DoesNotFit, Report, Store, put
from hybrid_core.live.retrieval.options import CheckpointOptions
from hybrid_core.live.retrieval.scores import cell
from hybrid_core.results.checkpoint import Checkpoint, NotRun
from hybrid_core.results.environment import Environment
from hybrid_core.results.retrieval import Cell, Map
from hybrid_core.validation import SpecError

NEEDLE = "The special magic {city} number is: {number}"
QUESTION = "What is the special magic {city} number?"
PROMPT = ("<context>\n", "\n</context>\n\n" + QUESTION + "\n\nThe special magic {city} number is:")
NEW_TOKENS = 20
DISTRACTORS = {"niah_single": 0, "niah_multikey": 3}
CITIES = """
Accra Algiers Amman Amsterdam Ankara Athens Baghdad Baku Bamako Bangkok Beirut Belgrade Berlin
Bern Bogota Bratislava Brussels Bucharest Budapest Cairo Canberra Caracas Chicago Copenhagen Dakar
Damascus Delhi Dhaka Doha Dublin Edinburgh Florence Geneva Glasgow Hamburg Hanoi Havana Helsinki
Houston Istanbul Jakarta Jerusalem Kabul Kampala Kathmandu Khartoum Kinshasa Kyoto Lagos Lima
Lisbon Ljubljana London Luanda Lusaka Madrid Manila Maputo Marseille Melbourne Milan Minsk
Montreal Moscow Mumbai Munich Muscat Nairobi Naples Oslo Ottawa Paris Perth Porto Prague Quito
Rabat Riga Rome Rotterdam Santiago Sarajevo Seattle Seoul Seville Shanghai Singapore Skopje Sofia
Stockholm Sydney Tallinn Tbilisi Tehran Tirana Tokyo Toronto Tripoli Tunis Turin Vienna Vilnius
Warsaw Yerevan Zagreb Zurich
""".split()
# The haystack where the user gives none: sentences that answer nothing.
NOISE = (
    "The river runs past the old mill. A bell rings twice before noon. "
    "Nobody in the square looks up. The baker sweeps the step and goes in. "
    "Later the rain comes over the hill. It stops as it began. "
    "The road is long and the evening is quiet. "
)


class Prompt(NamedTuple):
    """Tokens of one trial, and the number that its answer must contain."""

    ids: tuple[int, ...]
    number: str


class Haystack:
    """A text as tokens, repeated where it is too short, with the places where a sentence has
    ended."""

    def __init__(self, tokenizer: Any, text: str, longest: int) -> None:
        if not text.strip():
            raise SpecError("haystack: the text is empty")
        # A space stands before it, as before every needle.
        once = tokenizer.encode(" " + text.strip(), add_special_tokens=False)
        self.repeats = -(-longest // len(once))
        self.ids: list[int] = (once * self.repeats)[:longest]
        closing = {token for token in set(once) if _closes_a_sentence(tokenizer.decode([token]))}
        self.ends = [0]
        for i, token in enumerate(self.ids):
            if token in closing:
                self.ends.append(i + 1)

    def with_needles(
        self,
        length: int,
        needles: list[tuple[float, list[int]]],
    ) -> list[int]:
        """`length` tokens in all, each needle at its depth, at the end of a sentence. Raises
        ValueError where they do not fit."""
        room = length - sum(len(ids) for _, ids in needles)
        if room < 0:
            raise ValueError(f"context of {length} tokens - shorter than its needles")
        out = self.ids[:room]
        # From the end, so that earlier places stay where they are. The sort keeps needles of one
        # depth in order.
        for depth, ids in sorted(needles, key=_from_the_end):
            place = self._place(depth, room)
            out[place:place] = ids
        return out

    def _place(self, depth: float, room: int) -> int:
        """Where the last sentence before a depth ends."""
        if depth >= 1:
            return room
        return max(end for end in self.ends if end <= depth * room)


def _closes_a_sentence(text: str) -> bool:
    return text.rstrip(" ").endswith((".", "!", "?", "\n"))


def _from_the_end(needle: tuple[float, list[int]]) -> float:
    depth, _ = needle
    return -depth


class Protocol:
    """Makes the prompts of a cell."""

    def __init__(
        self,
        tokenizer: Any,
        options: CheckpointOptions,
        text: str,
    ) -> None:
        self.tokenizer = tokenizer
        self.options = options
        self.haystack = Haystack(tokenizer, text, max(options.lengths))
        start = tokenizer("", add_special_tokens=True)["input_ids"]
        self.bos = [token for token in start if token == tokenizer.bos_token_id][:1]

    def prompts(self, length: int, depth: float) -> list[Prompt]:
        """All trials of a cell; the same for the same seed."""
        draw = random.Random(f"{self.options.seed}/{self.options.task}/{length}/{depth}")
        return [self._prompt(length, depth, draw) for _ in range(self.options.trials)]

    def _prompt(
        self,
        length: int,
        depth: float,
        draw: random.Random,
    ) -> Prompt:
        city, *others = draw.sample(CITIES, 1 + DISTRACTORS[self.options.task])
        number = str(draw.randrange(10**6, 10**7))
        needles = [(depth, self._ids(" " + NEEDLE.format(city=city, number=number)))]
        for other in others:
            needle = NEEDLE.format(city=other, number=draw.randrange(10**6, 10**7))
            needles.append((draw.random(), self._ids(" " + needle)))
        before, after = PROMPT
        context = self.haystack.with_needles(length, needles)
        ids = (*self.bos, *self._ids(before), *context, *self._ids(after.format(city=city)))
        return Prompt(ids, number)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


def batches(prompts: list[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Prompts of the same length together, at most `size`."""
    by_length: dict[int, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        by_length[len(prompt.ids)].append(prompt)
    for group in by_length.values():
        yield from (group[i : i + size] for i in range(0, len(group), size))


@torch.inference_mode()
def n_right(
    model: Any, tokenizer: Any, prompts: list[Prompt], batch_size: int, where: torch.device
) -> int:
    """How many prompts are answered with their number among NEW_TOKENS greedy tokens."""
    right = 0
    for group in batches(prompts, batch_size):
        ids = torch.tensor([prompt.ids for prompt in group], device=where)
        new = _generated(model, tokenizer, ids)
        said = tokenizer.batch_decode(new, skip_special_tokens=True)
        right += sum(prompt.number in text for prompt, text in zip(group, said, strict=True))
    return right


def _generated(model: Any, tokenizer: Any, ids: Tensor) -> Tensor:
    """The tokens that follow prompts of one length [B, NEW_TOKENS]."""
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = tokenizer.eos_token_id or 0
    out: Tensor = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=pad,
    )
    return out[:, ids.shape[1] :]


def load(path: str, dtype: torch.dtype, where: torch.device) -> tuple[Any, Any]:
    """Tokenizer and model of a folder. Raises SpecError with one line for what is missing or
    unknown."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        if len(tokenizer) == 0:
            raise ValueError("it is empty")
    except Exception as error:  # its type depends on the family
        why = _first_line(error)
        raise SpecError(f"checkpoint: {path} - no tokenizer that can be read ({why})") from None
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        why = _first_line(error)
        raise SpecError(f"checkpoint: {path} - no model that can be read ({why})") from None
    return tokenizer, model.to(where).eval()


def _first_line(error: Exception) -> str:
    """What an error of another library says, cut to 200 characters, or its type."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0][:200]


class CheckpointRun:
    """The protocol on one checkpoint, cell by cell."""

    def __init__(
        self, spec: ArchSpec, options: CheckpointOptions, store: Store, report: Report
    ) -> None:
        self.spec = spec
        self.options = options
        self.put = partial(put, store)
        self.report = report
        self.device = device.resolve(options.device)
        self.kept = Kept(options)

    def run(self) -> None:
        """All cells. Raises DoesNotFit when not even the shortest length fits, SpecError for a
        folder that cannot be read."""
        self.report(0.0, "Looking at the device")
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
        questions = [(length, depth) for length in lengths for depth in self.options.depths]
        for done, (length, depth) in enumerate(questions, 1):
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
            self.report(done / len(questions), f"{length:,} tokens, needle at {depth:.0%}")
        self.report(1.0, "Done")

    def _put_question(self, protocol: Protocol, refused: list[NotRun]) -> None:
        """What is asked, and what an earlier run had found already."""
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
        """The lengths that fit into memory, and those that do not, with the reason."""
        free = device.available_bytes(self.device)
        fitting = []
        refused = []
        for length in self.options.lengths:
            problem = refusal(self.spec, self.options.workload(length), free)
            if problem is None:
                fitting.append(length)
            else:
                refused.append(NotRun(context_len=length, why=str(problem)))
        if not fitting:
            asked = f"{self.spec.name} at batch {self.options.batch_size}"
            raise DoesNotFit(f"{asked}: {refused[0].why}")
        return fitting, refused


class Kept:
    """Finished cells on disk, one a line, under a name made of the question and the checkpoint's
    files.

    `dropped`: a line on what could not be read back, and is asked again; None where nothing was
    lost."""

    def __init__(self, options: CheckpointOptions) -> None:
        self.path = data_path() / "niah" / f"{_digest(options)}.jsonl"
        self.asked = {(length, depth) for length in options.lengths for depth in options.depths}
        self.known: dict[tuple[int, float], Cell] = {}
        self.dropped = self._read()

    def _read(self) -> str | None:
        """Add the cells that are on disk to `known`."""
        try:
            lines = self.path.read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return None
        except OSError as error:
            why = f"{self.path} - {error.strerror or error}"
            return f"the kept cells cannot be read and are asked again: {why}"
        lost = 0
        for line in lines:
            found = _read_cell(line)
            if found is None:
                lost += 1
            else:
                self.known[found.context_len, found.depth] = found
        if not lost:
            return None
        damaged = f"{lost} of {len(lines)} kept cells were cut or damaged"
        return f"{damaged} and are asked again: {self.path}"

    @property
    def cells(self) -> list[Cell]:
        """Those that this run asks for."""
        return [found for place, found in self.known.items() if place in self.asked]

    def get(self, length: int, depth: float) -> Cell | None:
        return self.known.get((length, depth))

    def add(self, found: Cell) -> None:
        """Keep a cell. Raises NotWritten; what was kept before still is."""
        self._read()  # a run on another device may have added some
        self.known[found.context_len, found.depth] = found
        folder(self.path.parent)
        lines = [json.dumps(kept.record()) + "\n" for kept in self.known.values()]
        write_whole(self.path, "".join(lines))


def _digest(options: CheckpointOptions) -> str:
    """What tells one question to one checkpoint from another: the options that decide an answer,
    and the names, sizes and times of the checkpoint's files."""
    not_asked = {"device", "batch_size", "lengths", "depths"}
    question = options.model_dump(mode="json", exclude=not_asked)
    files = []
    for file in Path(options.path).iterdir():
        if file.is_file():
            status = file.stat()
            files.append((file.name, status.st_size, status.st_mtime_ns))
    told = json.dumps([question, sorted(files)])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _read_cell(line: str) -> Cell | None:
    """The cell in a line; None for a line that is cut or damaged."""
    try:
        found = json.loads(line)
        return cell(
            int(found["context_len"]),
            float(found["depth"]),
            int(found["correct"]),
            int(found["trials"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def checkpoint(
    spec: ArchSpec,
    options: CheckpointOptions,
    store: Store,
    report: Report,
) -> None:
    """Run the protocol; parts and progress as in `niah`."""
    run = CheckpointRun(spec, options, store, report)
    with device.current(run.device):
        run.run()
