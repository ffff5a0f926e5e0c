"""Timing decode steps of a profile at several contexts."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hybrid_core.live.modules.cache import Cache
from hybrid_core.live.modules.decode import decoder
from hybrid_core.live.modules.model import HybridLM
from hybrid_core.live.profiling import throughput
from hybrid_core.live.profiling.generation import Points
from hybrid_core.live.profiling.session import Session
from hybrid_core.results import profile as results
from hybrid_core.speed.hardware import Hardware
from hybrid_core.speed.roofline import predict

DECODE_POINTS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
# Decode's share of the time left when it starts, without and with an energy meter, which needs some
# time afterwards.
DECODE_SHARE = 0.9
METERED_DECODE_SHARE = 0.7


class Decoded(NamedTuple):
    """The timed contexts, and the total lengths that did not fit."""

    points: Points
    not_measured: list[results.NotGenerated]


class DecodeTimer:
    """Measures decode, stores the part `decode`, and reads the energy meter."""

    def __init__(self, session: Session, hardware: Hardware) -> None:
        self.session = session
        self.hardware = hardware
        self.points: Points = []

    def measure(self, model: HybridLM) -> Decoded:
        """Time steps at several contexts, up to the longest that fits."""
        verdicts = self.session.verdicts()
        fitting = [total for total, problem in verdicts.items() if problem is None]
        contexts = self._contexts(max(fitting))
        shortest = contexts[0]
        longest = contexts[-1]
        self.session.report(0.45, f"Filling a cache of {longest:,} tokens")
        cache = throughput.filled_cache(
            model,
            self.session.batch,
            longest,
            self.session.kv_dtype,
            self.session.state_dtype,
        )
        step = self._decoder(model, cache)
        self._time_steps(step, cache, contexts)
        self._read_energy(step, cache, sorted({shortest, longest}))
        not_measured = []
        for total, problem in verdicts.items():
            if problem:
                refused = results.NotGenerated(total_len=total, why=str(problem))
                not_measured.append(refused)
        return Decoded(self.points, not_measured)

    def _time_steps(
        self,
        step: Callable[[Tensor], Tensor],
        cache: Cache,
        contexts: list[int],
    ) -> None:
        """Time steps at each context until the budget runs out; store every point at once."""
        share = DECODE_SHARE
        if self.session.energy.meter:
            share = METERED_DECODE_SHARE
        end = time.monotonic() + self.session.left_s * share
        # The two ends come first: if the budget runs out, fewer points still cover the whole range.
        ends_first = [contexts[0], contexts[-1], *contexts]
        order = list(dict.fromkeys(ends_first))
        rows: list[results.DecodeRow] = []
        for index, context in enumerate(order):
            left_s = end - time.monotonic()
            if index >= 2 and left_s < 4 * max(row.median_s for row in rows):
                break
            done = 0.5 + 0.45 * index / len(order)
            self.session.report(done, f"Measuring decode at {context:,} tokens")
            work = throughput.step_work(step, cache, context)
            budget_s = max(0.0, left_s) / (len(order) - index)
            timing = throughput.decode_steps(work, self.session.device, budget_s)
            rows.append(self._row(context, timing))
            self.points.append((context, timing.median_s))
            self._put(rows)

    def _contexts(self, longest: int) -> list[int]:
        """The contexts at which decode is timed, shortest first."""
        first = min(self.session.prompt, longest)
        between = [context for context in DECODE_POINTS if first < context <= longest]
        return sorted({first, *between, longest})

    def _row(
        self,
        context: int,
        timing: throughput.Timing,
    ) -> results.DecodeRow:
        """The timed steps at one context, with their prediction."""
        predicted = predict(
            self.session.spec,
            self.session.options.workload(context),
            self.hardware,
        )
        return results.DecodeRow(
            context_len=context,
            tokens_per_s=self.session.batch / timing.median_s,
            median_s=timing.median_s,
            min_s=min(timing.seconds),
            max_s=max(timing.seconds),
            repeats=len(timing.seconds),
            predicted_tokens_per_s=float(predicted.decode_tokens_per_s),
        )

    def _put(self, rows: list[results.DecodeRow]) -> None:
        """Store the points measured so far, shortest context first."""
        by_context = sorted(rows, key=lambda row: row.context_len)
        part = results.Decode(
            convention="measured",
            batch_size=self.session.batch,
            path=self.session.decode_path,
            rows=tuple(by_context),
        )
        self.session.put(part)

    def _read_energy(
        self,
        step: Callable[[Tensor], Tensor],
        cache: Cache,
        contexts: list[int],
    ) -> None:
        """Joules per token at each context. The steps were timed before, so the kernels are warmed
        up."""
        if self.session.energy.meter is None:
            return
        self.session.report(0.95, "Reading the energy meter")
        for index, context in enumerate(contexts):
            work = throughput.step_work(step, cache, context)
            budget_s = self.session.left_s / (len(contexts) - index)
            self.session.energy.measure(
                "decode",
                work,
                self.session.batch,
                budget_s,
                batch_size=self.session.batch,
                context_len=context,
            )

    def _decoder(self, model: HybridLM, cache: Cache) -> Callable[[Tensor], Tensor]:
        """The function that runs a step, compiled if the options ask for it."""
        cache.length = cache.capacity - 1
        step = decoder(model, cache, self.session.decode_path)
        if self.session.decode_path == "compiled":
            self.session.report(0.47, "Compiling the decode step")
            token = torch.zeros(
                self.session.batch,
                1,
                dtype=torch.long,
                device=self.session.device,
            )
            step(token)
        return step
