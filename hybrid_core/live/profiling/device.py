"""The device at hand: which one, what it is, how much memory it has free, how to wait for it."""

import gc
import json
import os
import platform
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from hybrid_core import __version__
from hybrid_core.limits import available_memory_bytes, processors, total_memory_bytes
from hybrid_core.live.profiling.options import device_among
from kernels.dispatch import explain, require_forced


def resolve(name: str) -> torch.device:
    """The device that a name means to this process: see `device_among`. Raises SpecError for one
    that torch does not find.

    Whoever measures asks this first, so it also keeps torch to the processors that this process may
    use."""
    _use_no_more_threads_than_processors()
    found = [] if name == "cpu" else gpus()[0]
    return torch.device(
        device_among([*(f"cuda:{index}" for index in range(len(found))), "cpu"], name)
    )


def gpus() -> tuple[list[tuple[str, int]], str | None]:
    """Name and bytes of each GPU that torch can use, in torch's order ("cuda:0" first); where there
    is none, why, in torch's words."""
    try:
        torch.cuda.init()
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # no driver or no GPU that may be seen; a build of torch without CUDA
        return [], str(error).partition("\n")[0]
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [(gpu.name, gpu.total_memory) for gpu in found], None


def _use_no_more_threads_than_processors() -> None:
    """torch makes a thread for each processor that it may run on; where a control group gives the
    time of fewer, they stop each other."""
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > processors():
        torch.set_num_threads(processors())


def describe(device: torch.device) -> dict[str, Any]:
    """Hardware and software that a measurement rests on, for the report."""
    packages = {}
    for name in ("torch", "triton", "mamba-ssm", "numpy", "fvcore"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    found = {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory
        if device.type == "cuda"
        else total_memory_bytes(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
        "hybrid_core": __version__,
    }
    return found | ({"cuda": torch.version.cuda} if device.type == "cuda" else {})


def environment(device: torch.device) -> dict[str, Any]:
    """What a job's result rests on: `describe`, and the implementation of each operation on this
    device. Raises CannotRun where one was asked for that this device cannot run."""
    require_forced(device.type)
    return describe(device) | {"kernels": explain(device.type)}


def _cpu_name() -> str:
    """The processor's name as the kernel prints it, with the number of cores that may be used."""
    names = [
        line.split(":", 1)[1].strip()
        for line in _lines("/proc/cpuinfo")
        if line.startswith("model name")
    ]
    return (
        f"{names[0] if names else platform.processor() or platform.machine()}, {processors()} cores"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def available_bytes(device: torch.device) -> int:
    """Memory that could be allocated now. On a CPU the least of what the machine and what its
    control groups have left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory_bytes()


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def current(device: torch.device) -> AbstractContextManager[Any]:
    """While it is open, work that names no device goes to this one: kernels of other libraries
    launch on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def free_memory(device: torch.device) -> None:
    """Give unused memory back, so that the next part starts from the same place."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class PeakMemory:
    """Peak memory since `reset`: what CUDA allocated, or the resident size of this process where
    Linux lets us reset its mark."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.what = (
            "allocated on the device"
            if device.type == "cuda"
            else "resident in the process, Python and libraries included"
        )
        self.reset()

    def reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.what += ", since the process started"

    def bytes(self) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        marks = [
            line.split()[1] for line in _lines("/proc/self/status") if line.startswith("VmHWM")
        ]
        return int(marks[0]) * 1024 if marks else int(psutil.Process().memory_info().rss)


if __name__ == "__main__":  # what `hybrid_core.runs.devices` asks
    print(json.dumps(gpus()))
