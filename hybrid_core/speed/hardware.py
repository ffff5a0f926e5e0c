"""Accelerators and CPUs: their dense ceilings, each with its source, from
profiles/hardware/*.yaml."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import Field, ValidationError, field_validator

from hybrid_core.costs.engine import MEMORY_SHARE
from hybrid_core.data import PROFILES, data_dir, data_path, write_whole
from hybrid_core.files import read_file
from hybrid_core.terms import Num
from hybrid_core.validation import Dim, Frozen, Positive, SpecError, first_line, nearest, short

MEASURE_AGAIN = "delete the file, or run `python -m hybrid_core calibrate` again"


class Source(Frozen):
    """The source of some of a device's figures, and any conversion (such as halving a peak that is
    printed with sparsity)."""

    fields: tuple[str, ...] = Field(strict=False)
    text: str
    url: str


class PeakFlops(Frozen):
    """FLOP/s of dense matrix products per dtype; one multiply-add is 2 FLOPs. Null if the device
    has no such units."""

    fp32: float
    bf16: float
    fp16: float
    fp8: float | None


CallSeconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Rates(Frozen):
    """Measured rates of a device per kind of work, with the operations that the modules use
    (`calibrate`).

    `linear`: (rows, seconds per weight) of a matrix product with weights too large for the caches;
    The others are FLOP/s, bytes/s and, per kind of layer, the seconds of call overhead in a
    step."""

    dtype: str
    linear: Annotated[tuple[tuple[Dim, Positive], ...], Field(strict=False, min_length=1)]
    attention_flops_per_s: float
    window_flops_per_s: float
    scan_flops_per_s: float
    kv_bytes_per_s: float
    state_bytes_per_s: float
    elementwise_bytes_per_s: float
    call_s: Annotated[dict[str, CallSeconds], Field(min_length=1)]

    @field_validator("linear")
    @classmethod
    def _more_and_more_rows(
        cls, linear: tuple[tuple[int, float], ...]
    ) -> tuple[tuple[int, float], ...]:
        for (rows, _), (next_rows, _) in pairwise(linear):
            if next_rows <= rows:
                raise ValueError("rows must increase from point to point")
        return linear

    def weight_s(self, rows: Num) -> Num:
        """Seconds per weight at `rows` rows. Interpolates log-log between measured points; beyond
        the last point, time is proportional to rows."""
        known, seconds = (
            np.array(column, dtype=float) for column in zip(*self.linear, strict=True)
        )
        log_rows = np.log(np.maximum(rows, 1.0))
        inside: Num = np.exp(np.interp(log_rows, np.log(known), np.log(seconds)))
        beyond: Num = np.maximum(1.0, rows / known[-1])
        return inside * beyond

    def calls_s(self, kind: str) -> float:
        """Seconds of call overhead per layer and step. A kind that is newer than the calibration
        counts as the slowest one."""
        return self.call_s.get(kind, max(self.call_s.values()))


class Hardware(Frozen):
    """One device. Bandwidth is decimal bytes per second; peaks are dense, with fp32
    accumulation."""

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
        """Bytes that weights, cache and activations may use together."""
        return int(self.memory_bytes * MEMORY_SHARE)

    @property
    def basis(self) -> str:
        """The source of predictions for this device."""
        return (
            f"calibrated rates of {self.name}" if self.rates else f"roofline ceiling of {self.name}"
        )

    def peak(self, dtype: str) -> float:
        """Dense FLOP/s at `dtype`. Raises SpecError if the device has no such peak."""
        if self.rates and self.rates.dtype != dtype:
            raise SpecError(
                f"weight_dtype: {dtype!r} - {self.key} was calibrated in {self.rates.dtype}"
            )
        peak: float | None = getattr(self.peak_flops_per_s, dtype)
        if peak is None:
            raise SpecError(f"weight_dtype: {dtype!r} - {self.key} has no dense {dtype} peak")
        return peak


@cache
def catalogue() -> dict[str, Hardware]:
    """Every known device by its key, GPUs first: datasheets from profiles/hardware, and measured
    devices from profiles/measured."""
    found = []
    for sheet in sorted((PROFILES / "hardware").glob("*.yaml")):
        fields = yaml.safe_load(sheet.read_text("utf-8"))
        found.append(Hardware.model_validate(fields))
    for record in sorted((PROFILES / "measured").glob("*.json")):
        found.append(read_device(record))
    found.sort(key=_gpus_first)
    return {device.key: device for device in found}


def _gpus_first(device: Hardware) -> tuple[bool, str]:
    return device.kind == "cpu", device.key


def calibrated() -> dict[str, Hardware]:
    """This machine's devices as measured by `calibrate`, by key. Empty until it has run. Files that
    cannot be read are left out (`unreadable`)."""
    return _calibrations()[0]


def unreadable() -> dict[str, str]:
    """Calibrations that cannot be used, by device key, each with the reason in one line."""
    return _calibrations()[1]


def _calibrations() -> tuple[dict[str, Hardware], dict[str, str]]:
    found, wrong = {}, {}
    for path in sorted(data_path().glob(_file_name("*"))):
        key = path.stem.removeprefix("calibration-")
        try:
            found[key] = _read_calibration(path)
        except SpecError as error:
            wrong[key] = str(error)
    return found, wrong


def _read_calibration(path: Path) -> Hardware:
    """A device as stored by `calibrate`. Raises SpecError as `read_device` does, and if the key
    does not match the file's name."""
    device = read_device(path)
    if path.name != _file_name(device.key):
        raise SpecError(
            f"{path}: key: {short(device.key)} - must match the file's name; {MEASURE_AGAIN}"
        )
    return device


def read_device(path: Path) -> Hardware:
    """A measured device. Raises SpecError with one line for a file that is cut off or has figures
    in another unit."""
    try:
        data = read_file(path, "calibration")
    except SpecError as error:
        raise SpecError(f"{error} - {MEASURE_AGAIN}") from None
    try:
        device = Hardware.model_validate_json(data)
        _check_units(device)
    except ValidationError as error:
        cut = error.errors()[0]["type"] == "json_invalid"
        raise SpecError(
            f"{path}: {'cut or damaged' if cut else first_line(error, Hardware)} - {MEASURE_AGAIN}"
        ) from None
    except SpecError as error:
        raise SpecError(f"{path}: {error}; {MEASURE_AGAIN}") from None
    return device


# Limits that no device exceeds. A figure beyond them must be in another unit.
_PEAK = (1e8, 1e18, "FLOP/s")
_FLOPS = (1e6, 1e18, "FLOP/s")
_BYTES = (1e6, 1e15, "bytes/s")
_UNITS: dict[str, tuple[float, float, str]] = {
    "memory_bytes": (2**28, 2**50, "bytes"),
    "bandwidth_bytes_per_s": (1e8, 1e15, "bytes/s"),
    "tdp_w": (0.1, 1e5, "W"),
    **dict.fromkeys(("fp32", "bf16", "fp16", "fp8"), _PEAK),
    **dict.fromkeys(("attention_flops_per_s", "window_flops_per_s", "scan_flops_per_s"), _FLOPS),
    **dict.fromkeys(("kv_bytes_per_s", "state_bytes_per_s", "elementwise_bytes_per_s"), _BYTES),
}


def _check_units(device: Hardware) -> None:
    """Raise SpecError for a figure that must be in the wrong unit."""
    for part in (device, device.peak_flops_per_s, device.rates):
        for key, (least, most, unit) in _UNITS.items():
            value = getattr(part, key, None)
            if value is not None and not least <= value <= most:
                raise SpecError(
                    f"{key}: {value} - must be in {unit}, from {least:.0e} to {most:.0e}"
                )


def calibration_key(device: str, dtype: str) -> str:
    """The key under which `calibrate` stores a device ("cpu", "cuda:0") in a dtype."""
    return f"this_{device.replace(':', '')}_{dtype}"


def keep_calibration(device: Hardware) -> None:
    """Store a calibrated device in the user's data folder. Raises NotWritten."""
    write_whole(data_dir() / _file_name(device.key), device.model_dump_json(indent=1))


def _file_name(key: str) -> str:
    return f"calibration-{key}.json"


def devices() -> dict[str, Hardware]:
    """Every device that costs can be computed for: this machine's calibrated devices first, then
    the catalogue."""
    return calibrated() | catalogue()


def get(key: str) -> Hardware:
    """The device with this key. Raises SpecError that lists the known keys."""
    if key in catalogue():
        return catalogue()[key]  # without reading the user's files
    known = devices()
    if key in known:
        return known[key]
    why = unreadable().get(key) or f"must be {nearest(key, known)}"
    raise SpecError(f"hardware: {short(key)} - {why}")
