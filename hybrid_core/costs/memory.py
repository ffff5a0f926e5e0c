"""Device memory of a workload: weights, cache and activations, and what would fit where it does not."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hybrid_core.costs import ffn
from hybrid_core.costs.model import ModelCosts, model_costs
from hybrid_core.costs.terms import Num, lengths, widest
from hybrid_core.spec import ArchSpec
from hybrid_core.workload import DTYPE_BYTES, Workload


class Memory(NamedTuple):
    """Bytes. `activations`: the tensors alive at the widest moment of the prefill through the modules' eager operations; all exact."""

    weights: Num
    cache: Num
    activations: Num

    @property
    def total(self) -> Num:
        return self.weights + self.cache + self.activations


def memory(spec: ArchSpec, workload: Workload, context_len: Num = None) -> Memory:
    """Memory of an inference workload; `context_len` (an int or an array) stands in for the workload's when given."""
    costs, width = model_costs(spec), DTYPE_BYTES[workload.weight_dtype]
    context = workload.context_len if context_len is None else lengths(context_len)
    cache = workload.batch_size * costs.cache_bytes(context, "exact", workload)
    prompt = workload.prefill_len if context_len is None else context
    return Memory(costs.params().total * width, cache, activations(costs, workload, prompt))


def activations(costs: ModelCosts, workload: Workload, seq_len: Num) -> Num:
    """Bytes of the tensors that the prefill of a batch into its cache holds at its widest moment, beside weights and cache: the residual
    stream before and inside the block, the norm, and the widest moment of the widest part; rotary tables; a row of logits."""
    width, d_model = DTYPE_BYTES[workload.weight_dtype], costs.spec.d_model
    stream = seq_len * d_model * width
    per_sequence: Num = stream + width * costs.spec.vocab_size
    for layer, _ in costs.distinct():
        mixer = 2 * stream + widest(layer.mixer.workspace(seq_len, workload), stream)
        feed_forward = 3 * stream + widest(ffn.workspace(layer.layer.ffn, d_model, seq_len, width), stream)
        per_sequence = widest(per_sequence, mixer, feed_forward if layer.layer.ffn else 0)
    return workload.batch_size * per_sequence + seq_len * width * rope_table_width(costs)


def rope_table_width(costs: ModelCosts) -> int:
    """Elements per position of all sine and cosine tables; layers with the same settings share one."""
    ropes = {rope for layer, _ in costs.distinct() if (rope := getattr(layer.layer.mixer, "rope", None))}
    return sum(2 * dim for dim, *_ in ropes)


class Refusal(NamedTuple):
    """Why a workload does not fit, in numbers, and what would: each None where nothing helps."""

    needed_bytes: int
    available_bytes: int
    batch_size: int | None
    context_len: int | None
    weight_dtype: str | None

    def __str__(self) -> str:
        gib = 2**30
        line = f"needs {self.needed_bytes / gib:,.1f} GiB, {self.available_bytes / gib:,.1f} GiB are available"
        options = [
            f"batch {self.batch_size}" if self.batch_size else "",
            f"context {self.context_len:,}" if self.context_len else "",
            f"weights in {self.weight_dtype}" if self.weight_dtype else "",
        ]
        would = " or ".join(option for option in options if option)
        return line + (f"; {would} would fit" if would else "; a smaller model is needed")


def refusal(spec: ArchSpec, workload: Workload, available_bytes: int) -> Refusal | None:
    """None if the workload fits into `available_bytes`, else the numbers and the largest batch, context or dtype that would fit."""

    def needed(changes: dict[str, object]) -> int:
        return int(memory(spec, workload.model_copy(update=changes)).total)

    if needed({}) <= available_bytes:
        return None
    batch = largest(workload.batch_size, lambda n: needed({"batch_size": n}) <= available_bytes)
    context = largest(workload.context_len, lambda n: needed({"context_len": n}) <= available_bytes)
    half = {"weight_dtype": "bf16", "kv_cache_dtype": "bf16"}
    dtype = "bf16" if workload.weight_dtype == "fp32" and needed(dict(half)) <= available_bytes else None
    return Refusal(needed({}), available_bytes, batch, context, dtype)


CONTEXTS = 1024 * np.arange(1, 2**14 + 1)  # up to 16M tokens


def room_for(spec: ArchSpec, workload: Workload, available_bytes: Sequence[int]) -> list[int]:
    """For each size of memory the longest of CONTEXTS whose weights and cache fit for the whole batch; 0 if none does."""
    used = memory(spec, workload, CONTEXTS)
    needed = np.broadcast_to(used.weights + used.cache, CONTEXTS.shape)
    fitting = np.searchsorted(needed, available_bytes, side="right")
    return [int(CONTEXTS[n - 1]) if n else 0 for n in fitting]


def largest(limit: int, fits: Callable[[int], bool]) -> int | None:
    """The largest n in 1..limit with fits(n), assuming that it fits below and not above; None if not even 1 fits."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low or None
