"""The device at hand: find it, describe it, query its free memory, wait for it."""

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
    """The device that a name refers to in this process: see `device_among`.

    Every measurement starts here, so this also limits torch's threads to the processors that this
    process may use. Raises SpecError for a device that torch does not find.
    """
    _use_no_more_threads_than_processors()
    if name == "cpu":  # without querying the GPUs, which takes a second
        return torch.device("cpu")
    found, _ = gpus()
    names = [f"cuda:{index}" for index in range(len(found))]
    known = [*names, "cpu"]
    return torch.device(device_among(known, name))


def gpus() -> tuple[list[tuple[str, int]], str | None]:
    """Name and bytes of each GPU that torch can use, in torch's order ("cuda:0" first).

    The second value is torch's reason for finding none, or None if there are some.
    """
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        # RuntimeError: no driver or no visible GPU. AssertionError: a build without CUDA.
        first_line = str(error).partition("\n")[0]
        return [], first_line
    found = []
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        found.append((gpu.name, gpu.total_memory))
    return found, None


def _use_no_more_threads_than_processors() -> None:
    """Limit torch's threads to the CPU time that this process gets.

    torch starts a thread for each processor that it may run on. If the container's control group
    grants less CPU time than that, these threads get in each other's way.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    if torch.get_num_threads() > processors():
        torch.set_num_threads(processors())


def describe(device: torch.device) -> dict[str, Any]:
    """The hardware and software of a measurement, for the report."""
    if device.type == "cuda":
        device_name = torch.cuda.get_device_name(device)
        memory_bytes = torch.cuda.get_device_properties(device).total_memory
    else:
        device_name = _cpu_name()
        memory_bytes = total_memory_bytes()
    found = {
        "device": str(device),
        "name": device_name,
        "memory_bytes": memory_bytes,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": _package_versions(),
        "hybrid_core": __version__,
    }
    if device.type == "cuda":
        found["cuda"] = torch.version.cuda
    return found


def _package_versions() -> dict[str, str]:
    """The versions of the packages that affect a measurement's speed."""
    packages = {}
    for name in ("torch", "triton", "mamba-ssm", "numpy", "fvcore"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return packages


def environment(device: torch.device) -> dict[str, Any]:
    """`describe`, and the implementation that each operation uses on this device.

    Raises CannotRun if the user forced an implementation that this device cannot run.
    """
    require_forced(device.type)
    found = describe(device)
    found["kernels"] = explain(device.type)
    return found


def _cpu_name() -> str:
    """The processor's name as Linux reports it, with the number of usable cores."""
    name = platform.processor() or platform.machine()
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.startswith("model name"):
            name = value.strip()
            break
    return f"{name}, {processors()} cores"


def _lines(path: str) -> list[str]:
    """The lines of a file, or none if it cannot be read."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def available_bytes(device: torch.device) -> int:
    """Bytes of memory that could be allocated now.

    On a CPU, this is the smallest amount left in the machine and its control groups.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return available_memory_bytes()


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def current(device: torch.device) -> AbstractContextManager[Any]:
    """A context that makes this device the current one.

    Kernels of other libraries launch on the current device, wherever their tensors are.
    """
    if device.type == "cuda":
        return torch.cuda.device(device)
    return nullcontext()


def free_memory(device: torch.device) -> None:
    """Give unused memory back to the device, so that every part of a run starts the same way."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class PeakMemory:
    """Peak memory since `reset`.

    On CUDA, this is the memory that torch allocated; on a CPU, the resident size of this process.
    `what` says which, and whether Linux refused to reset the high-water mark.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.what = "resident in the process, Python and libraries included"
        if device.type == "cuda":
            self.what = "allocated on the device"
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
        for line in _lines("/proc/self/status"):
            if line.startswith("VmHWM"):  # "VmHWM:  123456 kB"
                _, kib, _ = line.split()
                return int(kib) * 1024
        resident = psutil.Process().memory_info().rss
        return int(resident)


if __name__ == "__main__":  # `hybrid_core.runs.devices` runs this file in a separate process
    print(json.dumps(gpus()))
