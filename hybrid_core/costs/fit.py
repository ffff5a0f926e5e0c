"""Whether a workload fits an accelerator: the one verdict that every page, command and report
gives.

Weights as they are stored, the cache of the whole batch, and the activations of one chunk of the
prefill have to fit the share of the memory that a serving engine uses: with the cache as it is, and
with the cache in the engine's equal pages."""

from typing import NamedTuple, Protocol

from hybrid_core.costs.engine import MEMORY_SHARE, EngineView, Fit, engine_view
from hybrid_core.costs.memory import Memory, Refusal, memory, narrower_weights
from hybrid_core.design.spec import ArchSpec
from hybrid_core.workload import Workload


class Device(Protocol):
    """What the verdict asks of an accelerator: its name, and the bytes that an engine may use of
    its memory."""

    @property
    def name(self) -> str: ...

    @property
    def usable_bytes(self) -> int: ...


class Verdict(NamedTuple):
    """Bytes that serving takes, `paged_bytes` being the batch's cache in pages, beside what may be
    used; and why it does not fit."""

    device: str
    used: Memory
    paged_bytes: int
    usable_bytes: int
    refusal: Refusal | None
    paged_refusal: Refusal | None

    @property
    def fits(self) -> bool:
        """Whether it fits with the cache as it is."""
        return self.refusal is None

    @property
    def fits_engine(self) -> bool:
        """Whether it fits with the cache in pages, too."""
        return self.fits and self.paged_refusal is None

    @property
    def problem(self) -> str | None:
        """One line where it does not fit, or fits only without pages."""
        used = f"({MEMORY_SHARE:.0%} of its memory, what an engine uses)"
        if self.refusal:
            return f"does not fit {self.device}: {self.refusal} {used}"
        if self.paged_refusal:
            return f"fits {self.device}, but not in the equal pages of vLLM: {self.paged_refusal} {used}"
        return None


def fit(
    spec: ArchSpec, workload: Workload, device: Device, view: EngineView | None = None
) -> Verdict:
    """The verdict on a design; `view` is its engine view where that is known already."""
    view = view or engine_view(spec, workload, device.usable_bytes)
    used, usable = memory(spec, workload), device.usable_bytes
    fixed, paged = int(used.weights + used.activations), workload.batch_size * view.paged_bytes

    def refused(cache_bytes: int, room: Fit) -> Refusal | None:
        if fixed + cache_bytes <= usable:
            return None
        narrower = narrower_weights(spec, workload, usable, cache_bytes)
        return Refusal(
            fixed + cache_bytes, usable, room.batch_size or None, room.context_len or None, narrower
        )

    return Verdict(
        device.name,
        used,
        paged,
        usable,
        refused(int(used.cache), view.ideal),
        refused(paged, view.paged),
    )
