"""The profile in this process: what fits, how it prefills, what a token's energy is. Clocks and
meters are given, none is asked."""

import sys
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from hybrid_core.costs.memory import memory
from hybrid_core.costs.model import model_costs
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.modules.cache import TORCH_DTYPES, Cache
from hybrid_core.live.modules.generate import prefilled
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.modules.rope import Rope
from hybrid_core.live.profiling import device, throughput
from hybrid_core.live.profiling import profile as profiling
from hybrid_core.live.profiling.calibrate import Calibration, DeviceCeilings
from hybrid_core.live.profiling.energy import EnergyLog, NoMeter, NvmlMeter
from hybrid_core.live.profiling.job import DoesNotFit
from hybrid_core.live.profiling.live_memory import LiveTensors
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.profiling.prefill import PrefillTimer
from hybrid_core.live.profiling.profile import live_cache, profile
from hybrid_core.live.profiling.room import (
    SMALLEST_CHUNK,
    chunk_activations,
    measurable,
    prefill_plan,
)
from hybrid_core.live.profiling.session import Session
from hybrid_core.results.profile import Counts, Trace
from hybrid_core.speed.hardware import catalogue
from hybrid_core.validation import SpecError
from hybrid_core.workload import Workload
from tests.designs import design, widened
from tests.live.test_modules import VARIANTS

CPU = torch.device("cpu")
OPTIONS = ProfileOptions(
    device="cpu",
    budget_s=600,
    dtype="fp32",
    kv_cache_dtype="fp32",
    batch_size=2,
    prompt_len=300,
    totals=(400, 512),
)


@pytest.fixture(autouse=True)
def no_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a device's ceilings are does not matter here, and measuring them takes a second."""
    ceilings = DeviceCeilings(
        flops_per_s=1e9,
        bytes_per_s=1e9,
        dtype="fp32",
        matrix=256,
        fp32_times=1.0,
    )
    monkeypatch.setattr(Calibration, "peak_and_bandwidth", lambda self: ceilings)
    counts = Counts(fvcore=1, torch=1, exact=1)
    traced = Trace(seq_len=8192, forward=counts, decode=counts)
    monkeypatch.setattr(profiling, "trace", lambda spec, seq_len: traced)


def profiled(
    spec: ArchSpec, options: ProfileOptions = OPTIONS, energy: EnergyLog | None = None
) -> dict[str, dict[str, Any]]:
    """The parts of a run."""
    parts: dict[str, dict[str, Any]] = {}
    profile(spec, options, parts.__setitem__, lambda fraction, message: None, energy)
    return parts


def session(spec: ArchSpec, options: ProfileOptions) -> Session:
    """A run that stores and reports nothing."""
    return Session(spec, options, lambda name, data: None, lambda fraction, message: None)


# ---------------------------------------------------------------- what fits


class Room:
    """A device with so many bytes, from which the weights of what is built are gone."""

    def __init__(self, n_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_bytes, self.built = n_bytes, 0
        monkeypatch.setattr(device, "available_bytes", lambda device: self.free_bytes)
        monkeypatch.setattr(profiling, "build", self._build)

    def _build(self, *args: Any) -> HybridLM:
        self.built += 1
        model = build(*args)
        self.free_bytes -= sum(parameter.nbytes for parameter in model.parameters())
        return model


HEAVY = design("AM", d_model=256, vocab_size=40_000)  # almost all that it needs is weights


def needed(spec: ArchSpec, options: ProfileOptions) -> int:
    """Bytes of the shortest total length, prefilled at once."""
    return int(memory(spec, options.workload(min(options.totals))).total)


def test_a_design_with_room_for_one_and_a_half_times_its_need_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need = needed(HEAVY, OPTIONS)
    room = Room(int(1.5 * need), monkeypatch)
    parts = profiled(HEAVY)
    assert room.built == 1 and room.free_bytes < need  # the weights, charged again, would not fit
    assert [row["total_len"] for row in parts["generation"]["rows"]] == [400, 512]
    assert parts["generation"]["not_measured"] == [] and parts["prefill"]["chunk_tokens"] is None


def test_a_design_without_room_for_its_need_is_refused_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = Room(4 * model_costs(HEAVY).params().total, monkeypatch)
    with pytest.raises(
        DoesNotFit,
        match=r"^small-AM at batch 2, 400 tokens: needs [\d.]+ MiB, [\d.]+ MiB are available",
    ):
        profiled(HEAVY)
    assert room.built == 0


def test_memory_that_is_gone_after_the_build_is_a_refusal_with_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = Room(2 * needed(HEAVY, OPTIONS), monkeypatch)
    first = room._build

    def build_and_lose(*args: Any) -> HybridLM:
        model = first(*args)
        room.free_bytes = 2**10
        return model

    monkeypatch.setattr(profiling, "build", build_and_lose)
    with pytest.raises(
        DoesNotFit, match=r"on top of its weights: needs [\d.]+ MiB, 0\.0 MiB are available"
    ):
        profiled(HEAVY)


def test_a_prompt_beyond_every_total_is_one_line() -> None:
    with pytest.raises(
        SpecError, match=r"^prompt_len: 513 - must be at most the longest of totals \(512\)$"
    ):
        profiled(design("A"), OPTIONS.model_copy(update={"prompt_len": 513}))


# ---------------------------------------------------------------- a prefill in chunks


PROMPT = 600
DTYPES = [
    ("fp32", "fp32", "fp32"),
    ("fp32", "bf16", "fp32"),
    ("bf16", "bf16", "bf16"),
    ("bf16", "fp8", "fp16"),
]


@pytest.mark.parametrize("dtypes", DTYPES, ids="-".join)
@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_a_chunk_holds_no_more_than_the_closed_form_says(
    spec: ArchSpec, dtypes: tuple[str, str, str]
) -> None:
    """Seen operation by operation on the live model. 2^15 bytes are let through: small tensors that
    the closed form leaves out."""
    assert live_bytes_of_a_chunk(spec, dtypes) <= _said(spec, dtypes) + 2**15


@pytest.mark.parametrize("name", ["M", "S", "AMSH", "NADM", "Mamba-1", "Hymba"])
def test_a_chunk_of_a_wide_design_holds_what_the_closed_form_says(name: str) -> None:
    """Where small tensors no longer count, within the 5 % of the closed form of one shot."""
    spec = widened(VARIANTS[name], 4)
    assert live_bytes_of_a_chunk(spec, DTYPES[1]) <= 1.05 * _said(spec, DTYPES[1])


def _said(spec: ArchSpec, dtypes: tuple[str, str, str]) -> int:
    return chunk_activations(model_costs(spec), _work(dtypes), 128, PROMPT)


def _work(dtypes: tuple[str, str, str]) -> Workload:
    weights, kv, state = dtypes
    return Workload(
        batch_size=2, context_len=PROMPT, weight_dtype=weights, kv_cache_dtype=kv, state_dtype=state
    )


def live_bytes_of_a_chunk(spec: ArchSpec, dtypes: tuple[str, str, str]) -> int:
    """The most that a prefill of two prompts in chunks of 128 tokens holds beside weights and
    cache."""
    weights, kv, state = dtypes
    Rope.forget()
    model = build(spec, dtype=TORCH_DTYPES[weights])
    with torch.inference_mode():
        cache = model.new_cache(2, PROMPT, TORCH_DTYPES[kv], TORCH_DTYPES[state])
        with LiveTensors() as live:
            prefilled(model, torch.zeros(2, PROMPT, dtype=torch.long), cache, 128)
    return live.peak_bytes


def test_the_largest_chunk_that_fits_is_taken() -> None:
    spec, work = (
        design("AM"),
        Workload(batch_size=2, context_len=PROMPT, weight_dtype="fp32", kv_cache_dtype="fp32"),
    )
    costs = model_costs(spec)
    # Keys and values: 2 sequences x 600 tokens x 2 heads x (8 + 8) x 4 bytes; 2 states 4 x 16 x 8
    # and 2 x 3 rows of 64 + 2 x 8.
    cache = 2 * 600 * 2 * 16 * 4 + 2 * 4 * 16 * 8 * 4 + 2 * 3 * 80 * 4
    at_once = prefill_plan(spec, work, 2**40).activations
    needs = {
        tokens: chunk_activations(costs, work, tokens, PROMPT) for tokens in (64, 128, 256, 512)
    }
    assert prefill_plan(spec, work, cache + at_once) == (None, at_once, at_once)
    assert needs[64] < needs[128] < needs[256] < at_once
    assert prefill_plan(spec, work, cache + needs[256]) == (256, needs[256], at_once)
    assert prefill_plan(spec, work, cache + needs[256] - 1) == (128, needs[128], at_once)
    with pytest.raises(
        DoesNotFit,
        match=r"small-AM at batch 2, prompt 600: 64 tokens at a time need .* on top of the weights",
    ):
        prefill_plan(spec, work, cache + needs[64] - 1)
    assert measurable(spec, work, cache + needs[64], weights_loaded=True) is None


def test_a_profile_whose_prompt_does_not_fit_at_once_prefills_in_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, work = HEAVY, OPTIONS.workload(300)
    weights, cache = (
        4 * model_costs(spec).params().total,
        int(memory(spec, OPTIONS.workload(512)).cache),
    )
    Room(
        weights + cache + chunk_activations(model_costs(spec), work, SMALLEST_CHUNK, 300),
        monkeypatch,
    )
    pieces = calls_of_the_model(monkeypatch)
    parts = profiled(spec)
    assert parts["prefill"]["chunk_tokens"] == 64 and parts["prefill"]["prompt_len"] == 300
    assert pieces.count(64) >= 4 and 300 not in pieces  # 4 x 64 + 44
    found = parts["memory"]
    assert found["predicted_bytes"]["activations"] < found["one_shot_activations"]


def calls_of_the_model(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens of a sequence each call of a model from now on has."""
    lengths: list[int] = []
    forward = HybridLM.forward

    def counted(self: HybridLM, tokens: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        lengths.append(tokens.shape[1])
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(HybridLM, "forward", counted)
    return lengths


# ---------------------------------------------------------------- what is timed


@pytest.mark.parametrize("budget_s", [0.0, 2.0, 40.0])
def test_a_call_that_compiles_is_never_the_figure(
    budget_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, seconds = Clock(), iter([30.0])  # the first call of each work compiles
    monkeypatch.setattr("hybrid_core.live.profiling.throughput.time.perf_counter", clock)
    timing = throughput.prefill(lambda: clock.sleep(next(seconds, 1.5)), CPU, budget_s)
    assert set(timing.seconds) == {1.5}
    assert len(timing.seconds) == (
        5 if budget_s == 40.0 else 1
    )  # 30 s of the budget are spent before anything is counted


@pytest.mark.parametrize(
    ("token_s", "affordable"),
    [(0.0, (4, 8192)), (1e-4, (4, 8192)), (3e-4, (1, 8192)), (1e-2, (1, 256))],
)
def test_the_prompt_is_cut_by_what_tokens_take_not_by_what_a_call_takes(
    token_s: float, affordable: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call takes 10 ms however short it is: 64 tokens alone would say 0.16 ms a token, 5 s for 4
    x 8192 of them, twice."""
    lengths: list[int] = []
    monkeypatch.setattr(
        throughput,
        "prefill_work",
        lambda model, batch, length, *how: lengths.append(length) or list,
    )
    monkeypatch.setattr(
        throughput,
        "prefill",
        lambda work, device, budget_s: throughput.Timing([0.01 + token_s * lengths[-1]]),
    )
    options = OPTIONS.model_copy(update={"batch_size": 4, "prompt_len": 8192, "totals": (16384,)})
    timer = PrefillTimer(session(design("A"), options), catalogue()["h100_sxm"])
    assert timer.affordable_prompt(build(design("A"), "meta"), 8.0, 2**40) == affordable


def test_what_is_timed_asks_for_no_gradients() -> None:
    seen = []
    timing = throughput.repeat(
        lambda: seen.append(torch.is_grad_enabled()), CPU, 1.0, most=3, least=2
    )
    assert seen == [False] * (1 + len(timing.seconds))


def test_a_live_cache_is_gone_before_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that fit one by one, both at once may not."""
    made: list[weakref.ref[torch.Tensor]] = []
    new_cache = HybridLM.new_cache

    def one_at_a_time(self: HybridLM, batch: int, *args: Any) -> Cache:
        assert not made or made.pop()() is None
        cache = new_cache(self, batch, *args)
        made.append(weakref.ref(next(cache.tensors())))
        return cache

    monkeypatch.setattr(HybridLM, "new_cache", one_at_a_time)
    live_cache(session(design("A"), OPTIONS), build(design("A")))
    assert len(made) == 1


# ---------------------------------------------------------------- dtype of the states


@pytest.mark.parametrize(
    ("own", "asked", "weights", "used", "width"),
    [
        (None, None, "fp32", "fp32", 4),
        (None, None, "bf16", "bf16", 2),
        ("fp32", None, "bf16", "fp32", 4),
        ("fp32", "fp16", "bf16", "fp16", 2),
    ],
)
def test_states_are_in_the_dtype_asked_for_else_the_designs_else_the_weights(
    own: str | None, asked: str | None, weights: str, used: str, width: int
) -> None:
    options = OPTIONS.model_copy(
        update={"dtype": weights, "kv_cache_dtype": "bf16", "state_dtype": asked}
    )
    parts = profiled(design("M", state_dtype=own), options)
    assert parts["environment"]["state_dtype"] == used
    # A state of 4 heads x 16 x 8, and 3 rows of 64 + 2 x 8 channels in the weights' dtype.
    conv_width = 4 if weights == "fp32" else 2
    assert {row["live_bytes"] for row in parts["cache"]["rows"]} == {
        4 * 16 * 8 * width + 3 * 80 * conv_width
    }
    assert all(row["live_bytes"] == row["exact_bytes"] for row in parts["cache"]["rows"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("state_dtype", "fp8"),
        ("state_dtype", "int8"),
        ("kv_cache_dtype", "int8"),
        ("kv_cache_dtype", "int4"),
        ("dtype", "fp8"),
    ],
)
def test_a_dtype_that_the_modules_lack_is_one_line(key: str, value: str) -> None:
    with pytest.raises(SpecError, match=f"^{key}: '{value}' - .*fp32") as error:
        ProfileOptions.make(**{key: value})
    assert len(str(error.value).splitlines()) == 1


# ---------------------------------------------------------------- energy


class Clock:
    """Stands still unless work is done, or somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeMeter:
    """50 W all the time, and `joules_of()` more."""

    name, update_s = "fake", 0.1

    def __init__(self, clock: Clock, joules_of: Callable[[], float] = lambda: 0.0) -> None:
        self.clock, self.joules_of = clock, joules_of

    def joules(self) -> float:
        return 50 * self.clock() + self.joules_of()


def test_joules_per_token_are_those_between_two_readings_over_the_counted_tokens() -> None:
    clock, done = Clock(), [7]  # seven calls before anything is counted

    def work() -> None:
        done[0] += 1
        clock.sleep(0.3)

    log = EnergyLog(CPU, FakeMeter(clock, lambda: 4.0 * done[0]), clock=clock, sleep=clock.sleep)
    log.idle(10)
    log.measure("decode", work, tokens=8, budget_s=10, batch_size=8, context_len=512)
    part = log.part().record()
    assert part["idle"] == {"watts": 50.0, "seconds": 2.0, "why": None}
    # 2 s are 20 steps of the counter, so 7 calls of 0.3 s: 2.1 s at 50 W and 7 x 4 J, over 56
    # tokens.
    (row,) = part["rows"]
    assert (row["tokens"], row["why"]) == (56, None)
    assert row["seconds"] == pytest.approx(2.1) and row["joules"] == pytest.approx(133.0)
    assert row["joules_per_token"] == pytest.approx(133 / 56)


def test_a_stretch_too_short_for_the_meter_is_not_run_and_says_so() -> None:
    clock = Clock()
    log = EnergyLog(CPU, FakeMeter(clock), clock=clock, sleep=clock.sleep)
    log.idle(1.9)
    log.measure(
        "prefill", lambda: pytest.fail("ran"), tokens=8, budget_s=0.4, batch_size=8, context_len=512
    )
    part = log.part().record()
    why = (
        "the 0.4 s left in the budget are too short for the meter, which is updated "
        "every 0.1 s: 2 s are needed for 5%"
    )
    assert part["rows"][0]["why"] == why and part["rows"][0]["joules_per_token"] is None
    assert part["idle"]["watts"] is None and part["idle"]["why"].startswith("the 1.9 s")
    assert clock.now == 0.0


def test_a_meter_that_stands_still_or_fails_gives_no_figure() -> None:
    clock = Clock()
    still, broken = FakeMeter(clock), FakeMeter(clock)
    still.joules = lambda: 3.0  # type: ignore[method-assign]

    def fail() -> float:
        raise NoMeter("no energy meter: NVML says Unknown Error")

    broken.joules = fail  # type: ignore[method-assign]
    for meter, why in (
        (still, "the meter did not move in 2.0 s"),
        (broken, "no energy meter: NVML says Unknown Error"),
    ):
        log = EnergyLog(CPU, meter, clock=clock, sleep=clock.sleep)
        log.measure(
            "decode", lambda: clock.sleep(0.5), tokens=1, budget_s=5, batch_size=1, context_len=9
        )
        assert log.part().record()["rows"][0]["why"] == why


class Nvml(ModuleType):
    """pynvml with one GPU, whose counter stands at 1,234,567 mJ."""

    class NVMLError(Exception):
        pass

    supported = True

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if not self.supported:
            raise self.NVMLError("Not Supported")
        assert handle == "GPU-aa-bb"
        return 1_234_567


@pytest.mark.parametrize("uuid", ["aa-bb", "GPU-aa-bb"])
def test_nvml_is_asked_by_uuid_and_counts_millijoules(
    uuid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = Nvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuid)
    )
    assert NvmlMeter(torch.device("cuda", 0)).joules() == 1234.567
    nvml.supported = False
    part = EnergyLog.of(torch.device("cuda", 0)).part().record()
    assert (part["meter"], part["note"]) == (None, "no energy meter: NVML says Not Supported")


def test_a_cpu_has_no_meter_and_says_so() -> None:
    part = EnergyLog.of(CPU).part().record()
    assert (part["meter"], part["rows"], part["idle"]) == (None, [], None)
    assert part["note"] == "no energy meter: not an NVIDIA GPU"


@pytest.mark.parametrize("pattern", ["A", "AMSH"])
def test_a_profiles_energy_is_that_of_counted_calls_alone(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of the model takes a second and, beside 50 W, 6 J: any other call between the
    readings would show in J per token."""
    lengths, clock = calls_of_the_model(monkeypatch), Clock()
    clock_of_calls = lambda: float(len(lengths)) + clock.now  # noqa: E731
    meter = FakeMeter(clock_of_calls, lambda: 6.0 * len(lengths))  # type: ignore[arg-type]
    log = EnergyLog(CPU, meter, clock=clock_of_calls, sleep=clock.sleep)
    part = profiled(design(pattern), OPTIONS, log)["energy"]
    assert part["idle"]["watts"] == pytest.approx(50.0)
    rows = [
        (row["phase"], row["batch_size"], row["context_len"], row["tokens"]) for row in part["rows"]
    ]
    assert rows == [
        ("prefill", 2, 300, 2 * 2 * 300),
        ("decode", 2, 300, 2 * 2),
        ("decode", 2, 512, 2 * 2),
    ]  # two seconds, two calls
    assert [row["joules_per_token"] for row in part["rows"]] == pytest.approx(
        [56 / 600, 56 / 2, 56 / 2]
    )
