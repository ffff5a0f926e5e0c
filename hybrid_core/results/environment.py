"""The device and the software that a run used: the first part of every result."""

from typing import ClassVar

from pydantic import Field

from hybrid_core.results.part import Part


class Environment(Part):
    """The device, its memory, and the versions of the software.

    `kernels`: the implementation chosen for each operation. `kernels_ran`: the implementations that
    actually ran. In a profile, `decode` is how decode steps were run, and `state_dtype` is the
    dtype of scan states."""

    part: ClassVar[str] = "environment"
    device: str
    name: str
    memory_bytes: int | None = None
    threads: int
    platform: str = ""
    python: str = ""
    packages: dict[str, str]
    hybrid_core: str = ""
    cuda: str | None = None
    kernels: dict[str, str] = Field(default_factory=dict)
    state_dtype: str | None = None
    kernels_ran: dict[str, str] = Field(default_factory=dict)
    decode: str | None = None
