"""Whether a workload fits an accelerator. Every page, command and report uses this verdict.

Three things have to fit into the share of memory that a serving engine uses: the stored weights,
the cache of the whole batch, and the activations of one chunk of the prefill. There is one verdict
for the exact cache and one for the cache in the engine's pages."""

from typing import NamedTuple, Protocol

from hybrid_core.costs.engine import MEMORY_SHARE, EngineView, Fit, served_view
from hybrid_core.costs.memory import Memory, Refusal, Serving, narrower_weights
from hybrid_core.design.spec import ArchSpec
from hybrid_core.workload import Workload


class Device(Protocol):
    """The accelerator data that the verdict needs: its name, and the bytes of memory that an engine
    may use."""

    @property
    def name(self) -> str: ...

    @property
    def usable_bytes(self) -> int: ...


class Verdict(NamedTuple):
    """Bytes that serving needs and may use, and why it does not fit, if so. `paged_bytes`: the
    batch's cache in pages."""

    device: str
    used: Memory
    paged_bytes: int
    usable_bytes: int
    refusal: Refusal | None
    paged_refusal: Refusal | None

    @property
    def fits(self) -> bool:
        """Whether it fits with the exact cache."""
        return self.refusal is None

    @property
    def fits_engine(self) -> bool:
        """Whether it also fits with the cache in pages."""
        return self.fits and self.paged_refusal is None

    @property
    def problem(self) -> str | None:
        """One line if it does not fit, or fits only without pages; else None."""
        used = f"({MEMORY_SHARE:.0%} of its memory, the share that an engine uses)"
        if self.refusal:
            return f"does not fit {self.device}: {self.refusal} {used}"
        if self.paged_refusal:
            without = f"fits {self.device}, but not in vLLM's equal-size pages"
            return f"{without}: {self.paged_refusal} {used}"
        return None


def fit(spec: ArchSpec, workload: Workload, device: Device) -> Verdict:
    """The verdict on a design."""
    serving = Serving(spec, workload)
    return served_fit(serving, device, served_view(serving, device.usable_bytes))


def served_fit(serving: Serving, device: Device, view: EngineView) -> Verdict:
    """`fit` for an existing Serving and engine view."""
    used = serving.memory()
    usable = device.usable_bytes
    fixed = int(used.weights + used.activations)
    paged = serving.workload.batch_size * view.paged_bytes

    def refused(cache_bytes: int, room: Fit) -> Refusal | None:
        if fixed + cache_bytes <= usable:
            return None
        return Refusal(
            needed_bytes=fixed + cache_bytes,
            available_bytes=usable,
            batch_size=room.batch_size or None,
            context_len=room.context_len or None,
            weight_dtype=narrower_weights(serving, usable, cache_bytes),
        )

    return Verdict(
        device=device.name,
        used=used,
        paged_bytes=paged,
        usable_bytes=usable,
        refusal=refused(int(used.cache), view.ideal),
        paged_refusal=refused(paged, view.paged),
    )
