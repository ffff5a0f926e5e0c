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

from hybrid_core.costs.memory import Serving, largest
from hybrid_core.costs.model import LayerCosts, model_costs, tensor_bytes
from hybrid_core.design.spec import ArchSpec
from hybrid_core.workload import Workload

MEMORY_SHARE = (
    0.9  # of a device's memory, which vLLM uses unless told otherwise (gpu_memory_utilization)
)
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
        return (
            self.page_bytes
            * self.group_size
            * sum(n * self._blocks(holder, context_len) for holder, n in self.groups)
        )

    def _blocks(self, holder: Holder, context_len: int) -> int:
        if not holder.token_bytes:
            return 1
        block = self.page_bytes // holder.token_bytes // BLOCK_TOKENS * BLOCK_TOKENS
        needed = _up(context_len, block)
        return needed if holder.window is None else min(needed, _up(holder.window - 1, block) + 1)


def pages(spec: ArchSpec, workload: Workload) -> Pages:
    """The pages of a design in the workload's dtypes."""
    costs, workload = model_costs(spec), workload.of(spec)
    counts: Counter[Holder] = Counter()
    for layer, n in costs.distinct():
        for holder in _holders(layer, workload):
            counts[holder] += n
    per_token = [holder.token_bytes for holder in counts if holder.token_bytes]
    states = [holder.state_bytes for holder in counts]
    least = max([BLOCK_TOKENS * max(per_token, default=0), *states])
    if not per_token:
        return Pages(least, 0, 1, tuple(counts.items()))
    page = max(unit * _up(least, unit) for unit in (BLOCK_TOKENS * n for n in per_token))
    sizes = counts.values()
    group = max(sizes) if max(sizes) < SPLIT * min(sizes) else min(sizes)
    block = page // max(per_token) // BLOCK_TOKENS * BLOCK_TOKENS
    return Pages(page, block, group, tuple((holder, _up(n, group)) for holder, n in counts.items()))


def _holders(layer: LayerCosts, workload: Workload) -> list[Holder]:
    """The layer's keys and values, and its states with the inputs of their convolutions, as far as
    it has either."""

    def kv_bytes(context_len: int) -> int:
        held = [
            float(tensor_bytes(tensor, workload))
            for tensor in layer.mixer.cache(context_len)
            if tensor.kind == "kv"
        ]
        return ceil(sum(held))

    per_token, state = kv_bytes(1), int(layer.state_bytes(workload))
    kept = kv_bytes(MAX_CONTEXT) // per_token if per_token else 0
    found = [Holder(per_token, kept if kept < MAX_CONTEXT else None)] if per_token else []
    return found + ([Holder(state_bytes=state)] if state else [])


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
    costs, laid_out, serving = model_costs(spec), pages(spec, workload), Serving(spec, workload)

    def ideal(context_len: int) -> int:
        return int(costs.cache_bytes(context_len, "exact", workload))

    def paged(context_len: int) -> int:
        return laid_out.sequence_bytes(context_len + spec.meta_tokens)

    context = workload.context_len
    fits = [_fit(serving, workload, usable_bytes, view) for view in (ideal, paged)]
    return EngineView(ideal(context), paged(context), laid_out, *fits)


def _fit(
    serving: Serving, workload: Workload, usable: int, sequence_bytes: Callable[[int], int]
) -> Fit:
    """The most sequences and the longest context beside weights and activations, where one sequence
    holds so many bytes."""
    each = sequence_bytes(workload.context_len)
    at_most = max(0, (usable - serving.weights) // each) if each else MAX_BATCH

    def batch_fits(n: int) -> bool:
        return serving.fixed_bytes(n, workload.context_len) + n * each <= usable

    def context_fits(n: int) -> bool:
        return (
            serving.fixed_bytes(workload.batch_size, n) + workload.batch_size * sequence_bytes(n)
            <= usable
        )

    return Fit(largest(at_most, batch_fits) or 0, largest(MAX_CONTEXT, context_fits) or 0)
