"""What the profile holds in memory, and how it has to prefill for that: all at once where that
fits, else chunk by chunk. No torch."""

from collections.abc import Iterator
from typing import NamedTuple

from hybrid_core.costs.memory import (
    Refusal,
    one_shot_activations,
    refusal,
    rope_table_width,
    size_words,
)
from hybrid_core.costs.model import LayerCosts, ModelCosts, model_costs
from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import key_value_heads
from hybrid_core.live.profiling.job import DoesNotFit
from hybrid_core.mixers.shared_block import SharedBlockMixer
from hybrid_core.workload import Workload

# Tokens of a sequence. With fewer a chunk reads all weights for hardly more work than a decode
# step.
SMALLEST_CHUNK = 64


class PrefillPlan(NamedTuple):
    """How a prompt is prefilled: `chunk_tokens` of each sequence at a time, None for all at once.
    Bytes beside weights and cache."""

    chunk_tokens: int | None
    activations: int
    one_shot_activations: int


def measurable(
    spec: ArchSpec, workload: Workload, available_bytes: int, weights_loaded: bool = False
) -> Refusal | None:
    """None if the profile can decode a workload whose prompt it prefills in the smallest chunks,
    else why not. `weights_loaded`: see `refusal`."""
    smallest = workload.model_copy(
        update={"max_batched_tokens": workload.batch_size * SMALLEST_CHUNK}
    )
    return refusal(spec, smallest, available_bytes, weights_loaded)


def prefill_plan(spec: ArchSpec, workload: Workload, available_bytes: int) -> PrefillPlan:
    """How to prefill the workload's prompt beside its cache in what the weights left free: the
    largest power of two that fits. Raises DoesNotFit."""
    costs, workload, prompt_len = model_costs(spec), workload.of(spec), workload.prefill_len
    cache = int(workload.batch_size * costs.cache_bytes(prompt_len, "exact", workload))
    at_once = int(one_shot_activations(costs, workload, prompt_len))
    if cache + at_once <= available_bytes:
        return PrefillPlan(None, at_once, at_once)
    needed = at_once
    for tokens in _chunks(prompt_len):
        needed = chunk_activations(costs, workload, tokens, prompt_len)
        if cache + needed <= available_bytes:
            return PrefillPlan(tokens, needed, at_once)
    raise DoesNotFit(
        f"{spec.name} at batch {workload.batch_size}, prompt {prompt_len:,}: {SMALLEST_CHUNK} tokens at a time need "
        f"{size_words(cache + needed)} beside the weights, {size_words(available_bytes)} are available; use a shorter prompt or a "
        "smaller batch"
    )


def _chunks(prompt_len: int) -> Iterator[int]:
    """Powers of two below a prompt's length, the largest first, down to the smallest chunk."""
    tokens = 1 << (prompt_len - 1).bit_length() - 1 if prompt_len > 1 else 0
    while tokens >= SMALLEST_CHUNK:
        yield tokens
        tokens //= 2


def chunk_activations(
    costs: ModelCosts, workload: Workload, chunk_tokens: int, prompt_len: int
) -> int:
    """Bytes that the last chunk of a prompt holds beside weights and cache, rather too many than
    too few: what a prompt of its own length would (a closed form that is right to some percent),
    rotary tables of the whole prompt, which may have grown to twice that, and what attention makes
    of the tokens before it."""
    own = one_shot_activations(costs, workload, chunk_tokens)
    tables = 2 * prompt_len * workload.element_bytes * rope_table_width(costs)
    past = max(
        (_past_bytes(layer, workload, chunk_tokens, prompt_len) for layer, _ in costs.distinct()),
        default=0,
    )
    return int(own + tables + past)


def _past_bytes(layer: LayerCosts, workload: Workload, chunk_tokens: int, prompt_len: int) -> int:
    """Keys and values as the operation wants them, and the mask (booleans, then numbers) between a
    chunk and the tokens before it."""
    mixer = layer.layer.mixer
    heads = mixer.attention if isinstance(mixer, SharedBlockMixer) else key_value_heads(layer.layer)
    if heads is None:
        return 0
    width = workload.element_bytes
    window = getattr(heads, "window", None)
    queries, keys = chunk_tokens, prompt_len
    if window is not None:  # queries go in blocks, each over the keys that it can reach
        queries = min(chunk_tokens, max(64, window // 4))
        keys = min(prompt_len, getattr(heads, "sink", 0) + window + chunk_tokens)
    widest = max(heads.head_dim, getattr(heads, "pair_width", heads.v_head_dim))
    copies = 0
    if window is not None or workload.kv_cache_dtype != workload.product_dtype:
        copies += heads.head_dim + heads.v_head_dim
    if window is not None or heads.head_dim != widest or heads.v_head_dim != widest:
        copies += 2 * widest
    return (
        workload.batch_size * keys * heads.n_kv_heads * copies * width
        + queries * keys * (2 + width)
        + 16 * keys
    )
