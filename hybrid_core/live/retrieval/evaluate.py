"""The map: depth x context. One pass over each haystack, and its cache serves the queries at every
depth.

A context holds a needle at each depth; each is the distractor of the others. The haystack is read
once into a cache; for a depth the cache is put back to where the haystack ended and only the query
is read: a row of eleven cells costs one forward pass and eleven short ones instead of eleven long
ones. The trials of one cell are independent; the cells of one row share their haystacks."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hybrid_core.live.modules.cache import Cache
from hybrid_core.live.modules.model import HybridLM
from hybrid_core.live.retrieval import task
from hybrid_core.live.retrieval.budget import Deadline
from hybrid_core.live.retrieval.scores import cell


class Snapshot:
    """The state of a cache, to return to."""

    def __init__(self, cache: Cache) -> None:
        self.cache, self.length = cache, cache.length
        self.kept = [tensor.clone() for tensor in cache.tensors()]

    def restore(self) -> None:
        for tensor, kept in zip(self.cache.tensors(), self.kept, strict=True):
            tensor.copy_(kept)
        self.cache.length = self.length


@torch.no_grad()
def recalled(model: HybridLM, made: task.Contexts, device: torch.device) -> Tensor:
    """What the model says to the query of each needle: symbols [B, n, VALUE_LEN], each after the
    true ones before it.

    Whether all are right is what generating them would show, too: up to the first mistake both read
    the same."""
    asked = task.queries(made.needles).to(device)
    size, length = made.haystack.shape
    cache = model.new_cache(size, length + task.QUERY_LEN)
    model(made.haystack.to(device), cache, last_only=True)
    ended = Snapshot(cache)
    said = []
    for one in asked.unbind(1):
        ended.restore()
        said.append(model(one[:, :-1], cache)[:, 1:].argmax(-1))
    return torch.stack(said, 1)


def evaluate(
    model: HybridLM,
    lengths: tuple[int, ...],
    depths: tuple[float, ...],
    trials: int,
    seed: int,
    device: torch.device,
    max_tokens: int,
    deadline: Deadline | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of the map, one list of cells per length, as they finish; beside whole values the
    share of right `symbols`, and the variance from haystack to haystack of how many of its needles
    were recalled, which the cells of a row have in common.

    `max_tokens`: tokens of haystack in memory at a time, a piece of a row. `deadline`: ends the map
    between two pieces. The row that it ends in has the trials that were asked until then; those
    after it are missing."""
    deadline = deadline or Deadline(math.inf)
    for length in lengths:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + length)
        made = task.contexts(trials, length, len(depths), generator, task.grid(length, depths))
        pieces = (
            task.Contexts(*piece)
            for piece in zip(
                *(part.split(max(1, max_tokens // length)) for part in made), strict=True
            )
        )
        said = [recalled(model, piece, device).cpu() for piece in pieces if not deadline.over()]
        if not said:
            return
        asked = sum(map(len, said))
        right = torch.cat(said) == made.needles[:asked, :, 1:]
        whole = right.all(-1)
        varies = float(whole.sum(1).float().var()) if asked > 1 else None
        shared = {"haystack_variance": varies}
        counted = zip(depths, whole.sum(0), right.float().mean((0, 2)), strict=True)
        yield [
            cell(length, depth, int(n), asked) | {"symbols": float(share)} | shared
            for depth, n, share in counted
        ]
