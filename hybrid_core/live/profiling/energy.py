"""Joules per token, read from the device's own counter, with the idle power beside them.

The counter covers the whole board and moves in steps. NVML's moves about every 100 ms (measured by
ml-energy/zeus, docs and issue 12). It sums up power that A100 and H100 sample a quarter of the time
(arXiv 2312.02741). A reading may therefore be off by one step. So the same work is repeated until
one step is at most ERROR of the time between two readings; otherwise nothing is reported.

Idle power is reported but not subtracted. A token costs what the board draws while the token is
made, the idle share included. Besides, the idle power of a warm board is not a constant that one
could subtract exactly. Watts, seconds and tokens are reported together for those who want to.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from hybrid_core.live.profiling.device import synchronise

ERROR = 0.05  # the largest share of the measured time that one step of the counter may be


class NoMeter(RuntimeError):
    """No energy can be read; the message says why."""


class EnergyMeter(Protocol):
    """A counter of joules since some moment, which moves every `update_s` seconds."""

    name: str
    update_s: float

    def joules(self) -> float:
        """The counter now. Raises NoMeter where it cannot be read."""


class NvmlMeter:
    """The counter of an NVIDIA GPU (Volta and later), in millijoules since the driver was loaded.

    Raises NoMeter where there is none.
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
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            if not uuid.startswith("GPU-"):
                uuid = f"GPU-{uuid}"
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            raise NoMeter(f"no energy meter: NVML says {error}") from None
        self.joules()

    def joules(self) -> float:
        try:
            millijoules = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._nvml.NVMLError as error:
            raise NoMeter(f"no energy meter: NVML says {error}") from None
        return float(millijoules) / 1000


class EnergyLog:
    """The energy part of a run: idle power, and a row per measured phase.

    Without a meter nothing is run, and `why` is reported instead.
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
        self._idle: dict[str, Any] | None = None
        self._rows: list[dict[str, Any]] = []

    @classmethod
    def of(cls, device: torch.device) -> "EnergyLog":
        """A log with the device's meter, or with the reason why it has none."""
        try:
            return cls(device, NvmlMeter(device))
        except NoMeter as error:
            return cls(device, None, str(error))

    def idle(self, budget_s: float) -> None:
        """Measure watts while the device has nothing to do, with what is loaded on it now."""
        if self.meter is None:
            return
        shortest_s = self.meter.update_s / ERROR
        found = self._stretch(
            self.meter,
            lambda: self._sleep(shortest_s),
            0,
            budget_s,
        )
        watts = None if found["why"] else found["joules"] / found["seconds"]
        self._idle = {
            "watts": watts,
            "seconds": found["seconds"],
            "why": found["why"],
        }

    def measure(
        self,
        phase: str,
        work: Callable[[], object],
        tokens: int,
        budget_s: float,
        batch_size: int,
        context_len: int,
    ) -> None:
        """Repeat `work` for as long as the meter needs, if the budget allows it.

        Each call of `work` makes or reads `tokens` tokens. The caller has warmed up.
        """
        if self.meter is None:
            return
        found = self._stretch(self.meter, work, tokens, budget_s)
        per_token = None if found["why"] else found["joules"] / found["tokens"]
        row = {
            "phase": phase,
            "batch_size": batch_size,
            "context_len": context_len,
            "joules_per_token": per_token,
        }
        self._rows.append(row | found)

    def _stretch(
        self,
        meter: EnergyMeter,
        work: Callable[[], object],
        tokens: int,
        budget_s: float,
    ) -> dict[str, Any]:
        """Joules, seconds and tokens between two readings, or why there are none."""
        shortest_s = meter.update_s / ERROR
        if budget_s < shortest_s:
            left_s = max(0.0, budget_s)
            return _nothing(
                f"the {left_s:.1f} s that the budget leaves are too short for the meter, which is "
                f"updated every {meter.update_s:g} s: {shortest_s:g} s are needed for {ERROR:.0%}"
            )
        try:
            return self._between_readings(meter, work, tokens, shortest_s)
        except NoMeter as error:
            return _nothing(str(error))

    def _between_readings(
        self,
        meter: EnergyMeter,
        work: Callable[[], object],
        tokens: int,
        shortest_s: float,
    ) -> dict[str, Any]:
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
            return _nothing(f"the meter did not move in {seconds:.1f} s")
        return {
            "joules": joules,
            "seconds": seconds,
            "tokens": counted,
            "why": None,
        }

    def as_dict(self) -> dict[str, Any]:
        """The `energy` part of the run. Where there is no figure, `why` gives the reason."""
        meter = self.meter.name if self.meter else None
        return {
            "convention": "measured",
            "meter": meter,
            "note": self.why,
            "error": ERROR,
            "idle": self._idle,
            "rows": self._rows,
        }


def _nothing(why: str) -> dict[str, Any]:
    return {
        "joules": None,
        "seconds": None,
        "tokens": None,
        "why": why,
    }
