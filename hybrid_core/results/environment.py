"""The device and the software that a result rests on: the first part of every run."""

from typing import ClassVar

from pydantic import Field

from hybrid_core.results.part import Part


class Environment(Part):
    """`kernels`: the implementation of each operation that would be taken; `kernels_ran`: those
    that ran. `decode` and `state_dtype`: how a profile made its steps and kept its scan states."""

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
