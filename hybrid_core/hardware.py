"""Accelerators and CPUs: their dense ceilings, each figure with its source, read from profiles/hardware/*.yaml."""

from functools import cache
from typing import Literal

import yaml
from pydantic import Field

from hybrid_core.data import PROFILES
from hybrid_core.spec import Frozen, Positive, SpecError


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

    def peak(self, dtype: str) -> float:
        """Dense FLOP/s at `dtype`; raises SpecError where the device has none."""
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


def get(key: str) -> Hardware:
    """The device called `key`. Raises SpecError that lists the known ones."""
    try:
        return catalogue()[key]
    except KeyError:
        raise SpecError(f"hardware: {key!r} - must be one of {', '.join(catalogue())}") from None
