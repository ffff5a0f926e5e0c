"""Device memory of a workload: weights, cache and activations, what fits an accelerator, and what
would fit where it does not.

Serving prefills in chunks, so what counts is one batch of `max_batched_tokens`. A prefill of the
whole batch at once, as the modules can do it, is a figure of its own."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hybrid_core.costs.model import ModelCosts, model_costs
from hybrid_core.costs.weights import weight_bytes
from hybrid_core.design.spec import ArchSpec
from hybrid_core.stored import WeightFormat
from hybrid_core.terms import Num, least, lengths, widest
from hybrid_core.workload import Workload


class Memory(NamedTuple):
    """Bytes. `activations`: the tensors alive at the widest moment of one chunk of the prefill."""

    weights: Num
    cache: Num
    activations: Num

    @property
    def total(self) -> Num:
        return self.weights + self.cache + self.activations


def memory(spec: ArchSpec, workload: Workload, context_len: Num = None) -> Memory:
    """Memory of serving a workload; `context_len` (an int or an array) stands in for the workload's
    when given."""
    context = workload.context_len if context_len is None else lengths(context_len)
    cache = workload.batch_size * model_costs(spec).cache_bytes(context, "exact", workload)
    prompt = workload.prefill_len if context_len is None else context
    serving = Serving(spec, workload)
    return Memory(serving.weights, cache, serving.activations(workload.batch_size, prompt))


class Serving:
    """What serving a design holds beside its cache: weights, and one chunk of the prefill."""

    def __init__(self, spec: ArchSpec, workload: Workload) -> None:
        self.costs, self.workload = model_costs(spec), workload.of(spec)
        self.weights = weight_bytes(spec, workload).total
        self._alone = self.workload.model_copy(update={"batch_size": 1})
        self._chunks: dict[int, int] = {}

    def fixed_bytes(self, batch_size: int, context_len: int) -> int:
        """Weights and activations of so many sequences, whose prompts are as long as the workload's
        or the context."""
        prompt_len = min(self.workload.prompt_len or context_len, context_len)
        return self.weights + int(self.activations(batch_size, prompt_len))

    def activations(self, batch_size: int, prompt_len: Num) -> Num:
        """Bytes of the tensors that one batch of `max_batched_tokens` holds, or of the whole
        prefill where that is shorter.

        Tokens of several sequences stand in one row, as an engine packs them; each sequence makes
        one row of logits."""
        tokens = least(batch_size * prompt_len, self.workload.max_batched_tokens)
        more_rows = least(tokens, batch_size) - 1
        logits = self.workload.element_bytes * self.costs.spec.vocab_size
        return self._chunk(tokens) + more_rows * logits

    def _chunk(self, tokens: Num) -> Num:
        """The activations of so many tokens of one sequence, worked out once for each number."""
        if isinstance(tokens, np.ndarray):
            return one_shot_activations(self.costs, self._alone, tokens)
        if tokens not in self._chunks:
            self._chunks[tokens] = int(one_shot_activations(self.costs, self._alone, tokens))
        return self._chunks[tokens]


def one_shot_activations(costs: ModelCosts, workload: Workload, prompt_len: Num) -> Num:
    """Bytes of the tensors that the prefill of a batch into its cache, all of it at once through
    the modules' eager operations, holds at its widest moment, beside weights and cache: the
    residual stream before and inside the block, the norm, and the widest moment of the widest part;
    rotary tables; a row of logits a sequence."""
    width, d_model = workload.element_bytes, costs.spec.d_model
    stream = prompt_len * d_model * width
    per_sequence: Num = stream + width * costs.spec.vocab_size
    for layer, _ in costs.distinct():
        mixer = 2 * stream + widest(layer.mixer.workspace(prompt_len, workload), stream)
        feed_forward = 3 * stream + widest(layer.ffn.workspace(prompt_len, width), stream)
        per_sequence = widest(per_sequence, mixer, feed_forward if layer.layer.ffn else 0)
    return workload.batch_size * per_sequence + prompt_len * width * rope_table_width(costs)


def rope_table_width(costs: ModelCosts) -> int:
    """Elements per position of all sine and cosine tables; layers with the same settings share
    one."""
    ropes = {
        rope for layer, _ in costs.distinct() if (rope := getattr(layer.layer.mixer, "rope", None))
    }
    return sum(2 * dim for dim, *_ in ropes)


def size_words(n_bytes: int) -> str:
    """Bytes in GiB, or in MiB where that would be next to nothing."""
    return f"{n_bytes / 2**30:,.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.1f} MiB"


class Refusal(NamedTuple):
    """Why a workload does not fit, in numbers, and what would: each None where nothing helps."""

    needed_bytes: int
    available_bytes: int
    batch_size: int | None
    context_len: int | None
    weight_dtype: str | None

    def __str__(self) -> str:
        line = f"needs {size_words(self.needed_bytes)}, {size_words(self.available_bytes)} are available"
        options = [
            f"batch {self.batch_size}" if self.batch_size else "",
            f"context {self.context_len:,}" if self.context_len else "",
            f"weights in {self.weight_dtype}" if self.weight_dtype else "",
        ]
        would = " or ".join(option for option in options if option)
        return line + (f"; {would} would fit" if would else "; a smaller model is needed")


def refusal(
    spec: ArchSpec, workload: Workload, available_bytes: int, weights_loaded: bool = False
) -> Refusal | None:
    """None if the workload fits into `available_bytes`, else the numbers and the largest batch,
    context or dtype that would fit.

    `weights_loaded`: they are in memory already, and `available_bytes` is what they left.
    """

    def needed(**changes: object) -> int:
        used = memory(spec, workload.model_copy(update=changes))
        return int(used.total - (used.weights if weights_loaded else 0))

    if needed() <= available_bytes:
        return None
    batch = largest(workload.batch_size, lambda n: needed(batch_size=n) <= available_bytes)
    context = largest(workload.context_len, lambda n: needed(context_len=n) <= available_bytes)
    narrower = (
        workload.weight_dtype == "fp32"
        and needed(weight_dtype="bf16", kv_cache_dtype="bf16") <= available_bytes
    )
    return Refusal(needed(), available_bytes, batch, context, "bf16" if narrower else None)


def narrower_weights(
    spec: ArchSpec, workload: Workload, available_bytes: int, cache_bytes: int
) -> str | None:
    """The widest format of NARROWER whose weights fit beside the cache, or None."""
    now = weight_bytes(spec, workload).total
    for dtype in NARROWER:
        serving = Serving(spec, workload.model_copy(update={"weight_dtype": dtype}))
        if (
            serving.weights < now
            and serving.fixed_bytes(workload.batch_size, workload.context_len) + cache_bytes
            <= available_bytes
        ):
            return dtype
    return None


NARROWER: tuple[WeightFormat, ...] = ("bf16", "fp8", "int4")
CONTEXTS = 1024 * np.arange(1, 2**14 + 1)  # up to 16M tokens


def room_for(spec: ArchSpec, workload: Workload, available_bytes: Sequence[int]) -> list[int]:
    """For each size of memory the longest of CONTEXTS that fits for the whole batch; 0 if none
    does."""
    needed = np.broadcast_to(memory(spec, workload, CONTEXTS).total, CONTEXTS.shape)
    fitting = np.searchsorted(needed, available_bytes, side="right")
    return [int(CONTEXTS[n - 1]) if n else 0 for n in fitting]


def largest(limit: int, fits: Callable[[int], bool]) -> int | None:
    """The largest n in 1..limit with fits(n), assuming that it fits below and not above; None if
    not even 1 fits."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low or None
