"""The profile of one design on one device, part by part. Each part is stored as soon as it is
known.

Parts: `environment`, `trace` (traced), `ceilings` (measured), `cache` (measured beside exact),
`prefill`, `decode`, `generation` (measured beside predicted and quoted), `memory`, `energy`.
Seconds, bytes, FLOPs, tokens/s and joules throughout."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hybrid_core.costs.memory import Refusal, memory
from hybrid_core.costs.model import model_costs
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.modules.cache import TORCH_DTYPES, Cache
from hybrid_core.live.modules.decode import decoder, resolve
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.profiling import device, throughput
from hybrid_core.live.profiling.calibrate import Calibration, as_hardware
from hybrid_core.live.profiling.energy import EnergyLog
from hybrid_core.live.profiling.generation import generation_part
from hybrid_core.live.profiling.job import DoesNotFit, Report, Store, put
from hybrid_core.live.profiling.live_memory import LiveTensors
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.profiling.room import SMALLEST_CHUNK, PrefillPlan, measurable, prefill_plan
from hybrid_core.live.profiling.trace import trace
from hybrid_core.results import profile as results
from hybrid_core.results.environment import Environment
from hybrid_core.speed import hardware
from hybrid_core.speed.hardware import Hardware
from hybrid_core.speed.roofline import predict
from hybrid_core.validation import SpecError
from kernels.dispatch import forget, ran

TRACE_LEN = 8192
# Of the time for prefill. What takes less says little of how long more tokens take.
TRIAL_SHARE = 0.01
DECODE_POINTS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
# Shares of the time that is left when a part starts. Where there is an energy meter, decode leaves
# it some.
IDLE_SHARE, PREFILL_SHARE, DECODE_SHARE, METERED_DECODE_SHARE = 0.2, 0.4, 0.9, 0.7


class Profile:
    """Runs the parts in order against a clock."""

    def __init__(
        self,
        spec: ArchSpec,
        options: ProfileOptions,
        store: Store,
        report: Report,
        energy: EnergyLog | None = None,
    ) -> None:
        self.spec = spec
        self.options = options
        self.put = partial(put, store)
        self.report = report
        self.started = time.monotonic()
        self.device = device.resolve(options.device)
        self.energy = energy or EnergyLog.of(self.device)
        self.decode_path = resolve(options.decode, self.device.type)
        self.batch = options.batch_size
        self.prompt = options.prompt_len
        self.dtypes = (options.kv_cache_dtype, options.states_in(spec))
        self.hardware: Hardware | None = None
        self.plan: PrefillPlan | None = None
        self.points: list[tuple[int, float]] = []
        self.not_measured: list[results.NotGenerated] = []
        self.activations: results.LiveActivations | None = None

    @property
    def left_s(self) -> float:
        return max(0.0, self.options.budget_s - (time.monotonic() - self.started))

    def run(self) -> None:
        """All parts. Raises DoesNotFit before it allocates anything, and UnknownOperation from the
        trace."""
        self.report(0.0, "Looking at the device")
        described = device.environment(self.device) | {"state_dtype": self.dtypes[1]}
        environment = Environment.model_validate(described)
        self.put(environment)
        forget()
        self._refuse_what_cannot_fit()
        self.report(0.02, "Counting FLOPs with fvcore and torch")
        self._trace()
        self.report(0.06, "Measuring the device's ceilings")
        self._ceilings()
        params = model_costs(self.spec).params().total
        self.report(0.08, f"Building {params / 1e9:.2f}B parameters in {self.options.dtype}")
        peak = device.PeakMemory(self.device)
        started = time.monotonic()
        model = build(
            self.spec,
            self.device,
            TORCH_DTYPES[self.options.dtype],
            self.options.seed,
        )
        device.synchronise(self.device)
        build_s = time.monotonic() - started
        self._cache(model)
        self.energy.idle(self.left_s * IDLE_SHARE)
        self._prefill(model)
        self._decode(model)
        ran_with = {"kernels_ran": ran(), "decode": self.decode_path}
        self.put(environment.model_copy(update=ran_with))
        self._generation()
        self._memory(peak, build_s)
        self.put(results.Energy.model_validate(self.energy.as_dict()))
        self.report(1.0, "Done")

    def _free_bytes(self) -> int:
        """What could be allocated now, with the weights in place."""
        device.free_memory(self.device)
        return device.available_bytes(self.device)

    def _verdicts(self) -> dict[int, Refusal | None]:
        """For each total length, why it does not fit beside the weights, or None where it does.
        Raises DoesNotFit where none fits."""
        free = self._free_bytes()
        found: dict[int, Refusal | None] = {}
        for total in sorted(self.options.totals):
            workload = self.options.workload(total)
            found[total] = measurable(
                self.spec,
                workload,
                free,
                weights_loaded=True,
            )
        smallest = min(found)
        problem = found[smallest]
        if problem:
            asked = f"{self.spec.name} at batch {self.batch}, {smallest:,} tokens"
            raise DoesNotFit(f"{asked}, beside its weights: {problem}")
        return found

    def _refuse_what_cannot_fit(self) -> None:
        """Raise DoesNotFit, or SpecError for a prompt that leaves nothing to decode, before
        anything is built."""
        smallest = min(self.options.totals)
        longest = max(self.options.totals)
        if self.prompt > longest:
            rule = f"must be at most the longest of totals ({longest})"
            raise SpecError(f"prompt_len: {self.prompt} - {rule}")
        free = device.available_bytes(self.device)
        problem = measurable(self.spec, self.options.workload(smallest), free)
        if problem:
            asked = f"{self.spec.name} at batch {self.batch}, {smallest:,} tokens"
            raise DoesNotFit(f"{asked}: {problem}")
        prompt = self.options.workload(self.prompt)
        weights = int(memory(self.spec, prompt).weights)
        prefill_plan(self.spec, prompt, free - weights)

    def _trace(self) -> None:
        """FLOPs by two counters that know nothing of the closed forms."""
        counted = trace(self.spec, TRACE_LEN)
        part = {"seq_len": TRACE_LEN, "convention": "traced", **counted}
        self.put(results.Trace.model_validate(part))

    def _ceilings(self) -> None:
        """What the predictions rest on: the stored calibration of this device, or its ceilings,
        measured now."""
        key = hardware.calibration_key(str(self.device), self.options.dtype)
        known = hardware.calibrated().get(key)
        measured = Calibration(self.device, self.options.dtype).peak_and_bandwidth()
        self.hardware = known or as_hardware(self.device, measured)
        basis = "the roofline of this device's measured ceilings"
        if known:
            basis = "this device's calibrated rates"
        part = measured | {"convention": "measured", "basis": basis}
        self.put(results.Ceilings.model_validate(part))

    def _cache(self, model: HybridLM) -> None:
        """Bytes of the live cache's tensors for one sequence, beside the closed forms."""
        self.report(0.15, "Looking at the live cache")
        fitting = [total for total, problem in self._verdicts().items() if problem is None]
        rows = tuple(self._cache_row(model, total) for total in fitting)
        self.put(results.LiveCache(convention="measured", per="sequence", rows=rows))

    def _cache_row(self, model: HybridLM, total: int) -> results.CacheRow:
        """One total length. Its cache is gone before the next, larger one is made."""
        costs = model_costs(self.spec)
        kv, state = (TORCH_DTYPES[name] for name in self.dtypes)
        return results.CacheRow(
            context_len=total,
            live_bytes=model.new_cache(1, total, kv, state).nbytes,
            exact_bytes=int(costs.cache_bytes(total, "exact", self.options.workload(total))),
            paper_bytes=int(costs.cache_bytes(total, "paper")),
        )

    def _prefill(self, model: HybridLM) -> None:
        """The prompt of the protocol, or as much of it as the budget holds."""
        self.report(0.2, "Measuring prefill")
        end = time.monotonic() + self.left_s * PREFILL_SHARE
        free = self._free_bytes()
        batch, prompt = self._affordable_prompt(model, self.left_s * PREFILL_SHARE, free)
        workload = self.options.workload(prompt, batch, prompt)
        self.plan = prefill_plan(self.spec, workload, free)
        work = throughput.prefill_work(
            model,
            batch,
            prompt,
            *self.dtypes,
            self.plan.chunk_tokens,
        )
        timing = throughput.prefill(work, self.device, end - time.monotonic())
        predicted = predict(self.spec, workload, self._hardware)
        part = results.Prefill(
            median_s=timing.median_s,
            min_s=min(timing.seconds),
            max_s=max(timing.seconds),
            repeats=len(timing.seconds),
            convention="measured",
            batch_size=batch,
            prompt_len=prompt,
            chunk_tokens=self.plan.chunk_tokens,
            tokens_per_s=batch * prompt / timing.median_s,
            predicted_tokens_per_s=float(predicted.prefill_tokens_per_s),
            shortened=(batch, prompt) != (self.batch, self.prompt),
        )
        self.put(part)
        self.energy.measure(
            "prefill",
            work,
            batch * prompt,
            end - time.monotonic(),
            batch_size=batch,
            context_len=prompt,
        )

    def _affordable_prompt(
        self, model: HybridLM, budget_s: float, free_bytes: int
    ) -> tuple[int, int]:
        """Batch and prompt that can be prefilled twice within the budget.

        They follow from the speed of one sequence: a short one, then longer ones for as long as
        they take next to no time, since a GPU takes as long for a few tokens as for many."""
        shortest = length = min(SMALLEST_CHUNK, self.prompt)
        self._activations(model, length)
        seconds = self._trial_s(model, length, free_bytes)
        while seconds < TRIAL_SHARE * budget_s and length < self.prompt:
            length = min(4 * length, self.prompt)
            seconds = self._trial_s(model, length, free_bytes)
        batch = self.batch
        prompt = self.prompt
        while batch * prompt * 2 * seconds / length > budget_s and batch > 1:
            batch //= 2
        while batch * prompt * 2 * seconds / length > budget_s and prompt > shortest:
            prompt //= 2
        return batch, prompt

    def _trial_s(
        self,
        model: HybridLM,
        length: int,
        free_bytes: int,
    ) -> float:
        """Seconds to prefill one sequence."""
        plan = prefill_plan(
            self.spec,
            self.options.workload(length, 1, length),
            free_bytes,
        )
        work = throughput.prefill_work(
            model,
            1,
            length,
            *self.dtypes,
            plan.chunk_tokens,
        )
        return throughput.prefill(work, self.device, 0).median_s

    def _activations(self, model: HybridLM, prompt_len: int) -> None:
        """Tensors alive at the widest moment of a short prefill, beside the closed form. This also
        warms up."""
        work = throughput.prefill_work(model, 1, prompt_len, *self.dtypes)
        with LiveTensors() as live:
            work()
        exact = memory(self.spec, self.options.workload(prompt_len, 1, prompt_len))
        self.activations = results.LiveActivations(
            prompt_len=prompt_len,
            live_bytes=live.peak_bytes,
            exact_bytes=int(exact.activations + exact.cache),  # the work made its cache
        )

    @property
    def _hardware(self) -> Hardware:
        assert self.hardware
        return self.hardware

    def _decode(self, model: HybridLM) -> None:
        """Steps at several contexts, the longest that fits included. Every point is stored as soon
        as it is known."""
        contexts = self._contexts()
        longest = contexts[-1]
        self.report(0.45, f"Filling a cache of {longest:,} tokens")
        cache = throughput.filled_cache(
            model,
            self.batch,
            longest,
            *self.dtypes,
        )
        step = self._decoder(model, cache)
        share = DECODE_SHARE
        if self.energy.meter:
            share = METERED_DECODE_SHARE
        end = time.monotonic() + self.left_s * share
        # Ends first: a budget that runs out still leaves the whole range, with fewer points in it.
        order = list(dict.fromkeys([contexts[0], longest, *contexts[1:-1]]))
        rows: list[results.DecodeRow] = []
        for index, context in enumerate(order):
            left_s = end - time.monotonic()
            if index >= 2 and left_s < 4 * max(row.median_s for row in rows):
                break
            self.report(0.5 + 0.45 * index / len(order), f"Measuring decode at {context:,} tokens")
            work = throughput.step_work(step, cache, context)
            budget_s = max(0.0, left_s) / (len(order) - index)
            timing = throughput.decode_steps(work, self.device, budget_s)
            rows.append(self._decode_row(context, timing))
            self.points.append((context, timing.median_s))
            self._put_decode(rows)
        self._decode_energy(step, cache, sorted({contexts[0], longest}))

    def _contexts(self) -> list[int]:
        """Where decode is timed, shortest first. Notes the totals that do not fit."""
        fitting = []
        self.not_measured = []
        for total, problem in self._verdicts().items():
            if problem:
                self.not_measured.append(results.NotGenerated(total_len=total, why=str(problem)))
            else:
                fitting.append(total)
        longest = max(fitting)
        first = min(self.prompt, longest)
        between = [context for context in DECODE_POINTS if first < context <= longest]
        return sorted({first, *between, longest})

    def _decode_row(
        self,
        context: int,
        timing: throughput.Timing,
    ) -> results.DecodeRow:
        """A point of the curve, beside its prediction."""
        predicted = predict(
            self.spec,
            self.options.workload(context),
            self._hardware,
        )
        return results.DecodeRow(
            context_len=context,
            tokens_per_s=self.batch / timing.median_s,
            median_s=timing.median_s,
            min_s=min(timing.seconds),
            max_s=max(timing.seconds),
            repeats=len(timing.seconds),
            predicted_tokens_per_s=float(predicted.decode_tokens_per_s),
        )

    def _put_decode(self, rows: list[results.DecodeRow]) -> None:
        """What is known so far, shortest context first."""
        by_context = sorted(rows, key=lambda row: row.context_len)
        part = results.Decode(
            convention="measured",
            batch_size=self.batch,
            path=self.decode_path,
            rows=tuple(by_context),
        )
        self.put(part)

    def _decode_energy(
        self, step: Callable[[Tensor], Tensor], cache: Cache, contexts: list[int]
    ) -> None:
        """Joules of a token at each context. All kernels are warm: the same steps have been
        timed."""
        if self.energy.meter is None:
            return
        self.report(0.95, "Reading the energy meter")
        for index, context in enumerate(contexts):
            work = throughput.step_work(step, cache, context)
            budget_s = self.left_s / (len(contexts) - index)
            self.energy.measure(
                "decode",
                work,
                self.batch,
                budget_s,
                batch_size=self.batch,
                context_len=context,
            )

    def _decoder(self, model: HybridLM, cache: Cache) -> Callable[[Tensor], Tensor]:
        """What makes a step. It is compiled at the first call, which is made here."""
        cache.length = cache.capacity - 1
        step = decoder(model, cache, self.decode_path)
        if self.decode_path == "compiled":
            self.report(0.47, "Compiling the decode step")
            step(torch.zeros(self.batch, 1, dtype=torch.long, device=self.device))
        return step

    def _generation(self) -> None:
        """The paper's figure, from the timed steps."""
        found = generation_part(
            self.spec, self.options, self.points, self._hardware, self.decode_path
        )
        part = found | {"not_measured": self.not_measured}
        self.put(results.Generation.model_validate(part))

    def _memory(self, peak: device.PeakMemory, build_s: float) -> None:
        """The peak beside the closed forms: weights, the longest cache, and the prefill as it was
        done. Where it was done in chunks, also what it would hold at once."""
        assert self.plan
        longest = max(context for context, _ in self.points)
        used = memory(self.spec, self.options.workload(longest))
        used = used._replace(activations=self.plan.activations)
        predicted = results.PredictedBytes(
            weights=int(used.weights),
            cache=int(used.cache),
            activations=int(used.activations),
            total=int(used.total),
        )
        part = results.PeakMemory(
            convention="measured",
            peak_bytes=peak.bytes(),
            what=peak.what,
            context_len=longest,
            build_s=build_s,
            activations=self.activations,
            one_shot_activations=self.plan.one_shot_activations,
            predicted_bytes=predicted,
        )
        self.put(part)


def profile(
    spec: ArchSpec,
    options: ProfileOptions,
    store: Store,
    report: Report,
) -> None:
    """Profile `spec`. `store(part, data)` is called when a part is known, `report(fraction,
    message)` as it goes."""
    Profile(spec, options, store, report).run()
