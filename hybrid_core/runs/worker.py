"""The process of one job: `python -m hybrid_core.runs.worker RUN_ID LEASE`. It takes the lease,
does the work, stores each part of the result, and ends the run."""

import sys
import time
import traceback
from typing import Any

from hybrid_core.data import NotWritten
from hybrid_core.live.profiling.job import DoesNotFit
from hybrid_core.runs.jobs import Dispatcher
from hybrid_core.runs.kinds import KINDS
from hybrid_core.runs.lease import Lease, LostLease
from hybrid_core.runs.schema import StoreError
from hybrid_core.runs.store import Run, open_store
from hybrid_core.validation import SpecError
from kernels.implementations import CannotRun

# Errors of our own, whose messages are written for the user.
EXPLAINED = (DoesNotFit, SpecError, CannotRun, StoreError, NotWritten)
STUCK_S = 600.0  # seconds without progress, once the budget is used up


def main(run_id: int, token: str) -> int:
    """Run the job. Returns 0 if it is done, and 1 if it failed; the run then has the reason."""
    store = open_store()
    run = store.get(run_id)
    budget_s = None
    if not run.foreign:
        budget_s = run.options.get("budget_s")
    pace = Pace(budget_s)
    lease = Lease(store, run_id, token, pace.overdue)
    try:
        lease.take()
        if run.foreign:
            raise SpecError(run.foreign)
        work(run, lease, pace)
        lease.finish("done")
        return 0
    except LostLease as error:  # cancelled during startup, or given to another worker
        print(error)
        return 1
    except Exception as error:
        traceback.print_exc()
        lease.finish("failed", reason(error))
        return 1
    finally:
        Dispatcher(store).start_next()  # so that the queue moves on even without a server


class Pace:
    """Tracks whether a job still makes progress. A job without a budget is never overdue."""

    def __init__(self, budget_s: float | None, clock: Any = time.monotonic) -> None:
        self.budget_s = budget_s
        self.clock = clock
        self.started = clock()
        self.last_progress = self.started

    def progress(self) -> None:
        """Record that the job has just reported or stored something."""
        self.last_progress = self.clock()

    def overdue(self) -> str | None:
        """Why the job should be ended, or None."""
        if self.budget_s is None:
            return None
        budget_end = self.started + self.budget_s
        silent_s = self.clock() - max(self.last_progress, budget_end)
        if silent_s < STUCK_S:
            return None
        silent = f"no progress for {silent_s / 60:.0f} minutes"
        return f"{silent} after its budget of {self.budget_s:g} s was used up"


def work(run: Run, lease: Lease, pace: Pace) -> None:
    """Do the run's job, and store each part of the result as soon as it is ready."""
    lease.report(0.0, "Starting torch")
    kind = KINDS[run.kind]
    do = kind.load()

    def report(fraction: float, message: str) -> None:
        pace.progress()
        lease.report(fraction, message)

    def store(name: str, data: dict[str, Any]) -> None:
        pace.progress()
        lease.put_part(name, data)

    do(run.spec, kind.options.make(**run.options), store, report)


def reason(error: Exception) -> str:
    """One line for the user: what went wrong, and what to try."""
    lines = str(error).splitlines() or [""]
    first = lines[0] or type(error).__name__
    if isinstance(error, EXPLAINED):
        return first
    # Imported late, because a job that was rejected above never needed torch.
    from torch import OutOfMemoryError

    from hybrid_core.live.profiling.trace import UnknownOperation

    if isinstance(error, UnknownOperation):
        return first
    # On a CPU torch raises a plain RuntimeError when it cannot allocate.
    is_memory_error = isinstance(error, (OutOfMemoryError, MemoryError))
    if is_memory_error or "can't allocate memory" in first:
        return f"out of memory: {first}. Try a smaller batch, shorter contexts or bf16"
    return f"{type(error).__name__}: {first}"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
