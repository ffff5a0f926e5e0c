"""The cache in the pages of a serving engine. vLLM has one pool of equal-size pages, which has to
hold the caches of all layers.

As in vLLM v1 (kv_cache_utils.py and the hybrid models' config), a page of an attention layer holds
a block of tokens. In a model with states, the block grows in steps of 16 tokens until its page
holds the largest state; then states are padded to that page. Layers of one kind are split into
groups of equal size, the last one padded. A block of a group takes one page in each layer."""

from collections import Counter
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from hybrid_core.costs.memory import ServedLayer, Serving, largest
from hybrid_core.design.spec import ArchSpec
from hybrid_core.workload import Workload

# The share of a device's memory that vLLM uses by default (gpu_memory_utilization).
MEMORY_SHARE = 0.9
BLOCK_TOKENS = 16  # the smallest block, and the step by which it grows
MAX_CONTEXT = 2**24
MAX_BATCH = 65_536  # the largest batch for a model without a cache
SPLIT = 1.25  # kinds whose layer counts differ by less than this factor share a group size


class Holder(NamedTuple):
    """One kind of cache in one layer: `token_bytes` for each of at most `window` tokens, or
    `state_bytes` per sequence."""

    token_bytes: int = 0
    window: int | None = None
    state_bytes: int = 0


class Pages(NamedTuple):
    """How vLLM lays out the caches of a design: bytes per page, tokens per attention block (0
    without attention), layers per group, and the number of groups of each kind of cache."""

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
        block_tokens = self._tokens(holder.token_bytes)
        needed = _up(context_len, block_tokens)
        if holder.window is None:
            return needed
        # A window may begin in the middle of a block.
        in_window = _up(holder.window - 1, block_tokens) + 1
        return min(needed, in_window)

    def _tokens(self, token_bytes: int) -> int:
        """Tokens in a page of a layer whose tokens take `token_bytes`."""
        return _block_tokens(self.page_bytes, token_bytes)


def pages(spec: ArchSpec, workload: Workload) -> Pages:
    """The pages of a design in the workload's dtypes."""
    return _pages(Serving(spec, workload))


def _pages(serving: Serving) -> Pages:
    counts: Counter[Holder] = Counter()
    for layer in serving.layers:
        for holder in _holders(layer, serving.workload):
            counts[holder] += layer.n
    states = [holder.state_bytes for holder in counts]
    largest_state = max(states, default=0)
    per_token = [holder.token_bytes for holder in counts if holder.token_bytes]
    if not per_token:
        return Pages(largest_state, 0, 1, tuple(counts.items()))
    # Each kind of attention needs whole steps of tokens. The page is the largest of these sizes.
    steps = [BLOCK_TOKENS * n_bytes for n_bytes in per_token]
    least = max(*steps, largest_state)
    page = max(step * _up(least, step) for step in steps)
    fewest = min(counts.values())
    most = max(counts.values())
    group_size = most if most < SPLIT * fewest else fewest
    groups = []
    for holder, n in counts.items():
        groups.append((holder, _up(n, group_size)))
    block_tokens = _block_tokens(page, max(per_token))
    return Pages(page, block_tokens, group_size, tuple(groups))


def _block_tokens(page_bytes: int, token_bytes: int) -> int:
    """Tokens that fit a page, in whole steps of BLOCK_TOKENS."""
    return page_bytes // token_bytes // BLOCK_TOKENS * BLOCK_TOKENS


def _holders(layer: ServedLayer, workload: Workload) -> list[Holder]:
    """The caches of one layer: keys and values, and states with the inputs of their
    convolutions."""
    found = []
    costs = layer.costs
    # Learnt tokens are subtracted, so that this is the cache of one position.
    per_token = ceil(costs.kv_bytes(1 - costs.meta_tokens, workload))
    if per_token:
        kept = ceil(costs.kv_bytes(MAX_CONTEXT - costs.meta_tokens, workload)) // per_token
        window = kept if kept < MAX_CONTEXT else None
        found.append(Holder(per_token, window))
    state = int(layer.state_bytes)
    if state:
        found.append(Holder(state_bytes=state))
    return found


def _up(n: int, unit: int) -> int:
    """n / unit, rounded up."""
    return -(-n // unit)


class Fit(NamedTuple):
    """The largest batch that fits at the requested context, and the longest context that fits at
    the requested batch. 0 if nothing fits."""

    batch_size: int
    context_len: int


class EngineView(NamedTuple):
    """Bytes of one sequence's cache, exact and in pages, and what fits in each case."""

    ideal_bytes: int
    paged_bytes: int
    pages: Pages
    ideal: Fit
    paged: Fit


def engine_view(spec: ArchSpec, workload: Workload, usable_bytes: int) -> EngineView:
    """Both views of a design's cache. The cache gets what is left of `usable_bytes` after the
    weights and one chunk of the prefill."""
    return served_view(Serving(spec, workload), usable_bytes)


def served_view(serving: Serving, usable_bytes: int) -> EngineView:
    """`engine_view` for an existing Serving."""
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
    """The largest batch and the longest context that fit in addition to weights and activations.
    `sequence_bytes`: cache bytes of one sequence at a context length."""
    batch = serving.workload.batch_size
    context = serving.workload.context_len
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
