"""The devices of this machine, found without torch: pages offer them, and jobs queue per device."""

from functools import cache
from importlib.metadata import version
from typing import NamedTuple

import pynvml

from hybrid_core.limits import total_memory_bytes


class Device(NamedTuple):
    """A device that a job can run on: torch's name for it, what it is, its memory."""

    key: str
    name: str
    memory_bytes: int


@cache
def devices() -> tuple[Device, ...]:
    """GPUs that torch's build can use first, then the CPU."""
    cpu = Device("cpu", "CPU", total_memory_bytes())
    if "+cpu" in version("torch"):
        return (cpu,)
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        found = [(pynvml.nvmlDeviceGetName(h), pynvml.nvmlDeviceGetMemoryInfo(h).total) for h in handles]
    except pynvml.NVMLError:
        return (cpu,)
    return (*(Device(f"cuda:{index}", str(name), int(total)) for index, (name, total) in enumerate(found)), cpu)


def concrete(name: str) -> str:
    """ "auto" and "cuda" as the device they mean here, so that jobs for one device share one queue."""
    if name == "auto":
        return devices()[0].key
    return "cuda:0" if name == "cuda" else name
