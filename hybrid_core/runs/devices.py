"""The devices of this machine: pages offer them, and jobs queue per device.

Which GPUs a job will see, and under which numbers, only torch knows: the driver applies
CUDA_VISIBLE_DEVICES (numbers, UUIDs, MIG), CUDA_DEVICE_ORDER and its ROCm counterparts. So torch is
asked, once, in a process of its own: nobody here imports it."""

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

PATIENCE_S = 120.0  # torch's first start from a cold disk takes its time


class Device(NamedTuple):
    """A device that a job can run on: torch's name for it, what it is, its memory."""

    key: str
    name: str
    memory_bytes: int


def devices() -> tuple[Device, ...]:
    """GPUs that torch can use first, then the CPU. The first call takes seconds where torch's build
    knows GPUs."""
    found, _ = _asked()
    gpus = (Device(f"cuda:{index}", name, n_bytes) for index, (name, n_bytes) in enumerate(found))
    return (*gpus, Device("cpu", "CPU", total_memory_bytes()))


def why_no_gpu() -> str | None:
    """Why there is none although torch's build knows GPUs; None where there is one, or where the
    build knows none."""
    return _asked()[1]


def concrete(name: str) -> str:
    """The device that a name means here, so that jobs for one device share one queue: see
    `device_among`. Raises SpecError."""
    if name == "cpu":
        return name
    return device_among([device.key for device in devices()], name)


@cache
def _asked() -> tuple[list[tuple[str, int]], str | None]:
    """What `profiling.device.gpus` says in a process of its own."""
    if extras.missing("live") or "+cpu" in version("torch"):
        return [], None
    try:
        said = _said_by_torch()
    except subprocess.TimeoutExpired:
        return [], f"torch did not say within {PATIENCE_S:g} s which it finds"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        return [], f"torch could not be asked which it finds ({lines[-1]})"
    found, why = json.loads(said.splitlines()[-1])
    return [(name, n_bytes) for name, n_bytes in found], why


def _said_by_torch() -> str:
    """What the process printed. Raises what `subprocess.run` does."""
    path = os.pathsep.join(filter(None, sys.path))
    # What is wrong with HYBRID_KERNELS is said elsewhere.
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
