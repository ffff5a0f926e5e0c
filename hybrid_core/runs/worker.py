"""The process of one job: `python -m hybrid_core.runs.worker RUN_ID LEASE`. Takes its lease, works,
stores, ends."""

import sys
import time
import traceback
from typing import Any

from hybrid_core.data import NotWritten
from hybrid_core.runs.jobs import Dispatcher
from hybrid_core.runs.kinds import KINDS
from hybrid_core.runs.lease import Lease, LostLease
from hybrid_core.runs.schema import StoreError
from hybrid_core.runs.store import Run, open_store
from hybrid_core.validation import SpecError
from kernels.implementations import CannotRun

STUCK_S = 600.0  # without a word, once the budget is used up


def main(run_id: int, word: str) -> int:
    """Run the job; 0 when it is done, 1 when it failed (the run says why)."""
    store = open_store()
    run = store.get(run_id)
    pace = Pace(None if run.foreign else run.options.get("budget_s"))
    lease = Lease(store, run_id, word, pace.overdue)
    try:
        lease.take()
        if run.foreign:
            raise SpecError(run.foreign)
        work(run, lease, pace)
        lease.finish("done")
        return 0
    except LostLease as error:  # cancelled while it started, or given to another
        print(error)
        return 1
    except Exception as error:
        traceback.print_exc()
        lease.finish("failed", reason(error))
        return 1
    finally:
        Dispatcher(store).start_next()  # the queue moves on, whether or not a server runs


class Pace:
    """Whether a job still gets somewhere. One without a budget may take its time."""

    def __init__(self, budget_s: float | None, clock: Any = time.monotonic) -> None:
        self.budget_s, self.clock = budget_s, clock
        self.started = self.last_word = clock()

    def word(self) -> None:
        """Something was reported or stored."""
        self.last_word = self.clock()

    def overdue(self) -> str | None:
        """Why the job should be ended, or None."""
        if self.budget_s is None:
            return None
        silent_s = self.clock() - max(self.last_word, self.started + self.budget_s)
        if silent_s < STUCK_S:
            return None
        silent = f"no progress for {silent_s / 60:.0f} minutes"
        return f"{silent} after its budget of {self.budget_s:g} s was used up"


def work(run: Run, lease: Lease, pace: Pace) -> None:
    """Do what the run's kind does with its design, storing every part as it comes."""
    lease.report(0.0, "Starting torch")
    kind = KINDS[run.kind]
    do = kind.load()

    def report(fraction: float, message: str) -> None:
        pace.word()
        lease.report(fraction, message)

    def store(name: str, data: dict[str, Any]) -> None:
        pace.word()
        lease.put_part(name, data)

    do(run.spec, kind.options.make(**run.options), store, report)


def reason(error: Exception) -> str:
    """One line for the user: what happened, and what to try."""
    from torch import OutOfMemoryError

    from hybrid_core.live.profiling.job import DoesNotFit
    from hybrid_core.live.profiling.trace import UnknownOperation

    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    if isinstance(
        error, (DoesNotFit, UnknownOperation, SpecError, CannotRun, StoreError, NotWritten)
    ):
        return first
    if isinstance(error, (OutOfMemoryError, MemoryError)) or "can't allocate memory" in first:
        return f"out of memory: {first}. Try a smaller batch, shorter contexts or bf16"
    return f"{type(error).__name__}: {first}"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
