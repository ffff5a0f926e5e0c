"""What a serving engine's pages make of the cache: vLLM's one pool of equal pages, into which every
layer's cache has to fit.

As in vLLM v1 (kv_cache_utils.py and the hybrid models' config): attention keeps a block of tokens
in a page; where there are states too, the block grows in steps of 16 tokens until its page holds
the largest state, and states are padded to that page. Layers of one kind are split into groups of
equal size, the last one padded; a block of a group takes one page in each of its layers."""

from collections import Counter
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from hybrid_core.costs.memory import ServedLayer, Serving, largest
from hybrid_core.design.spec import ArchSpec
from hybrid_core.workload import Workload

# The share of a device's memory that vLLM uses unless told otherwise (gpu_memory_utilization).
MEMORY_SHARE = 0.9
BLOCK_TOKENS = 16  # the smallest block, and the step in which it grows
MAX_CONTEXT = 2**24
MAX_BATCH = 65_536  # where sequences keep nothing
SPLIT = 1.25  # kinds whose numbers of layers differ by less share one group size


class Holder(NamedTuple):
    """What one layer keeps, of one kind: `token_bytes` for each of at most `window` tokens, or
    `state_bytes` for the sequence."""

    token_bytes: int = 0
    window: int | None = None
    state_bytes: int = 0


class Pages(NamedTuple):
    """One page's bytes, the tokens of an attention block (0 without attention), layers in a group,
    and groups of each kind of holder."""

    page_bytes: int
    block_tokens: int
    group_size: int
    groups: tuple[tuple[Holder, int], ...]

    def sequence_bytes(self, context_len: int) -> int:
        """Bytes of the pages that one sequence of `context_len` tokens occupies."""
        blocks = sum(n * self._blocks(holder, context_len) for holder, n in self.groups)
        return self.page_bytes * self.group_size * blocks

    def _blocks(self, holder: Holder, context_len: int) -> int:
        if not holder.token_bytes:
            return 1
        needed = _up(context_len, self._tokens(holder.token_bytes))
        if holder.window is None:
            return needed
        in_window = _up(holder.window - 1, self._tokens(holder.token_bytes)) + 1
        return min(needed, in_window)

    def _tokens(self, token_bytes: int) -> int:
        """Tokens of a block whose tokens take so many bytes in a layer."""
        return self.page_bytes // token_bytes // BLOCK_TOKENS * BLOCK_TOKENS


def pages(spec: ArchSpec, workload: Workload) -> Pages:
    """The pages of a design in the workload's dtypes."""
    return _pages(Serving(spec, workload))


def _pages(serving: Serving) -> Pages:
    counts: Counter[Holder] = Counter()
    for layer in serving.layers:
        for holder in _holders(layer, serving.workload):
            counts[holder] += layer.n
    per_token = [holder.token_bytes for holder in counts if holder.token_bytes]
    states = [holder.state_bytes for holder in counts]
    largest_token = max(per_token, default=0)
    least = max([BLOCK_TOKENS * largest_token, *states])
    if not per_token:
        return Pages(least, 0, 1, tuple(counts.items()))
    units = [BLOCK_TOKENS * n_bytes for n_bytes in per_token]
    page = max(unit * _up(least, unit) for unit in units)
    fewest, most = min(counts.values()), max(counts.values())
    group = most if most < SPLIT * fewest else fewest
    block = page // largest_token // BLOCK_TOKENS * BLOCK_TOKENS
    return Pages(
        page,
        block,
        group,
        tuple((holder, _up(n, group)) for holder, n in counts.items()),
    )


def _holders(layer: ServedLayer, workload: Workload) -> list[Holder]:
    """The layer's keys and values, and its states with the inputs of their convolutions, as far as
    it has either."""
    found = []
    costs = layer.costs
    # Without the learnt tokens: what the positions of a sequence take.
    per_token = ceil(costs.kv_bytes(1 - costs.meta_tokens, workload))
    if per_token:
        kept = ceil(costs.kv_bytes(MAX_CONTEXT - costs.meta_tokens, workload)) // per_token
        found.append(Holder(per_token, kept if kept < MAX_CONTEXT else None))
    state = int(layer.state_bytes)
    if state:
        found.append(Holder(state_bytes=state))
    return found


def _up(n: int, unit: int) -> int:
    """n / unit, rounded up."""
    return -(-n // unit)


class Fit(NamedTuple):
    """The most sequences of the asked context, and the longest context of the asked batch, that
    fit; 0 where not even one does."""

    batch_size: int
    context_len: int


class EngineView(NamedTuple):
    """The cache of one sequence in bytes, ideal and in pages, and what fits in each view."""

    ideal_bytes: int
    paged_bytes: int
    pages: Pages
    ideal: Fit
    paged: Fit


def engine_view(spec: ArchSpec, workload: Workload, usable_bytes: int) -> EngineView:
    """Both views of a design's cache within `usable_bytes`: what the weights and one chunk of the
    prefill leave is for the cache."""
    return served_view(Serving(spec, workload), usable_bytes)


def served_view(serving: Serving, usable_bytes: int) -> EngineView:
    """`engine_view` of a design whose serving is known."""
    laid_out = _pages(serving)
    meta_tokens = serving.spec.meta_tokens

    def ideal(context_len: int) -> int:
        return int(serving.cache_bytes(context_len))

    def paged(context_len: int) -> int:
        return laid_out.sequence_bytes(context_len + meta_tokens)

    context = serving.workload.context_len
    return EngineView(
        ideal_bytes=ideal(context),
        paged_bytes=paged(context),
        pages=laid_out,
        ideal=_fit(serving, usable_bytes, ideal),
        paged=_fit(serving, usable_bytes, paged),
    )


def _fit(serving: Serving, usable: int, sequence_bytes: Callable[[int], int]) -> Fit:
    """The most sequences and the longest context beside weights and activations, where one sequence
    holds so many bytes."""
    batch, context = serving.workload.batch_size, serving.workload.context_len
    each = sequence_bytes(context)
    most = MAX_BATCH
    if each:
        most = (usable - serving.weights) // each

    def needed_by_batch(n: int) -> int:
        return serving.fixed_bytes(n, context) + n * each

    def needed_by_context(n: int) -> int:
        return serving.fixed_bytes(batch, n) + batch * sequence_bytes(n)

    return Fit(
        batch_size=largest(most, needed_by_batch, usable),
        context_len=largest(MAX_CONTEXT, needed_by_context, usable),
    )
