"""Prefill and decode speed of a live model, after the paper's protocol as far as a time budget allows.

The paper (Appendix J) generates from a prompt of 512 to a total length, batch 4, and divides generated tokens by the time. A step's
time depends on the context alone, so here steps are timed at several contexts and the time of the whole generation is their integral:
the same figure, without generating every token. What was done is in the result.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hybrid_core.modules.cache import TORCH_DTYPES, Cache
from hybrid_core.modules.model import HybridLM
from hybrid_core.profiling.device import synchronise


@dataclass
class Timing:
    """Seconds of repeated work: the median, and the spread as the lowest and highest."""

    seconds: list[float]

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    def as_dict(self) -> dict[str, float | int]:
        return {"median_s": self.median_s, "min_s": min(self.seconds), "max_s": max(self.seconds), "repeats": len(self.seconds)}


def repeat(work: Callable[[], object], device: torch.device, budget_s: float, most: int, least: int = 1) -> Timing:
    """Time `work` until `budget_s` is spent, at least `least` and at most `most` times. The caller has warmed up."""
    seconds: list[float] = []
    while len(seconds) < least or (len(seconds) < most and sum(seconds) + seconds[-1] <= budget_s):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return Timing(seconds)


@torch.inference_mode()
def prefill(model: HybridLM, batch: int, prompt_len: int, kv: str, state: str, budget_s: float) -> Timing:
    """Prefill of `batch` prompts into a fresh cache each time. The first repeat is warm-up unless the budget holds only one."""
    device = model.embed.weight.device
    tokens = torch.randint(model.spec.vocab_size, (batch, prompt_len), device=device)

    def once() -> None:
        cache = model.new_cache(batch, prompt_len, TORCH_DTYPES[kv], TORCH_DTYPES[state])
        model(tokens, cache, last_only=True)

    first = repeat(once, device, 0, most=1)
    left = budget_s - first.median_s
    return repeat(once, device, left, most=5) if left > first.median_s else first


def filled_cache(model: HybridLM, batch: int, capacity: int, kv: str, state: str) -> Cache:
    """A cache whose memory has really been written, so that reading it costs what it costs."""
    cache = model.new_cache(batch, capacity, TORCH_DTYPES[kv], TORCH_DTYPES[state])
    for tensor in cache.tensors():
        tensor.fill_(0.01)
    return cache


@torch.inference_mode()
def decode_steps(step_from: Callable[[Tensor], Tensor], cache: Cache, context_len: int, budget_s: float) -> Timing:
    """Steps of one token per sequence whose new token is number `context_len`, by a `modules.decode.decoder` over `cache`. One warm-up
    step, then at least two are timed."""
    held = next(cache.tensors())
    token = torch.zeros(held.shape[0], 1, dtype=torch.long, device=held.device)

    def step() -> None:
        nonlocal token
        cache.length = context_len - 1
        token = step_from(token)[:, -1].argmax(-1, keepdim=True)

    step()
    return repeat(step, held.device, budget_s, most=50, least=2)


def generation(points: list[tuple[int, float]], prompt_len: int, total_len: int, batch: int) -> dict[str, float]:
    """Tokens/s and latency of generating from `prompt_len` to `total_len`, from (context, seconds per step) points.

    Between points the step's time is taken as linear in the context, which attention's reads are; outside them it is constant.
    """
    contexts, seconds = (np.array(column, dtype=float) for column in zip(*sorted(points), strict=True))
    grid = np.unique(np.concatenate([[prompt_len, total_len], contexts[(contexts > prompt_len) & (contexts < total_len)]]))
    latency_s = float(np.trapezoid(np.interp(grid, contexts, seconds), grid))
    return {"tokens_per_s": batch * (total_len - prompt_len) / latency_s, "latency_s": latency_s}
