"""Device memory of a workload: weights, cache and activations. Also what fits an accelerator, and
what would fit instead if the workload does not.

A serving engine prefills in chunks, so activations are those of one batch of `max_batched_tokens`.
The modules can also prefill the whole batch at once; that is a separate figure."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from hybrid_core.costs.model import LayerCosts, ModelCosts, model_costs
from hybrid_core.costs.weights import LayerBytes, weight_bytes
from hybrid_core.design.spec import ArchSpec
from hybrid_core.stored import WeightFormat
from hybrid_core.terms import Num, Terms, least, lengths, total, widest
from hybrid_core.workload import Workload


class Memory(NamedTuple):
    """Bytes. `activations`: the tensors alive at the peak of one chunk of the prefill."""

    weights: Num
    cache: Num
    activations: Num

    @property
    def total(self) -> Num:
        return self.weights + self.cache + self.activations


def memory(
    spec: ArchSpec,
    workload: Workload,
    context_len: Num | None = None,
) -> Memory:
    """Memory of serving a workload. `context_len`, an int or an array, replaces the workload's."""
    return Serving(spec, workload).memory(context_len)


_FlopsOf = Callable[[LayerCosts, Num], Terms]


class ServedLayer(NamedTuple):
    """One distinct layer of a design that serves a workload.

    `n`: its number of occurrences in the stack. `weights`: bytes as stored. `state_bytes`: bytes of
    the part of one sequence's cache that does not depend on the context."""

    costs: LayerCosts
    n: int
    weights: LayerBytes
    state_bytes: Num


class Serving:
    """A design serving a workload. It computes once what several figures need.

    `costs`: the design's closed forms; `workload`: completed with the settings of the design's
    config; `stored`: bytes of each layer's weights; `weights`: bytes of all of them."""

    def __init__(self, spec: ArchSpec, workload: Workload) -> None:
        self.spec = spec
        self.costs = model_costs(spec)
        self.workload = workload.of(spec)
        self.stored = weight_bytes(spec, workload)
        self.weights = self.stored.total
        self._alone = self.workload.model_copy(update={"batch_size": 1})
        # Both are keyed by the number of tokens. An array has no hash, so its result is not cached.
        self._chunks: dict[float, int] = {}
        self._flops: dict[tuple[_FlopsOf, float], list[Num]] = {}

    @cached_property
    def layers(self) -> list[ServedLayer]:
        """The distinct layers, in the order of `ModelCosts.distinct`."""
        counted = zip(self.costs.distinct(), self.stored.layers, strict=True)
        return [
            ServedLayer(layer, n, weights, layer.state_bytes(self.workload))
            for (layer, n), weights in counted
        ]

    def memory(self, context_len: Num | None = None) -> Memory:
        """Memory of the whole batch, at the workload's context unless another is given."""
        context: Num = self.workload.context_len
        prompt: Num = self.workload.prefill_len
        if context_len is not None:
            context = prompt = lengths(context_len)
        batch = self.workload.batch_size
        cache = batch * self.cache_bytes(context)
        return Memory(self.weights, cache, self.activations(batch, prompt))

    def fixed_bytes(self, batch_size: int, context_len: int) -> int:
        """Bytes of weights and activations of a batch. Prompts are as long as the workload's, but
        at most the context."""
        prompt_len = min(self.workload.prompt_len or context_len, context_len)
        return self.weights + int(self.activations(batch_size, prompt_len))

    def activations(self, batch_size: int, prompt_len: Num) -> Num:
        """Activation bytes of one batch of `max_batched_tokens`, or of the whole prefill if that is
        shorter.

        An engine packs tokens of several sequences into one row. Each sequence makes one row of
        logits."""
        tokens = least(batch_size * prompt_len, self.workload.max_batched_tokens)
        more_rows = least(tokens, batch_size) - 1
        logits = self.workload.element_bytes * self.spec.vocab_size
        return self._chunk(tokens) + more_rows * logits

    def _chunk(self, tokens: Num) -> Num:
        """Activation bytes of a chunk of one sequence, computed once per number of tokens."""
        if isinstance(tokens, np.ndarray):
            return one_shot_activations(self.costs, self._alone, tokens)
        known = self._chunks.get(tokens)
        if known is None:
            known = int(one_shot_activations(self.costs, self._alone, tokens))
            self._chunks[tokens] = known
        return known

    def at_once(self) -> int:
        """Activation bytes of a prefill of the whole batch at once."""
        prompt = self.workload.prefill_len
        if self.workload.batch_size == 1:
            return int(self._chunk(prompt))
        return int(one_shot_activations(self.costs, self.workload, prompt))

    def cache_bytes(self, context_len: Num) -> Num:
        """Exact bytes of one sequence's cache. Keys and values grow with the context; states do
        not."""
        growing = sum(n * layer.kv_bytes(context_len, self.workload) for layer, n in self._growing)
        return growing + self._states

    @cached_property
    def _growing(self) -> list[tuple[LayerCosts, int]]:
        """The layers that keep keys and values, with their numbers of occurrences in the stack."""
        return [(layer, n) for layer, n in self.costs.distinct() if layer.keeps_kv]

    @cached_property
    def _states(self) -> Num:
        """Bytes of all states and cached convolution inputs."""
        return sum(layer.n * layer.state_bytes for layer in self.layers)

    def forward_flops(self, seq_len: Num) -> list[Num]:
        """FLOPs of each distinct layer's forward pass over one sequence."""
        return self._flops_of(LayerCosts.forward_flops, seq_len)

    def decode_flops(self, context_len: Num) -> list[Num]:
        """FLOPs of each distinct layer's decode step of one sequence."""
        return self._flops_of(LayerCosts.decode_flops, context_len)

    def _flops_of(self, terms: _FlopsOf, length: Num) -> list[Num]:
        """The total of each distinct layer's terms, cached per int."""
        if isinstance(length, np.ndarray):
            return [total(terms(layer.costs, length)) for layer in self.layers]
        known = self._flops.get((terms, length))
        if known is None:
            known = [total(terms(layer.costs, length)) for layer in self.layers]
            self._flops[terms, length] = known
        return known

    def in_stack(self, per_layer: list[Num]) -> Num:
        """The sum over the stack of a figure given per distinct layer."""
        counted = zip(per_layer, self.layers, strict=True)
        return sum(layer.n * figure for figure, layer in counted)


def one_shot_activations(costs: ModelCosts, workload: Workload, prompt_len: Num) -> Num:
    """Bytes of activations at the peak of a prefill of the whole batch at once, through the eager
    operations of the modules. Weights and cache are not counted.

    The live tensors are the residual stream, the norm, those of the mixer or feed-forward, RoPE
    tables, and at the end one row of logits per sequence."""
    width = workload.element_bytes
    stream = prompt_len * costs.spec.d_model * width
    logits = width * costs.spec.vocab_size
    peak: Num = stream + logits
    for layer, _ in costs.distinct():
        # The stream and its norm. The mixer's output is at least as large as the stream.
        mixer = widest(layer.mixer.workspace(prompt_len, workload), stream)
        peak = widest(peak, 2 * stream + mixer)
        if layer.layer.ffn:
            # The stream before the block, the stream with the mixer's output, and its norm.
            feed_forward = widest(layer.ffn.workspace(prompt_len, width), stream)
            peak = widest(peak, 3 * stream + feed_forward)
    rope_tables = prompt_len * width * rope_table_width(costs)
    return workload.batch_size * peak + rope_tables


def rope_table_width(costs: ModelCosts) -> int:
    """Elements per position in all sine and cosine tables. Layers with equal settings share
    tables."""
    ropes = set()
    for layer, _ in costs.distinct():
        rope = getattr(layer.layer.mixer, "rope", None)
        if rope:
            ropes.add(rope)
    return sum(2 * dim for dim, *_ in ropes)


def size_words(n_bytes: int) -> str:
    """Bytes in GiB, or in MiB below 1 GiB."""
    if n_bytes >= 2**30:
        return f"{n_bytes / 2**30:,.1f} GiB"
    return f"{n_bytes / 2**20:,.1f} MiB"


class Refusal(NamedTuple):
    """Why a workload does not fit, in numbers, and the batch, context or dtype that would fit. An
    option that does not help is None."""

    needed_bytes: int
    available_bytes: int
    batch_size: int | None
    context_len: int | None
    weight_dtype: str | None

    def __str__(self) -> str:
        needed = size_words(self.needed_bytes)
        available = size_words(self.available_bytes)
        line = f"needs {needed}, {available} are available"
        options = []
        if self.batch_size:
            options.append(f"batch {self.batch_size}")
        if self.context_len:
            options.append(f"context {self.context_len:,}")
        if self.weight_dtype:
            options.append(f"weights in {self.weight_dtype}")
        if not options:
            return f"{line}; a smaller model is needed"
        return f"{line}; {' or '.join(options)} would fit"


def refusal(
    spec: ArchSpec,
    workload: Workload,
    available_bytes: int,
    weights_loaded: bool = False,
) -> Refusal | None:
    """None if the workload fits into `available_bytes`; else why it does not, and what would fit.

    `weights_loaded`: the weights are in memory already, and `available_bytes` is what is left."""

    def needed(**changes: object) -> int:
        used = memory(spec, workload.model_copy(update=changes))
        if weights_loaded:
            return int(used.cache + used.activations)
        return int(used.total)

    if needed() <= available_bytes:
        return None
    batch_size = largest(
        workload.batch_size,
        lambda n: needed(batch_size=n),
        available_bytes,
    )
    context_len = largest(
        workload.context_len,
        lambda n: needed(context_len=n),
        available_bytes,
    )
    narrower = None
    if workload.weight_dtype == "fp32":
        in_bf16 = needed(weight_dtype="bf16", kv_cache_dtype="bf16")
        narrower = "bf16" if in_bf16 <= available_bytes else None
    return Refusal(
        needed_bytes=needed(),
        available_bytes=available_bytes,
        batch_size=batch_size or None,
        context_len=context_len or None,
        weight_dtype=narrower,
    )


NARROWER: tuple[WeightFormat, ...] = ("bf16", "fp8", "int4")
CONTEXTS = 1024 * np.arange(1, 2**14 + 1)  # up to 16M tokens


def narrower_weights(
    serving: Serving,
    available_bytes: int,
    cache_bytes: int,
) -> str | None:
    """The widest format of NARROWER whose weights fit together with the cache, or None."""
    workload = serving.workload
    for dtype in NARROWER:
        narrower = Serving(serving.spec, workload.model_copy(update={"weight_dtype": dtype}))
        if narrower.weights >= serving.weights:
            continue
        fixed = narrower.fixed_bytes(workload.batch_size, workload.context_len)
        if fixed + cache_bytes <= available_bytes:
            return dtype
    return None


def room_for(
    spec: ArchSpec,
    workload: Workload,
    available_bytes: Sequence[int],
) -> list[int]:
    """For each memory size, the longest of CONTEXTS that fits for the whole batch; 0 if none
    does."""
    needed = np.broadcast_to(memory(spec, workload, CONTEXTS).total, CONTEXTS.shape)
    fitting = np.searchsorted(needed, available_bytes, side="right")
    longest = np.concatenate([[0], CONTEXTS])  # at index n: the longest context if n of them fit
    return [int(context) for context in longest[fitting]]


def largest(limit: int, needed: Callable[[int], int], available: int) -> int:
    """The largest n in 1..limit with needed(n) <= available; 0 if not even 1 fits. `needed` must
    not decrease with n.

    Memory is close to linear in n. So each guess is the point where a line through both ends of the
    open range reaches `available`, which takes two or three guesses. Every second guess halves the
    range, so steps and bends cost no more than bisection."""
    if limit < 1:
        return 0
    at_high = needed(limit)
    if at_high <= available:
        return limit
    at_low = needed(1)
    if at_low > available:
        return 0
    low = 1  # fits
    high = limit  # does not fit
    halve = False
    while high - low > 1:
        if halve:
            guess = (low + high) // 2
        else:
            guess = low + (available - at_low) * (high - low) // (at_high - at_low)
            guess = max(low + 1, min(high - 1, guess))
        used = needed(guess)
        gap = high - low
        if used <= available:
            low, at_low = guess, used
        else:
            high, at_high = guess, used
        halve = not halve and high - low > gap // 2
    return low
