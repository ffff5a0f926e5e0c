"""How a profile prefills its prompt: all at once where that fits in memory, else chunk by chunk.

No torch.
"""

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

# Tokens of one sequence. A smaller chunk would read all weights for hardly more work than a decode
# step does.
SMALLEST_CHUNK = 64


class PrefillPlan(NamedTuple):
    """How a prompt is prefilled, and the bytes that this needs beside weights and cache."""

    chunk_tokens: int | None  # of each sequence at a time; None for all at once
    activations: int
    one_shot_activations: int


def measurable(
    spec: ArchSpec,
    workload: Workload,
    available_bytes: int,
    weights_loaded: bool = False,
) -> Refusal | None:
    """Why a profile cannot decode this workload, or None if it can.

    The prompt is prefilled in the smallest chunks. `weights_loaded`: see `refusal`.
    """
    chunk = workload.batch_size * SMALLEST_CHUNK
    smallest = workload.model_copy(update={"max_batched_tokens": chunk})
    return refusal(spec, smallest, available_bytes, weights_loaded)


def prefill_plan(spec: ArchSpec, workload: Workload, available_bytes: int) -> PrefillPlan:
    """How to prefill the workload's prompt in the memory that the weights left free.

    All at once if that fits beside the cache, else in chunks of the largest power of two that does.
    Raises DoesNotFit.
    """
    costs = model_costs(spec)
    workload = workload.of(spec)
    prompt_len = workload.prefill_len
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
        f"{spec.name} at batch {workload.batch_size}, prompt {prompt_len:,}: "
        f"{SMALLEST_CHUNK} tokens at a time need {size_words(cache + needed)} beside the weights, "
        f"{size_words(available_bytes)} are available; use a shorter prompt or a smaller batch"
    )


def _chunks(prompt_len: int) -> Iterator[int]:
    """Powers of two below a prompt's length, the largest first, down to the smallest chunk."""
    if prompt_len <= 1:
        return
    tokens = 1 << (prompt_len - 1).bit_length() - 1
    while tokens >= SMALLEST_CHUNK:
        yield tokens
        tokens //= 2


def chunk_activations(
    costs: ModelCosts,
    workload: Workload,
    chunk_tokens: int,
    prompt_len: int,
) -> int:
    """Bytes that the last chunk of a prompt holds beside weights and cache: an upper estimate.

    It is the sum of three parts:
    - what a prompt of the chunk's length would hold, by a closed form that is right to some percent
    - rotary tables of the whole prompt, which may have grown to twice its length
    - what attention makes of the tokens before the chunk
    """
    own = one_shot_activations(costs, workload, chunk_tokens)
    tables = 2 * prompt_len * workload.element_bytes * rope_table_width(costs)
    past = 0
    for layer, _ in costs.distinct():
        past = max(past, _past_bytes(layer, workload, chunk_tokens, prompt_len))
    return int(own + tables + past)


def _past_bytes(
    layer: LayerCosts,
    workload: Workload,
    chunk_tokens: int,
    prompt_len: int,
) -> int:
    """Bytes of copied keys and values, and of the mask between a chunk and the tokens before it.

    The operation wants keys and values in its own dtype and of one width. The mask is made as
    booleans and then as numbers.
    """
    mixer = layer.layer.mixer
    heads = mixer.attention if isinstance(mixer, SharedBlockMixer) else key_value_heads(layer.layer)
    if heads is None:
        return 0
    element_bytes = workload.element_bytes
    window = getattr(heads, "window", None)
    n_queries = chunk_tokens
    n_keys = prompt_len
    if window is not None:
        # The queries go in blocks, each over the keys that it can reach.
        n_queries = min(chunk_tokens, max(64, window // 4))
        reachable = getattr(heads, "sink", 0) + window + chunk_tokens
        n_keys = min(prompt_len, reachable)
    widest = max(heads.head_dim, getattr(heads, "pair_width", heads.v_head_dim))
    copied_width = 0
    if window is not None or workload.kv_cache_dtype != workload.product_dtype:
        copied_width += heads.head_dim + heads.v_head_dim
    if window is not None or heads.head_dim != widest or heads.v_head_dim != widest:
        copied_width += 2 * widest
    n_copied = workload.batch_size * n_keys * heads.n_kv_heads * copied_width
    mask_bytes = n_queries * n_keys * (2 + element_bytes)
    return n_copied * element_bytes + mask_bytes + 16 * n_keys
