"""The map: depth x context. One pass over each haystack, and its cache serves the queries at every
depth.

A context holds a needle at each depth; each is the distractor of the others. The haystack is read
once into a cache. For each depth the cache is put back to where the haystack ended, and only the
query is read. A row of eleven cells costs one forward pass and eleven short ones instead of eleven
long ones. The trials of one cell are independent; the cells of one row share their haystacks."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from hybrid_core.live.modules.cache import Cache
from hybrid_core.live.modules.model import HybridLM
from hybrid_core.live.retrieval import task
from hybrid_core.live.retrieval.budget import Deadline
from hybrid_core.live.retrieval.scores import cell
from hybrid_core.results.retrieval import Cell


class Snapshot:
    """The state of a cache, to return to."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.length = cache.length
        self.kept = [tensor.clone() for tensor in cache.tensors()]

    def restore(self) -> None:
        for tensor, kept in zip(self.cache.tensors(), self.kept, strict=True):
            tensor.copy_(kept)
        self.cache.length = self.length


@torch.no_grad()
def recalled(model: HybridLM, made: task.Contexts, device: torch.device) -> Tensor:
    """What the model answers to the query of each needle: symbols [B, n, VALUE_LEN], each after the
    true ones before it.

    Whether all are right is what generating them would show, too: up to the first mistake both read
    the same."""
    asked = task.queries(made.needles).to(device)
    size, length = made.haystack.shape
    cache = model.new_cache(size, length + task.QUERY_LEN)
    model(made.haystack.to(device), cache, last_only=True)
    ended = Snapshot(cache)
    answers = []
    for query in asked.unbind(1):
        ended.restore()
        logits = model(query[:, :-1], cache)
        answers.append(logits[:, 1:].argmax(-1))
    return torch.stack(answers, 1)


def evaluate(
    model: HybridLM,
    lengths: tuple[int, ...],
    depths: tuple[float, ...],
    trials: int,
    seed: int,
    device: torch.device,
    max_tokens: int,
    deadline: Deadline | None = None,
) -> Iterator[list[Cell]]:
    """The rows of the map, one list of cells per length, as they finish.

    `max_tokens`: tokens of haystack in memory at a time, a piece of a row. `deadline`: ends the map
    between two pieces. The row that it ends in has the trials that were asked until then; those
    after it are missing."""
    deadline = deadline or Deadline(math.inf)
    for length in lengths:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + length)
        made = task.contexts(
            trials,
            length,
            len(depths),
            generator,
            task.grid(length, depths),
        )
        answers = []
        for piece in _pieces(made, max(1, max_tokens // length)):
            if deadline.over():
                break
            answers.append(recalled(model, piece, device).cpu())
        if not answers:
            return
        said = torch.cat(answers)
        right = said == made.needles[: len(said), :, 1:]
        yield _row(length, depths, right)


def _pieces(made: task.Contexts, size: int) -> Iterator[task.Contexts]:
    """At most `size` contexts at a time."""
    split = [part.split(size) for part in made]
    for piece in zip(*split, strict=True):
        yield task.Contexts(*piece)


def _row(length: int, depths: tuple[float, ...], right: Tensor) -> list[Cell]:
    """The cells of one length, from which symbols are `right` [trials, n, VALUE_LEN].

    Beside whole values each has the share of right symbols. The variance from haystack to haystack
    of how many of its needles were recalled is the same in all; it takes two haystacks."""
    trials = len(right)
    whole = right.all(-1)
    variance = None
    if trials > 1:
        variance = float(whole.sum(1).float().var())
    symbols = right.float().mean((0, 2))
    cells = []
    for depth, correct, share in zip(depths, whole.sum(0), symbols, strict=True):
        shared = {"symbols": float(share), "haystack_variance": variance}
        cells.append(cell(length, depth, int(correct), trials).model_copy(update=shared))
    return cells
