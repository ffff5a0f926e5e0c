"""How a profile prefills its prompt: all at once if that fits in memory, else chunk by chunk.

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
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.shared_block import SharedBlockMixer
from hybrid_core.workload import Workload

# Tokens of one sequence. Every chunk reads all weights, and a smaller one would do little more work
# per read than a decode step.
SMALLEST_CHUNK = 64


class PrefillPlan(NamedTuple):
    """How to prefill a prompt, and the bytes that this needs on top of weights and cache."""

    chunk_tokens: int | None  # of each sequence at a time; None for all at once
    activations: int  # of this prefill
    one_shot_activations: int  # of a prefill of all tokens at once


def measurable(
    spec: ArchSpec,
    workload: Workload,
    available_bytes: int,
    weights_loaded: bool = False,
) -> Refusal | None:
    """Why a profile cannot decode this workload, or None if it can.

    It assumes a prefill in the smallest chunks. `weights_loaded`: see `refusal`.
    """
    chunk_of_batch = workload.batch_size * SMALLEST_CHUNK
    smallest = workload.model_copy(update={"max_batched_tokens": chunk_of_batch})
    return refusal(spec, smallest, available_bytes, weights_loaded)


def prefill_plan(spec: ArchSpec, workload: Workload, available_bytes: int) -> PrefillPlan:
    """How to prefill the workload's prompt in the memory that the weights left free.

    All tokens at once if that and the cache fit, else in chunks of the largest power of two that
    fits. Raises DoesNotFit.
    """
    costs = model_costs(spec)
    workload = workload.of(spec)
    prompt_len = workload.prefill_len
    sequence_bytes = costs.cache_bytes(prompt_len, "exact", workload)
    left = available_bytes - int(workload.batch_size * sequence_bytes)
    at_once = int(one_shot_activations(costs, workload, prompt_len))
    if at_once <= left:
        return PrefillPlan(None, at_once, at_once)
    needed = at_once
    for tokens in _chunks(prompt_len):
        needed = chunk_activations(costs, workload, tokens, prompt_len)
        if needed <= left:
            return PrefillPlan(tokens, needed, at_once)
    with_cache = needed + available_bytes - left
    raise DoesNotFit(
        f"{spec.name} at batch {workload.batch_size}, prompt {prompt_len:,}: "
        f"{SMALLEST_CHUNK} tokens at a time need {size_words(with_cache)} on top of the weights, "
        f"{size_words(available_bytes)} are available; use a shorter prompt or a smaller batch"
    )


def _chunks(prompt_len: int) -> Iterator[int]:
    """Powers of two below a prompt's length, largest first, down to the smallest chunk."""
    tokens = SMALLEST_CHUNK
    while 2 * tokens < prompt_len:
        tokens *= 2
    while SMALLEST_CHUNK <= tokens < prompt_len:
        yield tokens
        tokens //= 2


def chunk_activations(
    costs: ModelCosts,
    workload: Workload,
    chunk_tokens: int,
    prompt_len: int,
) -> int:
    """Bytes that the last chunk of a prompt needs on top of weights and cache: an upper estimate.

    It is the sum of three parts:
    - the bytes for a prompt of the chunk's length, by a closed form accurate to a few percent
    - rotary tables of the whole prompt, which may have grown to twice its length
    - the bytes that the widest attention layer needs for the tokens before the chunk
    """
    own = one_shot_activations(costs, workload, chunk_tokens)
    table_width = rope_table_width(costs)
    tables = 2 * prompt_len * workload.element_bytes * table_width
    past = 0
    for layer, _ in costs.distinct():
        of_layer = _past_bytes(layer, workload, chunk_tokens, prompt_len)
        past = max(past, of_layer)
    return int(own + tables + past)


def _past_bytes(
    layer: LayerCosts,
    workload: Workload,
    chunk_tokens: int,
    prompt_len: int,
) -> int:
    """Bytes of copied keys and values, and of the mask between a chunk and the tokens before it."""
    heads = _attention_heads(layer)
    if heads is None:
        return 0
    n_queries = chunk_tokens
    n_keys = prompt_len
    window = getattr(heads, "window", None)
    if window is not None:
        # kernels/attention/eager.py processes queries in blocks, each over the keys that it can
        # reach.
        n_queries = min(chunk_tokens, max(64, window // 4))
        reachable = getattr(heads, "sink", 0) + window + chunk_tokens
        n_keys = min(prompt_len, reachable)
    copied_elements = (
        workload.batch_size * n_keys * heads.n_kv_heads * _copied_width(heads, workload)
    )
    element_bytes = workload.element_bytes
    # The mask combines two boolean masks and is then converted to numbers. Indices and positions of
    # the keys take 8 bytes each.
    mask_bytes = n_queries * n_keys * (2 + element_bytes)
    position_bytes = 16 * n_keys
    return copied_elements * element_bytes + mask_bytes + position_bytes


def _attention_heads(layer: LayerCosts) -> AttentionMixer | None:
    """The attention of a layer, including one inside a shared block; None if there is none."""
    mixer = layer.layer.mixer
    if isinstance(mixer, SharedBlockMixer):
        return mixer.attention
    return key_value_heads(layer.layer)


def _copied_width(heads: AttentionMixer, workload: Workload) -> int:
    """Channels of a token's key and value that are copied, per key/value head.

    The operation needs keys and values in its own dtype and at the same width, the larger of the
    two. A window is gathered from the ring buffer, so it is always a copy.
    """
    has_window = getattr(heads, "window", None) is not None
    widest = max(heads.head_dim, getattr(heads, "pair_width", heads.v_head_dim))
    width = 0
    if has_window or workload.kv_cache_dtype != workload.product_dtype:
        width += heads.head_dim + heads.v_head_dim
    if has_window or heads.head_dim != widest or heads.v_head_dim != widest:
        width += 2 * widest
    return width
