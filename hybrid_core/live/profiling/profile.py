"""The profile of one design on one device, part by part.

Each part is stored as soon as it is ready: `environment`, `trace` (traced), `ceilings` (measured),
`cache` (measured and exact), `prefill`, `decode`, `generation` (measured, predicted and quoted),
`memory`, `energy`. Units are seconds, bytes, FLOPs, tokens/s and joules.
"""

import time

from hybrid_core.costs.memory import memory
from hybrid_core.costs.model import model_costs
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.modules.cache import TORCH_DTYPES
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.profiling import device
from hybrid_core.live.profiling.calibrate import Calibration, as_hardware
from hybrid_core.live.profiling.decode_steps import DecodeTimer
from hybrid_core.live.profiling.energy import EnergyLog
from hybrid_core.live.profiling.generation import generation_part
from hybrid_core.live.profiling.job import Report, Store
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.profiling.prefill import Prefilled, PrefillTimer
from hybrid_core.live.profiling.session import Session
from hybrid_core.live.profiling.trace import trace
from hybrid_core.results import profile as results
from hybrid_core.results.environment import Environment
from hybrid_core.speed import hardware
from hybrid_core.speed.hardware import Hardware
from kernels.dispatch import forget, ran

TRACE_LEN = 8192
# The idle power's share of the time left after the build.
IDLE_SHARE = 0.2


def profile(
    spec: ArchSpec,
    options: ProfileOptions,
    store: Store,
    report: Report,
    energy: EnergyLog | None = None,
) -> None:
    """Profile a design, calling `store` and `report` along the way (see `job.py`).

    Raises DoesNotFit before anything is allocated, or after the build if too little memory is left
    by then. Raises UnknownOperation if a FLOP counter meets an operation without a formula.
    """
    session = Session(spec, options, store, report, energy)
    environment = _environment(session)
    forget()
    session.refuse_what_cannot_fit()
    report(0.02, "Counting FLOPs with fvcore and torch")
    session.put(trace(spec, TRACE_LEN))
    rates = _ceilings(session)
    peak = device.PeakMemory(session.device)
    model, build_s = _built(session)
    session.put(live_cache(session, model))
    session.energy.idle(session.left_s * IDLE_SHARE)
    prefilled = PrefillTimer(session, rates).measure(model)
    decoded = DecodeTimer(session, rates).measure(model)
    ran_with = {"kernels_ran": ran(), "decode": session.decode_path}
    session.put(environment.model_copy(update=ran_with))
    generation = generation_part(
        spec,
        options,
        decoded.points,
        rates,
        session.decode_path,
        decoded.not_measured,
    )
    session.put(generation)
    longest = max(context for context, _ in decoded.points)
    session.put(_peak_memory(session, peak, build_s, prefilled, longest))
    session.put(session.energy.part())
    report(1.0, "Done")


def _environment(session: Session) -> Environment:
    """Hardware, software, kernels and the dtype of the states."""
    session.report(0.0, "Reading device information")
    described = device.environment(session.device)
    described["state_dtype"] = session.state_dtype
    environment = Environment.model_validate(described)
    session.put(environment)
    return environment


def _ceilings(session: Session) -> Hardware:
    """Measure the device's ceilings, and return what the predictions use.

    This is the device's stored calibration if there is one, else the ceilings.
    """
    session.report(0.06, "Measuring the device's ceilings")
    dtype = session.options.dtype
    key = hardware.calibration_key(str(session.device), dtype)
    known = hardware.calibrated().get(key)
    measured = Calibration(session.device, dtype).peak_and_bandwidth()
    basis = "the roofline of this device's measured ceilings"
    if known:
        basis = "this device's calibrated rates"
    part = results.Ceilings(
        flops_per_s=measured.flops_per_s,
        bytes_per_s=measured.bytes_per_s,
        dtype=measured.dtype,
        matrix=measured.matrix,
        fp32_times=measured.fp32_times,
        convention="measured",
        basis=basis,
    )
    session.put(part)
    return known or as_hardware(session.device, measured)


def _built(session: Session) -> tuple[HybridLM, float]:
    """The model, and the seconds that its build took."""
    params = model_costs(session.spec).params().total
    dtype = session.options.dtype
    session.report(0.08, f"Building {params / 1e9:.2f}B parameters in {dtype}")
    started = time.monotonic()
    model = build(
        session.spec,
        session.device,
        TORCH_DTYPES[dtype],
        session.options.seed,
    )
    device.synchronise(session.device)
    return model, time.monotonic() - started


def live_cache(session: Session, model: HybridLM) -> results.LiveCache:
    """Bytes of the live cache's tensors for one sequence, with the closed forms."""
    session.report(0.15, "Measuring the live cache")
    rows = []
    for total, problem in session.verdicts().items():
        if problem is None:
            rows.append(_cache_row(session, model, total))
    return results.LiveCache(
        convention="measured",
        per="sequence",
        rows=tuple(rows),
    )


def _cache_row(
    session: Session,
    model: HybridLM,
    total: int,
) -> results.CacheRow:
    """One total length. Its cache is freed before the next, larger one is created."""
    costs = model_costs(session.spec)
    workload = session.options.workload(total)
    cache = model.new_cache(
        1,
        total,
        TORCH_DTYPES[session.kv_dtype],
        TORCH_DTYPES[session.state_dtype],
    )
    return results.CacheRow(
        context_len=total,
        live_bytes=cache.nbytes,
        exact_bytes=int(costs.cache_bytes(total, "exact", workload)),
        paper_bytes=int(costs.cache_bytes(total, "paper")),
    )


def _peak_memory(
    session: Session,
    peak: device.PeakMemory,
    build_s: float,
    prefilled: Prefilled,
    longest: int,
) -> results.PeakMemory:
    """The peak, with the closed forms of weights, the longest cache and the prefill.

    The prefill is counted as it was run. If it ran in chunks, the part also gives the bytes that a
    one-shot prefill would need.
    """
    plan = prefilled.plan
    whole = memory(session.spec, session.options.workload(longest))
    used = whole._replace(activations=plan.activations)
    predicted = results.PredictedBytes(
        weights=int(used.weights),
        cache=int(used.cache),
        activations=int(used.activations),
        total=int(used.total),
    )
    return results.PeakMemory(
        convention="measured",
        peak_bytes=peak.bytes(),
        what=peak.what,
        context_len=longest,
        build_s=build_s,
        activations=prefilled.activations,
        one_shot_activations=plan.one_shot_activations,
        predicted_bytes=predicted,
    )
