"""Joules per token, read from the device's own counter, along with the idle power.

The counter covers the whole board and moves in steps. NVML's is updated about every 100 ms, as
ml-energy/zeus measured (its docs and issue 12). A100 and H100 sample the power only a quarter of
the time (arXiv 2312.02741). So a reading may be off by one step. The same work is therefore
repeated until one step is at most ERROR of the time between two readings. If the budget is too
small for that, no figure is reported.

Idle power is reported but not subtracted. A token costs all the energy that the board draws while
generating it, and that includes the idle power. Besides, the idle power of a warm board is not
constant, so it cannot be subtracted exactly. Joules, seconds and tokens are all reported for those
who want to try.
"""

import time
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch

from hybrid_core.live.profiling.device import synchronise
from hybrid_core.results import profile as results

ERROR = 0.05  # one step of the counter may be at most this share of the measured time


class NoMeter(RuntimeError):
    """The energy cannot be read; the message says why."""


class EnergyMeter(Protocol):
    """A counter of joules since some moment, updated every `update_s` seconds."""

    name: str
    update_s: float

    def joules(self) -> float:
        """The current value of the counter. Raises NoMeter if it cannot be read."""


class NvmlMeter:
    """The counter of an NVIDIA GPU (Volta and later), in millijoules since the driver was loaded.

    Raises NoMeter if there is none.
    """

    name = "NVML total energy of the whole board"
    update_s = 0.1

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise NoMeter("no energy meter: not an NVIDIA GPU")
        import pynvml

        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            # By UUID, since NVML does not number the GPUs as CUDA_VISIBLE_DEVICES does.
            properties = torch.cuda.get_device_properties(device)
            uuid = str(properties.uuid).removeprefix("GPU-")
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except pynvml.NVMLError as error:
            raise NoMeter(f"no energy meter: NVML says {error}") from None
        self.joules()

    def joules(self) -> float:
        try:
            millijoules = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._nvml.NVMLError as error:
            raise NoMeter(f"no energy meter: NVML says {error}") from None
        return float(millijoules) / 1000


class Reading(NamedTuple):
    """Joules, seconds and tokens between two readings of the meter, or why there are none."""

    joules: float | None = None
    seconds: float | None = None
    tokens: int | None = None
    why: str | None = None

    @property
    def watts(self) -> float | None:
        if self.joules is None or self.seconds is None:
            return None
        return self.joules / self.seconds

    @property
    def joules_per_token(self) -> float | None:
        if self.joules is None or self.tokens is None:
            return None
        return self.joules / self.tokens


class EnergyLog:
    """The energy part of a run: idle power, and a row per measured phase.

    Without a meter, it runs no work and reports `why`.
    """

    def __init__(
        self,
        device: torch.device,
        meter: EnergyMeter | None,
        why: str = "",
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.device = device
        self.meter = meter
        self.why = why
        self._clock = clock
        self._sleep = sleep
        self._idle: results.Idle | None = None
        self._rows: list[results.EnergyRow] = []

    @classmethod
    def of(cls, device: torch.device) -> "EnergyLog":
        """A log with the device's meter, or with the reason for not having one."""
        try:
            return cls(device, NvmlMeter(device))
        except NoMeter as error:
            return cls(device, None, str(error))

    def idle(self, budget_s: float) -> None:
        """Measure watts while the device is idle, with everything that is loaded on it now."""
        if self.meter is None:
            return
        shortest_s = self.meter.update_s / ERROR

        def rest() -> None:
            self._sleep(shortest_s)

        found = self._repeat(self.meter, rest, 0, budget_s)
        self._idle = results.Idle(
            watts=found.watts,
            seconds=found.seconds,
            why=found.why,
        )

    def measure(
        self,
        phase: Literal["prefill", "decode"],
        work: Callable[[], object],
        tokens: int,
        budget_s: float,
        batch_size: int,
        context_len: int,
    ) -> None:
        """Repeat `work` for as long as the meter needs, if the budget allows it.

        Each call of `work` generates or reads `tokens` tokens. The caller has warmed it up.
        """
        if self.meter is None:
            return
        found = self._repeat(self.meter, work, tokens, budget_s)
        row = results.EnergyRow(
            phase=phase,
            batch_size=batch_size,
            context_len=context_len,
            joules_per_token=found.joules_per_token,
            joules=found.joules,
            seconds=found.seconds,
            tokens=found.tokens,
            why=found.why,
        )
        self._rows.append(row)

    def _repeat(
        self,
        meter: EnergyMeter,
        work: Callable[[], object],
        tokens: int,
        budget_s: float,
    ) -> Reading:
        """Repeat `work`, of `tokens` tokens a call, if the budget is long enough for the meter."""
        shortest_s = meter.update_s / ERROR
        if budget_s < shortest_s:
            left_s = max(0.0, budget_s)
            why = (
                f"the {left_s:.1f} s left in the budget are too short for the meter, which is "
                f"updated every {meter.update_s:g} s: {shortest_s:g} s are needed for {ERROR:.0%}"
            )
            return Reading(why=why)
        try:
            return self._between_readings(meter, work, tokens, shortest_s)
        except NoMeter as error:
            return Reading(why=str(error))

    def _between_readings(
        self,
        meter: EnergyMeter,
        work: Callable[[], object],
        tokens: int,
        shortest_s: float,
    ) -> Reading:
        """Read the meter, repeat `work` for at least `shortest_s`, and read the meter again."""
        counted = 0
        seconds = 0.0
        synchronise(self.device)
        started = self._clock()
        before = meter.joules()
        while seconds < shortest_s:
            work()
            synchronise(self.device)
            counted += tokens
            seconds = self._clock() - started
        joules = meter.joules() - before
        if joules <= 0:
            return Reading(why=f"the meter did not move in {seconds:.1f} s")
        return Reading(joules, seconds, counted)

    def part(self) -> results.Energy:
        """The `energy` part of the run. If a figure is missing, `why` gives the reason."""
        meter = self.meter.name if self.meter else None
        return results.Energy(
            convention="measured",
            meter=meter,
            note=self.why,
            error=ERROR,
            idle=self._idle,
            rows=tuple(self._rows),
        )
