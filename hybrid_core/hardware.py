"""Accelerators and CPUs: their dense ceilings, each figure with its source, read from profiles/hardware/*.yaml."""

from functools import cache
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field

from hybrid_core.data import PROFILES, data_dir
from hybrid_core.spec import Frozen, Positive, SpecError

MEMORY_SHARE = 0.9  # of a device's memory, which vLLM uses unless told otherwise (gpu_memory_utilization)


class Source(Frozen):
    """Where some of a device's figures are from, and what was done to them (such as halving a peak printed with sparsity)."""

    fields: tuple[str, ...] = Field(strict=False)
    text: str
    url: str


class PeakFlops(Frozen):
    """FLOP/s of dense matrix products per dtype, one multiply-add being 2; null where the device has no such units."""

    fp32: float
    bf16: float
    fp16: float
    fp8: float | None


class Rates(Frozen):
    """What a device was seen to do per kind of work, through the operations that the modules use (`calibrate`).

    `linear`: (rows, seconds per weight) of a matrix product with weights too large for the caches; the rest are FLOP/s, bytes/s and, per
    kind of layer, the seconds that a step spends on calls when there is nothing to compute.
    """

    dtype: str
    linear: tuple[tuple[int, float], ...] = Field(strict=False)
    attention_flops_per_s: float
    window_flops_per_s: float
    scan_flops_per_s: float
    kv_bytes_per_s: float
    state_bytes_per_s: float
    elementwise_bytes_per_s: float
    call_s: dict[str, float]

    def weight_s(self, rows: Any) -> Any:
        """Seconds per weight at `rows` rows: between two measured points along a line in logarithms, beyond the last in proportion."""
        known, seconds = (np.array(column, dtype=float) for column in zip(*self.linear, strict=True))
        inside = np.exp(np.interp(np.log(np.maximum(rows, 1.0)), np.log(known), np.log(seconds)))
        return inside * np.maximum(1.0, rows / known[-1])

    def calls_s(self, kind: str) -> float:
        """Seconds of calls per layer and step; a kind that came after the calibration is taken as the slowest one."""
        return self.call_s.get(kind, max(self.call_s.values()))


class Hardware(Frozen):
    """One device. Bandwidth is decimal bytes per second; peaks are dense, with fp32 accumulation."""

    key: str
    name: str
    kind: Literal["gpu", "cpu"]
    memory_bytes: int
    bandwidth_bytes_per_s: float
    peak_flops_per_s: PeakFlops
    tdp_w: Positive
    sources: tuple[Source, ...] = Field(strict=False)
    rates: Rates | None = None

    @property
    def usable_bytes(self) -> int:
        """What weights, cache and activations may take together."""
        return int(self.memory_bytes * MEMORY_SHARE)

    @property
    def basis(self) -> str:
        """What a prediction for this device rests on."""
        return f"calibrated rates of {self.name}" if self.rates else f"roofline ceiling of {self.name}"

    def peak(self, dtype: str) -> float:
        """Dense FLOP/s at `dtype`; raises SpecError where the device has none."""
        if self.rates and self.rates.dtype != dtype:
            raise SpecError(f"weight_dtype: {dtype!r} - {self.key} was calibrated in {self.rates.dtype}")
        peak: float | None = getattr(self.peak_flops_per_s, dtype)
        if peak is None:
            raise SpecError(f"weight_dtype: {dtype!r} - {self.key} has no dense {dtype} peak")
        return peak


@cache
def catalogue() -> dict[str, Hardware]:
    """Every known device by its key, GPUs first."""
    paths = sorted((PROFILES / "hardware").glob("*.yaml"))
    devices = [Hardware.model_validate(yaml.safe_load(path.read_text("utf-8"))) for path in paths]
    return {device.key: device for device in sorted(devices, key=lambda d: (d.kind == "cpu", d.key))}


def calibrated() -> dict[str, Hardware]:
    """This machine's devices as `calibrate` measured them, by key; none before it has run."""
    found = (Hardware.model_validate_json(path.read_text("utf-8")) for path in sorted(data_dir().glob("calibration-*.json")))
    return {device.key: device for device in found}


def calibration_key(device: str, dtype: str) -> str:
    """The key under which `calibrate` keeps a device ("cpu", "cuda:0") in a dtype."""
    return f"this_{device.replace(':', '')}_{dtype}"


def keep_calibration(device: Hardware) -> None:
    """Store a calibrated device with the user's data."""
    (data_dir() / f"calibration-{device.key}.json").write_text(device.model_dump_json(indent=1), "utf-8")


def devices() -> dict[str, Hardware]:
    """Every device that a cost can be asked for: this machine's calibrated ones first, then the catalogue."""
    return calibrated() | catalogue()


def get(key: str) -> Hardware:
    """The device called `key`. Raises SpecError that lists the known ones."""
    try:
        return devices()[key]
    except KeyError:
        raise SpecError(f"hardware: {key!r} - must be one of {', '.join(devices())}") from None
