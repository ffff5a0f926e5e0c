"""The devices of this machine: pages offer them, and jobs queue per device.

Only torch knows which GPUs a job will see, and under which numbers. The driver applies
CUDA_VISIBLE_DEVICES (numbers, UUIDs, MIG slices), CUDA_DEVICE_ORDER and their ROCm counterparts. So
we ask torch once, in a separate process, and never import it here."""

import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

from hybrid_core import extras
from hybrid_core.limits import total_memory_bytes
from hybrid_core.live.profiling.options import device_among

PATIENCE_S = 120.0  # the first import of torch from a cold disk is slow


class Device(NamedTuple):
    """A device that a job can run on. `key` is torch's name for it, such as "cuda:0"."""

    key: str
    name: str
    memory_bytes: int


def devices() -> tuple[Device, ...]:
    """The GPUs that torch can use, then the CPU. The first call takes seconds if torch was built
    for GPUs."""
    found, _ = _asked()
    listed = []
    for index, (name, memory_bytes) in enumerate(found):
        listed.append(Device(f"cuda:{index}", name, memory_bytes))
    listed.append(Device("cpu", "CPU", total_memory_bytes()))
    return tuple(listed)


def why_no_gpu() -> str | None:
    """Why torch finds no GPU although it was built for GPUs. None if it finds one, or if this is a
    CPU-only build."""
    return _asked()[1]


def concrete(name: str) -> str:
    """The device that a name such as "auto" refers to on this machine. All jobs for a device share
    a queue, so the queue needs this name. Raises SpecError: see `device_among`."""
    if name == "cpu":
        return name
    return device_among([device.key for device in devices()], name)


@cache
def _asked() -> tuple[list[tuple[str, int]], str | None]:
    """The name and memory of each GPU, and why there are none, from `profiling.device.gpus` in a
    separate process."""
    if extras.missing("live") or "+cpu" in version("torch"):
        return [], None
    try:
        said = _said_by_torch()
    except subprocess.TimeoutExpired:
        return [], f"torch did not list its GPUs within {PATIENCE_S:g} s"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        return [], f"torch could not list its GPUs ({lines[-1]})"
    last_line = said.splitlines()[-1]  # libraries may print warnings before that line
    found, why = json.loads(last_line)
    return [(name, memory_bytes) for name, memory_bytes in found], why


def _said_by_torch() -> str:
    """The output of that process. Raises what `subprocess.run` raises."""
    path = os.pathsep.join(filter(None, sys.path))
    # A mistake in HYBRID_KERNELS must not make this fail; `require_tools` reports it.
    environment = os.environ | {"PYTHONPATH": path, "HYBRID_KERNELS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_core.live.profiling.device"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
        env=environment,
    )
    return done.stdout
