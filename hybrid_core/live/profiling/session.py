"""State shared by all parts of a profile: design, options, device, clock, and where results go."""

import time
from functools import partial

from hybrid_core.costs.memory import Refusal, memory
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.modules.decode import resolve
from hybrid_core.live.profiling import device
from hybrid_core.live.profiling.energy import EnergyLog
from hybrid_core.live.profiling.job import DoesNotFit, Report, Store, put
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.profiling.room import measurable, prefill_plan
from hybrid_core.validation import SpecError


class Session:
    """One profile while it runs. Its clock starts when the object is created."""

    def __init__(
        self,
        spec: ArchSpec,
        options: ProfileOptions,
        store: Store,
        report: Report,
        energy: EnergyLog | None = None,
    ) -> None:
        self.spec = spec
        self.options = options
        self.put = partial(put, store)
        self.report = report
        self.started = time.monotonic()
        self.device = device.resolve(options.device)
        self.energy = energy or EnergyLog.of(self.device)
        self.decode_path = resolve(options.decode, self.device.type)
        self.batch = options.batch_size
        self.prompt = options.prompt_len
        self.kv_dtype = options.kv_cache_dtype
        self.state_dtype = options.states_in(spec)

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        spent_s = time.monotonic() - self.started
        return max(0.0, self.options.budget_s - spent_s)

    def free_bytes(self) -> int:
        """Bytes of memory that could be allocated now, with the weights in place."""
        device.free_memory(self.device)
        return device.available_bytes(self.device)

    def verdicts(self) -> dict[int, Refusal | None]:
        """For each total length, why it does not fit next to the weights, or None if it does.

        Raises DoesNotFit if none fits.
        """
        free = self.free_bytes()
        found: dict[int, Refusal | None] = {}
        for total in sorted(self.options.totals):
            workload = self.options.workload(total)
            found[total] = measurable(
                self.spec,
                workload,
                free,
                weights_loaded=True,
            )
        smallest = min(found)
        problem = found[smallest]
        if problem:
            raise DoesNotFit(f"{self._asked(smallest)}, on top of its weights: {problem}")
        return found

    def refuse_what_cannot_fit(self) -> None:
        """Raise DoesNotFit before anything is built, or SpecError if the prompt leaves no token to
        decode."""
        smallest = min(self.options.totals)
        longest = max(self.options.totals)
        if self.prompt > longest:
            rule = f"must be at most the longest of totals ({longest})"
            raise SpecError(f"prompt_len: {self.prompt} - {rule}")
        free = device.available_bytes(self.device)
        workload = self.options.workload(smallest)
        problem = measurable(self.spec, workload, free)
        if problem:
            raise DoesNotFit(f"{self._asked(smallest)}: {problem}")
        prompt = self.options.workload(self.prompt)
        used = memory(self.spec, prompt)
        prefill_plan(self.spec, prompt, free - int(used.weights))

    def _asked(self, total: int) -> str:
        return f"{self.spec.name} at batch {self.batch}, {total:,} tokens"
