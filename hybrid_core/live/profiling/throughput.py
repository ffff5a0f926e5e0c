"""Prefill and decode speed of a live model, by the paper's protocol as far as time allows.

The paper (arXiv 2510.04800, Appendix J) generates from a prompt of 512 to a total length, batch 4,
and divides the generated tokens by the time. The time of a step depends only on the context. So we
time steps at several contexts and integrate over them to get the time of the whole generation
(generation.py). This gives the same figure without generating every token.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid_core.live.modules.cache import TORCH_DTYPES, Cache
from hybrid_core.live.modules.generate import prefilled
from hybrid_core.live.modules.model import HybridLM
from hybrid_core.live.profiling.device import synchronise


@dataclass
class Timing:
    """Seconds of each repeat of the same work."""

    seconds: list[float]

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    def as_dict(self) -> dict[str, float | int]:
        return {
            "median_s": self.median_s,
            "min_s": min(self.seconds),
            "max_s": max(self.seconds),
            "repeats": len(self.seconds),
        }


@torch.inference_mode()
def repeat(
    work: Callable[[], object],
    device: torch.device,
    budget_s: float,
    most: int,
    least: int = 1,
) -> Timing:
    """Time `work` repeatedly until `budget_s` is spent, without gradients.

    `work` is timed at least `least` and at most `most` times. The budget includes an untimed first
    call, in which kernels are compiled, libraries choose their algorithms, and memory is touched
    for the first time.
    """
    begun = time.perf_counter()
    work()
    synchronise(device)
    seconds: list[float] = []
    while len(seconds) < most:
        if len(seconds) >= least:
            spent_s = time.perf_counter() - begun
            if spent_s + seconds[-1] > budget_s:
                break
        started = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return Timing(seconds)


def prefill_work(
    model: HybridLM,
    batch: int,
    prompt_len: int,
    kv: str,
    state: str,
    chunk_tokens: int | None = None,
) -> Callable[[], None]:
    """A function that prefills `batch` random prompts into a fresh cache.

    It reads all tokens at once, or `chunk_tokens` of each prompt at a time. `kv` and `state` are
    the dtypes of the cache.
    """
    device = model.embed.weight.device
    tokens = torch.randint(
        model.spec.vocab_size,
        (batch, prompt_len),
        device=device,
    )

    @torch.inference_mode()
    def once() -> None:
        cache = model.new_cache(
            batch,
            prompt_len,
            TORCH_DTYPES[kv],
            TORCH_DTYPES[state],
        )
        prefilled(model, tokens, cache, chunk_tokens)

    return once


def prefill(
    work: Callable[[], object],
    device: torch.device,
    budget_s: float,
) -> Timing:
    """Time `prefill_work`. The untimed first call covers every chunk shape."""
    return repeat(work, device, budget_s, most=5)


def filled_cache(
    model: HybridLM,
    batch: int,
    capacity: int,
    kv: str,
    state: str,
) -> Cache:
    """A cache whose memory has been written, so that reading it takes as long as in real use.

    Pages that were never written may all be backed by the same memory.
    """
    cache = model.new_cache(
        batch,
        capacity,
        TORCH_DTYPES[kv],
        TORCH_DTYPES[state],
    )
    for tensor in cache.tensors():
        tensor.fill_(0.01)
    return cache


def step_work(
    step_from: Callable[[Tensor], Tensor],
    cache: Cache,
    context_len: int,
) -> Callable[[], None]:
    """A function that generates token number `context_len` of each sequence, again at every call.

    `step_from` is a `modules.decode.decoder` over `cache`.
    """
    any_tensor = next(cache.tensors())
    batch_size = any_tensor.shape[0]
    token = torch.zeros(
        batch_size,
        1,
        dtype=torch.long,
        device=any_tensor.device,
    )

    @torch.inference_mode()
    def step() -> None:
        nonlocal token
        cache.length = context_len - 1
        logits = step_from(token)
        last_logits = logits[:, -1]
        token = last_logits.argmax(-1, keepdim=True)

    return step


def decode_steps(
    step: Callable[[], None],
    device: torch.device,
    budget_s: float,
) -> Timing:
    """Time `step_work`: at least two steps."""
    return repeat(step, device, budget_s, most=50, least=2)
