"""The profile of one design on one device, part by part. Each part is handed over as soon as it is known.

Parts: `environment`, `trace` (traced), `ceilings` (measured), `cache` (measured beside exact), `prefill`, `decode`, `generation`
(measured beside predicted and quoted), `memory`, `energy`. Seconds, bytes, FLOPs and tokens/s throughout.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybrid_core import baselines, hardware
from hybrid_core.costs.memory import memory, refusal
from hybrid_core.costs.model import model_costs
from hybrid_core.costs.roofline import generation_tokens_per_s, predict
from hybrid_core.hardware import Hardware
from hybrid_core.modules.cache import TORCH_DTYPES, Cache
from hybrid_core.modules.decode import decoder, resolve
from hybrid_core.modules.model import HybridLM, build
from hybrid_core.profiling import device, throughput
from hybrid_core.profiling.calibrate import Calibration, as_hardware
from hybrid_core.profiling.job import DoesNotFit, Report, Store
from hybrid_core.profiling.live_memory import LiveTensors
from hybrid_core.profiling.options import ProfileOptions
from hybrid_core.profiling.trace import trace
from hybrid_core.spec import ArchSpec
from hybrid_core.workload import PAPER_BATCH, PAPER_PROMPT
from kernels import forget, ran

TRACE_LEN = 8192
DECODE_POINTS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
# Shares of the time that is left when a part starts.
PREFILL_SHARE, DECODE_SHARE = 0.4, 0.9


class Profile:
    """Runs the parts in order against a clock."""

    def __init__(self, spec: ArchSpec, options: ProfileOptions, store: Store, report: Report) -> None:
        self.spec, self.options, self.store, self.report = spec, options, store, report
        self.started = time.monotonic()
        self.device = device.resolve(options.device)
        self.decode_path = resolve(options.decode, self.device.type)
        self.batch, self.prompt = options.batch_size, options.prompt_len
        self.hardware: Hardware | None = None
        self.points: list[tuple[int, float]] = []
        self.activations: dict[str, int] = {}

    @property
    def left_s(self) -> float:
        return max(0.0, self.options.budget_s - (time.monotonic() - self.started))

    def run(self) -> None:
        """All parts. Raises DoesNotFit before allocating anything, and UnknownOperation from the trace."""
        self.report(0.0, "Looking at the device")
        environment = device.environment(self.device)
        self.store("environment", environment)
        forget()
        self._refuse_what_cannot_fit()
        self.report(0.02, "Counting FLOPs with fvcore and torch")
        self.store("trace", {"seq_len": TRACE_LEN, "convention": "traced", **trace(self.spec, TRACE_LEN)})
        self.report(0.06, "Measuring the device's ceilings")
        self._ceilings()
        self.report(0.08, f"Building {model_costs(self.spec).params().total / 1e9:.2f}B parameters in {self.options.dtype}")
        peak = device.PeakMemory(self.device)
        started = time.monotonic()
        model = build(self.spec, self.device, TORCH_DTYPES[self.options.dtype], self.options.seed)
        build_s = time.monotonic() - started
        self._cache(model)
        with device.energy(self.device) as prefill_energy:
            self._prefill(model)
        with device.energy(self.device) as decode_energy:
            self._decode(model)
        self.store("environment", environment | {"kernels_ran": ran(), "decode": self.decode_path})
        self._generation()
        self._memory(peak, build_s)
        self._energy({"prefill": prefill_energy, "decode": decode_energy})
        self.report(1.0, "Done")

    def _fitting_totals(self) -> list[int]:
        free = device.available_bytes(self.device)
        return [total for total in self.options.totals if refusal(self.spec, self.options.workload(total), free) is None]

    def _refuse_what_cannot_fit(self) -> None:
        free, smallest = device.available_bytes(self.device), min(self.options.totals)
        problem = refusal(self.spec, self.options.workload(smallest), free)
        if problem:
            raise DoesNotFit(f"{self.spec.name} at batch {self.batch}, {smallest:,} tokens: {problem}")

    def _ceilings(self) -> None:
        """What the predictions rest on: the stored calibration of this device, or its ceilings, measured now."""
        known = hardware.calibrated().get(hardware.calibration_key(str(self.device), self.options.dtype))
        measured = Calibration(self.device, self.options.dtype).peak_and_bandwidth()
        self.hardware = known or as_hardware(self.device, measured)
        basis = "this device's calibrated rates" if known else "the roofline of this device's measured ceilings"
        self.store("ceilings", measured | {"convention": "measured", "basis": basis})

    def _cache(self, model: HybridLM) -> None:
        """Bytes of the live cache's tensors for one sequence, beside the closed forms. The shortest one is filled by a prefill."""
        self.report(0.15, "Looking at the live cache")
        costs, options = model_costs(self.spec), self.options
        rows = []
        for total in self._fitting_totals():
            cache = model.new_cache(1, total, TORCH_DTYPES[options.kv_cache_dtype], TORCH_DTYPES[options.state_dtype])
            exact = int(costs.cache_bytes(total, "exact", options.workload(total)))
            paper = int(costs.cache_bytes(total, "paper"))
            rows.append({"context_len": total, "live_bytes": cache.nbytes, "exact_bytes": exact, "paper_bytes": paper})
        self.store("cache", {"convention": "measured", "per": "sequence", "rows": rows})

    def _prefill(self, model: HybridLM) -> None:
        """The prompt of the protocol, or as much of it as the budget holds."""
        self.report(0.2, "Measuring prefill")
        share = self.left_s * PREFILL_SHARE
        options = self.options
        kv, state = options.kv_cache_dtype, options.state_dtype
        trial_len = min(64, self.prompt)
        self._activations(model, trial_len)
        per_token_s = throughput.prefill(model, 1, trial_len, kv, state, 0).median_s / trial_len
        batch, prompt = self.batch, self.prompt
        while batch * prompt * per_token_s * 2 > share and batch > 1:
            batch //= 2
        while batch * prompt * per_token_s * 2 > share and prompt > trial_len:
            prompt //= 2
        timing = throughput.prefill(model, batch, prompt, kv, state, share)
        speed = batch * prompt / timing.median_s
        at_ceiling = predict(self.spec, options.workload(prompt, batch, prompt), self._hardware)
        self.store(
            "prefill",
            timing.as_dict()
            | {"convention": "measured", "batch_size": batch, "prompt_len": prompt, "tokens_per_s": speed}
            | {"predicted_tokens_per_s": float(at_ceiling.prefill_tokens_per_s), "shortened": (batch, prompt) != (self.batch, self.prompt)},
        )

    def _activations(self, model: HybridLM, prompt_len: int) -> None:
        """Tensors alive at the widest moment of a short prefill, which also warms up, beside the closed form."""
        with LiveTensors() as live:
            throughput.prefill(model, 1, prompt_len, self.options.kv_cache_dtype, self.options.state_dtype, 0)
        exact = memory(self.spec, self.options.workload(prompt_len, 1, prompt_len))
        # The cache was made inside.
        self.activations = {"prompt_len": prompt_len, "live_bytes": live.peak_bytes, "exact_bytes": int(exact.activations + exact.cache)}

    @property
    def _hardware(self) -> Hardware:
        assert self.hardware
        return self.hardware

    def _decode(self, model: HybridLM) -> None:
        """Steps at several contexts, the longest that fits included; every point is stored as it is known."""
        totals = self._fitting_totals()
        longest = max(totals)
        contexts = sorted({self.prompt, *(c for c in DECODE_POINTS if self.prompt < c <= longest), longest})
        options = self.options
        self.report(0.45, f"Filling a cache of {longest:,} tokens")
        cache = throughput.filled_cache(model, self.batch, longest, options.kv_cache_dtype, options.state_dtype)
        step = self._decoder(model, cache)
        end = time.monotonic() + self.left_s * DECODE_SHARE
        rows: list[dict[str, Any]] = []
        # Ends first: a budget that runs out still leaves the whole range, with fewer points inside it.
        order = [contexts[0], contexts[-1], *contexts[1:-1]]
        for index, context in enumerate(dict.fromkeys(order)):
            left = end - time.monotonic()
            if index >= 2 and left < 4 * max(row["median_s"] for row in rows):
                break
            self.report(0.5 + 0.45 * index / len(order), f"Measuring decode at {context:,} tokens")
            timing = throughput.decode_steps(step, cache, context, max(0.0, left) / (len(order) - index))
            predicted = predict(self.spec, options.workload(context), self._hardware)
            row = {"context_len": context, "tokens_per_s": self.batch / timing.median_s, **timing.as_dict()}
            rows.append(row | {"predicted_tokens_per_s": float(predicted.decode_tokens_per_s)})
            self.points.append((context, timing.median_s))
            measured = {"convention": "measured", "batch_size": self.batch, "path": self.decode_path}
            self.store("decode", measured | {"rows": sorted(rows, key=lambda r: r["context_len"])})

    def _decoder(self, model: HybridLM, cache: Cache) -> Callable[[Tensor], Tensor]:
        """What makes a step; compiled at the first call, which is made here."""
        cache.length = cache.capacity - 1
        with torch.inference_mode():
            step = decoder(model, cache, self.decode_path)
            if self.decode_path == "compiled":
                self.report(0.47, "Compiling the decode step")
                step(torch.zeros(self.batch, 1, dtype=torch.long, device=self.device))
        return step

    def _generation(self) -> None:
        """The paper's figure: tokens/s from the prompt to each total length, beside the ceiling and Table 13."""
        fitting = self._fitting_totals()
        quoted = baselines.throughput(self.spec)
        rows = []
        for total in (t for t in self.options.totals if self.prompt < t <= max(c for c, _ in self.points)):
            row: dict[str, Any] = {"total_len": total, **throughput.generation(self.points, self.prompt, total, self.batch)}
            row["predicted_tokens_per_s"] = generation_tokens_per_s(
                self.spec, self.options.workload(total), self._hardware, self.prompt, total
            )
            if quoted and total in quoted.totals:
                row["paper_tokens_per_s"] = quoted.tokens_per_s[quoted.totals.index(total)]
            rows.append(row)
        paper_protocol = (self.batch, self.prompt) == (PAPER_BATCH, PAPER_PROMPT)
        self.store(
            "generation",
            {
                "convention": "measured",
                "protocol": f"batch {self.batch}, prompt {self.prompt}"
                + (" (the paper's, Appendix J)" if paper_protocol else "")
                + f"; steps ({self.decode_path}) timed at {len(self.points)} contexts and integrated",
                "paper_source": quoted.source if quoted else None,
                "rows": rows,
                "not_measured": self._not_measured(fitting),
            },
        )

    def _not_measured(self, fitting: list[int]) -> list[dict[str, Any]]:
        free = device.available_bytes(self.device)
        missing = [total for total in self.options.totals if total not in fitting]
        return [
            {"total_len": t, "why": str(refusal(self.spec, self.options.workload(t), free) or "did not fit when decode began")}
            for t in missing
        ]

    def _memory(self, peak: device.PeakMemory, build_s: float) -> None:
        longest = max(context for context, _ in self.points)
        predicted = memory(self.spec, self.options.workload(longest))
        self.store(
            "memory",
            {"convention": "measured", "peak_bytes": peak.bytes(), "what": peak.what, "context_len": longest, "build_s": build_s}
            | {"activations": self.activations}
            | {"predicted_bytes": {k: int(v) for k, v in predicted._asdict().items()} | {"total": int(predicted.total)}},
        )

    def _energy(self, readings: dict[str, device.Energy]) -> None:
        parts = {name: {"joules": reading.joules, "seconds": reading.seconds} for name, reading in readings.items()}
        self.store("energy", {"convention": "measured", "note": readings["decode"].note, "parts": parts})


def profile(spec: ArchSpec, options: ProfileOptions, store: Store, report: Report) -> None:
    """Profile `spec`. `store(part, data)` is called when a part is known, `report(fraction, message)` as it goes."""
    Profile(spec, options, store, report).run()
