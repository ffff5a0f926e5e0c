"""The profile of one design on one device, part by part. Each part is handed over as soon as it is
known.

Parts: `environment`, `trace` (traced), `ceilings` (measured), `cache` (measured beside exact),
`prefill`, `decode`, `generation` (measured beside predicted and quoted), `memory`, `energy`.
Seconds, bytes, FLOPs, tokens/s and joules throughout."""

import time
from collections.abc import Callable
from typing import Any

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
from hybrid_core.live.profiling.job import DoesNotFit, Report, Store
from hybrid_core.live.profiling.live_memory import LiveTensors
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.profiling.room import SMALLEST_CHUNK, PrefillPlan, measurable, prefill_plan
from hybrid_core.live.profiling.trace import trace
from hybrid_core.speed import hardware
from hybrid_core.speed.hardware import Hardware
from hybrid_core.speed.roofline import predict
from hybrid_core.validation import SpecError
from kernels import forget, ran

TRACE_LEN = 8192
TRIAL_SHARE = (
    0.01  # of the time for prefill: what takes less says little of how long more tokens take
)
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
        self.spec, self.options, self.store, self.report = spec, options, store, report
        self.started = time.monotonic()
        self.device = device.resolve(options.device)
        self.energy = energy or EnergyLog.of(self.device)
        self.decode_path = resolve(options.decode, self.device.type)
        self.batch, self.prompt = options.batch_size, options.prompt_len
        self.dtypes = (options.kv_cache_dtype, options.states_in(spec))
        self.hardware: Hardware | None = None
        self.plan: PrefillPlan | None = None
        self.points: list[tuple[int, float]] = []
        self.not_measured: list[dict[str, Any]] = []
        self.activations: dict[str, int] = {}

    @property
    def left_s(self) -> float:
        return max(0.0, self.options.budget_s - (time.monotonic() - self.started))

    def run(self) -> None:
        """All parts. Raises DoesNotFit before allocating anything, and UnknownOperation from the
        trace."""
        self.report(0.0, "Looking at the device")
        environment = device.environment(self.device) | {"state_dtype": self.dtypes[1]}
        self.store("environment", environment)
        forget()
        self._refuse_what_cannot_fit()
        self.report(0.02, "Counting FLOPs with fvcore and torch")
        self.store(
            "trace", {"seq_len": TRACE_LEN, "convention": "traced", **trace(self.spec, TRACE_LEN)}
        )
        self.report(0.06, "Measuring the device's ceilings")
        self._ceilings()
        self.report(
            0.08,
            f"Building {model_costs(self.spec).params().total / 1e9:.2f}B parameters in {self.options.dtype}",
        )
        peak = device.PeakMemory(self.device)
        started = time.monotonic()
        model = build(self.spec, self.device, TORCH_DTYPES[self.options.dtype], self.options.seed)
        device.synchronise(self.device)
        build_s = time.monotonic() - started
        self._cache(model)
        self.energy.idle(self.left_s * IDLE_SHARE)
        self._prefill(model)
        self._decode(model)
        self.store("environment", environment | {"kernels_ran": ran(), "decode": self.decode_path})
        generation = generation_part(
            self.spec, self.options, self.points, self._hardware, self.decode_path
        )
        self.store("generation", generation | {"not_measured": self.not_measured})
        self._memory(peak, build_s)
        self.store("energy", self.energy.as_dict())
        self.report(1.0, "Done")

    def _free_bytes(self) -> int:
        """What could be allocated now, the weights being where they are."""
        device.free_memory(self.device)
        return device.available_bytes(self.device)

    def _verdicts(self) -> dict[int, Refusal | None]:
        """For each total length whether it fits beside the weights. Raises DoesNotFit where none
        does."""
        free, totals = self._free_bytes(), sorted(self.options.totals)
        found = {
            total: measurable(self.spec, self.options.workload(total), free, weights_loaded=True)
            for total in totals
        }
        smallest = found[totals[0]]
        if smallest:
            raise DoesNotFit(
                f"{self.spec.name} at batch {self.batch}, {totals[0]:,} tokens, beside its weights: {smallest}"
            )
        return found

    def _refuse_what_cannot_fit(self) -> None:
        """Raise DoesNotFit, or SpecError for a prompt that leaves nothing to decode, before
        anything is built."""
        smallest, longest = min(self.options.totals), max(self.options.totals)
        if self.prompt > longest:
            raise SpecError(
                f"prompt_len: {self.prompt} - must be at most the longest of totals ({longest})"
            )
        free = device.available_bytes(self.device)
        problem = measurable(self.spec, self.options.workload(smallest), free)
        if problem:
            raise DoesNotFit(
                f"{self.spec.name} at batch {self.batch}, {smallest:,} tokens: {problem}"
            )
        prompt = self.options.workload(self.prompt)
        prefill_plan(self.spec, prompt, free - int(memory(self.spec, prompt).weights))

    def _ceilings(self) -> None:
        """What the predictions rest on: the stored calibration of this device, or its ceilings,
        measured now."""
        known = hardware.calibrated().get(
            hardware.calibration_key(str(self.device), self.options.dtype)
        )
        measured = Calibration(self.device, self.options.dtype).peak_and_bandwidth()
        self.hardware = known or as_hardware(self.device, measured)
        basis = (
            "this device's calibrated rates"
            if known
            else "the roofline of this device's measured ceilings"
        )
        self.store("ceilings", measured | {"convention": "measured", "basis": basis})

    def _cache(self, model: HybridLM) -> None:
        """Bytes of the live cache's tensors for one sequence, beside the closed forms."""
        self.report(0.15, "Looking at the live cache")
        costs, options = model_costs(self.spec), self.options
        kv, state = (TORCH_DTYPES[name] for name in self.dtypes)
        rows = []
        for total in (total for total, problem in self._verdicts().items() if problem is None):
            live = model.new_cache(
                1, total, kv, state
            ).nbytes  # gone before the next, larger one is made
            exact = int(costs.cache_bytes(total, "exact", options.workload(total)))
            paper = int(costs.cache_bytes(total, "paper"))
            rows.append(
                {
                    "context_len": total,
                    "live_bytes": live,
                    "exact_bytes": exact,
                    "paper_bytes": paper,
                }
            )
        self.store("cache", {"convention": "measured", "per": "sequence", "rows": rows})

    def _prefill(self, model: HybridLM) -> None:
        """The prompt of the protocol, or as much of it as the budget holds."""
        self.report(0.2, "Measuring prefill")
        end = time.monotonic() + self.left_s * PREFILL_SHARE
        free = self._free_bytes()
        batch, prompt = self._affordable_prompt(model, self.left_s * PREFILL_SHARE, free)
        workload = self.options.workload(prompt, batch, prompt)
        self.plan = prefill_plan(self.spec, workload, free)
        work = throughput.prefill_work(model, batch, prompt, *self.dtypes, self.plan.chunk_tokens)
        timing = throughput.prefill(work, self.device, end - time.monotonic())
        at_ceiling = predict(self.spec, workload, self._hardware)
        self.store(
            "prefill",
            timing.as_dict()
            | {
                "convention": "measured",
                "batch_size": batch,
                "prompt_len": prompt,
                "chunk_tokens": self.plan.chunk_tokens,
            }
            | {
                "tokens_per_s": batch * prompt / timing.median_s,
                "predicted_tokens_per_s": float(at_ceiling.prefill_tokens_per_s),
            }
            | {"shortened": (batch, prompt) != (self.batch, self.prompt)},
        )
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
        """Batch and prompt that can be prefilled twice within the budget, by the speed of one
        sequence: a short one, and longer ones for as long as they take next to nothing, since a GPU
        takes as long for a few tokens as for many."""
        shortest = length = min(SMALLEST_CHUNK, self.prompt)
        self._activations(model, length)
        seconds = self._trial_s(model, length, free_bytes)
        while seconds < TRIAL_SHARE * budget_s and length < self.prompt:
            length = min(4 * length, self.prompt)
            seconds = self._trial_s(model, length, free_bytes)
        batch, prompt = self.batch, self.prompt
        while batch * prompt * 2 * seconds / length > budget_s and batch > 1:
            batch //= 2
        while batch * prompt * 2 * seconds / length > budget_s and prompt > shortest:
            prompt //= 2
        return batch, prompt

    def _trial_s(self, model: HybridLM, length: int, free_bytes: int) -> float:
        """Seconds to prefill one sequence."""
        plan = prefill_plan(self.spec, self.options.workload(length, 1, length), free_bytes)
        work = throughput.prefill_work(model, 1, length, *self.dtypes, plan.chunk_tokens)
        return throughput.prefill(work, self.device, 0).median_s

    def _activations(self, model: HybridLM, prompt_len: int) -> None:
        """Tensors alive at the widest moment of a short prefill, which also warms up, beside the
        closed form."""
        work = throughput.prefill_work(model, 1, prompt_len, *self.dtypes)
        with LiveTensors() as live:
            work()
        exact = memory(self.spec, self.options.workload(prompt_len, 1, prompt_len))
        # The cache was made inside.
        self.activations = {
            "prompt_len": prompt_len,
            "live_bytes": live.peak_bytes,
            "exact_bytes": int(exact.activations + exact.cache),
        }

    @property
    def _hardware(self) -> Hardware:
        assert self.hardware
        return self.hardware

    def _decode(self, model: HybridLM) -> None:
        """Steps at several contexts, the longest that fits included; every point is stored as it is
        known."""
        verdicts = self._verdicts()
        self.not_measured = [
            {"total_len": total, "why": str(problem)}
            for total, problem in verdicts.items()
            if problem
        ]
        longest = max(total for total, problem in verdicts.items() if problem is None)
        first = min(self.prompt, longest)
        contexts = sorted({first, *(c for c in DECODE_POINTS if first < c <= longest), longest})
        options = self.options
        self.report(0.45, f"Filling a cache of {longest:,} tokens")
        cache = throughput.filled_cache(model, self.batch, longest, *self.dtypes)
        step = self._decoder(model, cache)
        end = time.monotonic() + self.left_s * (
            METERED_DECODE_SHARE if self.energy.meter else DECODE_SHARE
        )
        rows: list[dict[str, Any]] = []
        # Ends first: a budget that runs out still leaves the whole range, with fewer points inside
        # it.
        order = [contexts[0], contexts[-1], *contexts[1:-1]]
        for index, context in enumerate(dict.fromkeys(order)):
            left = end - time.monotonic()
            if index >= 2 and left < 4 * max(row["median_s"] for row in rows):
                break
            self.report(0.5 + 0.45 * index / len(order), f"Measuring decode at {context:,} tokens")
            work = throughput.step_work(step, cache, context)
            timing = throughput.decode_steps(
                work, self.device, max(0.0, left) / (len(order) - index)
            )
            predicted = predict(self.spec, options.workload(context), self._hardware)
            row = {
                "context_len": context,
                "tokens_per_s": self.batch / timing.median_s,
                **timing.as_dict(),
            }
            rows.append(row | {"predicted_tokens_per_s": float(predicted.decode_tokens_per_s)})
            self.points.append((context, timing.median_s))
            measured = {
                "convention": "measured",
                "batch_size": self.batch,
                "path": self.decode_path,
            }
            self.store("decode", measured | {"rows": sorted(rows, key=lambda r: r["context_len"])})
        self._decode_energy(step, cache, sorted({contexts[0], contexts[-1]}))

    def _decode_energy(
        self, step: Callable[[Tensor], Tensor], cache: Cache, contexts: list[int]
    ) -> None:
        """Joules of a token at each context. All kernels are warm: the same steps have been
        timed."""
        if self.energy.meter is None:
            return
        self.report(0.95, "Reading the energy meter")
        for index, context in enumerate(contexts):
            work, budget_s = (
                throughput.step_work(step, cache, context),
                self.left_s / (len(contexts) - index),
            )
            self.energy.measure(
                "decode", work, self.batch, budget_s, batch_size=self.batch, context_len=context
            )

    def _decoder(self, model: HybridLM, cache: Cache) -> Callable[[Tensor], Tensor]:
        """What makes a step; compiled at the first call, which is made here."""
        cache.length = cache.capacity - 1
        step = decoder(model, cache, self.decode_path)
        if self.decode_path == "compiled":
            self.report(0.47, "Compiling the decode step")
            step(torch.zeros(self.batch, 1, dtype=torch.long, device=self.device))
        return step

    def _memory(self, peak: device.PeakMemory, build_s: float) -> None:
        """The peak beside the closed forms: weights, the longest cache, and the prefill as it was
        done; also at once, if it was not."""
        assert self.plan
        longest = max(context for context, _ in self.points)
        predicted = memory(self.spec, self.options.workload(longest))._replace(
            activations=self.plan.activations
        )
        self.store(
            "memory",
            {
                "convention": "measured",
                "peak_bytes": peak.bytes(),
                "what": peak.what,
                "context_len": longest,
                "build_s": build_s,
            }
            | {
                "activations": self.activations,
                "one_shot_activations": self.plan.one_shot_activations,
            }
            | {
                "predicted_bytes": {k: int(v) for k, v in predicted._asdict().items()}
                | {"total": int(predicted.total)}
            },
        )


def profile(spec: ArchSpec, options: ProfileOptions, store: Store, report: Report) -> None:
    """Profile `spec`. `store(part, data)` is called when a part is known, `report(fraction,
    message)` as it goes."""
    Profile(spec, options, store, report).run()
