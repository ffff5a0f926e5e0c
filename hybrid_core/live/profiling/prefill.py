"""Timing the prefill of a profile's prompt, or of as much of it as the budget allows."""

import time
from collections.abc import Callable
from typing import NamedTuple

from hybrid_core.costs.memory import memory
from hybrid_core.live.modules.model import HybridLM
from hybrid_core.live.profiling import throughput
from hybrid_core.live.profiling.live_memory import LiveTensors
from hybrid_core.live.profiling.room import SMALLEST_CHUNK, PrefillPlan, prefill_plan
from hybrid_core.live.profiling.session import Session
from hybrid_core.results import profile as results
from hybrid_core.speed.hardware import Hardware
from hybrid_core.speed.roofline import predict
from hybrid_core.workload import Workload

# Prefill's share of the time left when it starts.
PREFILL_SHARE = 0.4
# Share of the time for prefill. A shorter trial says little about the time for more tokens.
TRIAL_SHARE = 0.01


class Prefilled(NamedTuple):
    """What the memory part reports about the prefill."""

    plan: PrefillPlan
    activations: results.LiveActivations


class PrefillTimer:
    """Measures prefill, stores the part `prefill`, and reads the energy meter."""

    def __init__(self, session: Session, hardware: Hardware) -> None:
        self.session = session
        self.hardware = hardware

    def measure(self, model: HybridLM) -> Prefilled:
        """Prefill of the protocol's prompt, or of as much of it as the budget allows."""
        self.session.report(0.2, "Measuring prefill")
        budget_s = self.session.left_s * PREFILL_SHARE
        end = time.monotonic() + budget_s
        free = self.session.free_bytes()
        activations = self._activations(model, min(SMALLEST_CHUNK, self.session.prompt))
        batch, prompt = self.affordable_prompt(model, budget_s, free)
        workload = self.session.options.workload(prompt, batch, prompt)
        plan = prefill_plan(self.session.spec, workload, free)
        work = self._work(model, batch, prompt, plan)
        left_s = end - time.monotonic()
        timing = throughput.prefill(work, self.session.device, left_s)
        self._put(workload, timing, plan.chunk_tokens)
        self.session.energy.measure(
            "prefill",
            work,
            batch * prompt,
            end - time.monotonic(),
            batch_size=batch,
            context_len=prompt,
        )
        return Prefilled(plan, activations)

    def _work(
        self,
        model: HybridLM,
        batch: int,
        prompt: int,
        plan: PrefillPlan,
    ) -> Callable[[], None]:
        return throughput.prefill_work(
            model,
            batch,
            prompt,
            self.session.kv_dtype,
            self.session.state_dtype,
            plan.chunk_tokens,
        )

    def _put(
        self,
        workload: Workload,
        timing: throughput.Timing,
        chunk_tokens: int | None,
    ) -> None:
        """The measured prefill, with its prediction."""
        batch = workload.batch_size
        prompt = workload.prefill_len
        predicted = predict(self.session.spec, workload, self.hardware)
        asked = (self.session.batch, self.session.prompt)
        part = results.Prefill(
            median_s=timing.median_s,
            min_s=min(timing.seconds),
            max_s=max(timing.seconds),
            repeats=len(timing.seconds),
            convention="measured",
            batch_size=batch,
            prompt_len=prompt,
            chunk_tokens=chunk_tokens,
            tokens_per_s=batch * prompt / timing.median_s,
            predicted_tokens_per_s=float(predicted.prefill_tokens_per_s),
            shortened=(batch, prompt) != asked,
        )
        self.session.put(part)

    def affordable_prompt(
        self,
        model: HybridLM,
        budget_s: float,
        free_bytes: int,
    ) -> tuple[int, int]:
        """Batch and prompt that can be prefilled twice within the budget.

        They follow from the time that one sequence takes. It starts with a short one and tries
        longer ones while they take next to no time. A GPU takes as long for a few tokens as for
        many.
        """
        length = min(SMALLEST_CHUNK, self.session.prompt)
        shortest = length
        seconds = self._trial_s(model, length, free_bytes)
        while seconds < TRIAL_SHARE * budget_s and length < self.session.prompt:
            length = min(4 * length, self.session.prompt)
            seconds = self._trial_s(model, length, free_bytes)
        token_s = seconds / length
        batch = self.session.batch
        prompt = self.session.prompt
        while 2 * batch * prompt * token_s > budget_s and batch > 1:
            batch //= 2
        while 2 * batch * prompt * token_s > budget_s and prompt > shortest:
            prompt //= 2
        return batch, prompt

    def _trial_s(
        self,
        model: HybridLM,
        length: int,
        free_bytes: int,
    ) -> float:
        """Seconds to prefill one sequence of `length` tokens."""
        workload = self.session.options.workload(length, 1, length)
        plan = prefill_plan(self.session.spec, workload, free_bytes)
        work = self._work(model, 1, length, plan)
        timing = throughput.prefill(work, self.session.device, 0)
        return timing.median_s

    def _activations(self, model: HybridLM, prompt_len: int) -> results.LiveActivations:
        """Peak bytes of the tensors in a short prefill, with the closed form. Also warms up."""
        work = throughput.prefill_work(
            model,
            1,
            prompt_len,
            self.session.kv_dtype,
            self.session.state_dtype,
        )
        with LiveTensors() as live:
            work()
        workload = self.session.options.workload(prompt_len, 1, prompt_len)
        exact = memory(self.session.spec, workload)
        return results.LiveActivations(
            prompt_len=prompt_len,
            live_bytes=live.peak_bytes,
            exact_bytes=int(exact.activations + exact.cache),  # the work also creates its cache
        )
