"""How a proxy is tested: the map of recall by depth and context length.

A context has a needle at every depth, and each needle is a distractor for the others. The model
reads a haystack once and keeps its cache. Then, for each depth, the cache is restored to the end of
the haystack, and only the query is read. So a row of eleven cells costs one long and eleven short
forward passes instead of eleven long ones. The trials of a cell are independent of each other; the
cells of a row share their haystacks.
"""

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


class _Snapshot:
    """A copy of a cache's state, for restoring it."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.length = cache.length
        self.copies = [tensor.clone() for tensor in cache.tensors()]

    def restore(self) -> None:
        tensors = self.cache.tensors()
        for tensor, copy in zip(tensors, self.copies, strict=True):
            tensor.copy_(copy)
        self.cache.length = self.length


@torch.no_grad()
def recalled(
    model: HybridLM,
    contexts: task.Contexts,
    device: torch.device,
) -> Tensor:
    """The model's answer to the query for each needle: symbols [B, n, VALUE_LEN].

    The model reads the true value while it answers, so it predicts each symbol from the true ones
    before it. This does not change whether a whole answer is right: up to the first mistake, a
    model that generates would read the same symbols.
    """
    queries = task.queries(contexts.needles).to(device)
    batch_size, length = contexts.haystack.shape
    cache = model.new_cache(batch_size, length + task.QUERY_LEN)
    model(contexts.haystack.to(device), cache, last_only=True)
    end_of_haystack = _Snapshot(cache)
    answers = []
    for query in queries.unbind(1):
        end_of_haystack.restore()
        logits = model(query[:, :-1], cache)
        after_key = logits[:, 1:]
        answers.append(after_key.argmax(-1))
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
    """The rows of the map, one list of cells per length, each as soon as it is finished.

    A row is tested in batches of at most `max_tokens` haystack tokens, and the deadline is checked
    between batches. The row in which it passes has only the trials finished by then, and later rows
    are missing.
    """
    deadline = deadline or Deadline(math.inf)
    for length in lengths:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + length)
        contexts = task.contexts(
            trials,
            length,
            len(depths),
            generator,
            task.grid(length, depths),
        )
        batch_size = max(1, max_tokens // length)
        answers = []
        for batch in _batches(contexts, batch_size):
            if deadline.over():
                break
            answers.append(recalled(model, batch, device).cpu())
        if not answers:
            return
        answered = torch.cat(answers)
        values = contexts.needles[: len(answered), :, 1:]
        yield _row(length, depths, answered == values)


def _batches(contexts: task.Contexts, size: int) -> Iterator[task.Contexts]:
    """The same contexts, at most `size` at a time."""
    split = [tensor.split(size) for tensor in contexts]
    for batch in zip(*split, strict=True):
        yield task.Contexts(*batch)


def _row(
    length: int,
    depths: tuple[float, ...],
    right: Tensor,
) -> list[Cell]:
    """The cells of one length, given which symbols are right [trials, depths, VALUE_LEN].

    A cell counts whole values, and also has the share of right symbols. All cells of a row have the
    same variance: that of the number of needles recalled per haystack. With a single haystack it is
    None.
    """
    trials = len(right)
    recalled_whole = right.all(-1)
    haystack_variance = None
    if trials > 1:
        per_haystack = recalled_whole.sum(1).float()
        haystack_variance = float(per_haystack.var())
    correct = recalled_whole.sum(0).tolist()
    symbols = right.float().mean((0, 2)).tolist()
    cells = []
    for i, depth in enumerate(depths):
        counted = cell(length, depth, correct[i], trials)
        details = {"symbols": symbols[i], "haystack_variance": haystack_variance}
        cells.append(counted.model_copy(update=details))
    return cells
