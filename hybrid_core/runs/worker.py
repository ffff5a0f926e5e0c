"""The process of one job: `python -m hybrid_core.runs.worker RUN_ID`. Waits for its turn, works, stores, ends."""

import fcntl
import sys
import time
import traceback
from typing import IO

from hybrid_core.data import data_dir
from hybrid_core.runs.jobs import bury_the_dead
from hybrid_core.runs.kinds import KINDS
from hybrid_core.runs.store import ACTIVE, Run, RunStore, now, open_store
from hybrid_core.spec import SpecError
from kernels.implementations import CannotRun


def main(run_id: int) -> int:
    """Run the job; 0 when it is done, 1 when it failed (the run says why)."""
    store = open_store()
    run = store.get(run_id)
    lock = wait_for_turn(store, run)
    if not store.change(run_id, only_if=("queued",), status="running", started_at=now()):
        return 1  # cancelled while it waited
    try:
        work(store, run)
    except Exception as error:
        traceback.print_exc()
        store.finish(run_id, "failed", reason(error))
        return 1
    finally:
        lock.close()
    store.finish(run_id, "done")
    return 0


def wait_for_turn(store: RunStore, run: Run) -> IO[bytes]:
    """One job per device at a time, in the order of their numbers. The lock dies with its process."""
    place = data_dir() / "locks" / f"{run.device.replace(':', '-')}.lock"
    place.parent.mkdir(exist_ok=True)
    lock = place.open("wb")
    while True:
        bury_the_dead(store)
        ahead = [other for other in store.list(with_parts=False, statuses=ACTIVE) if other.device == run.device and other.id < run.id]
        if not ahead:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                pass
        store.change(run.id, only_if=("queued",), message=f"Waiting for run {ahead[-1].id}" if ahead else "Waiting for the device")
        time.sleep(0.3)


def work(store: RunStore, run: Run) -> None:
    """Do what the run's kind does with its design, storing every part as it comes."""
    store.change(run.id, message="Starting torch")
    kind = KINDS[run.kind]
    do = kind.load()  # late: a job that waits needs no torch

    def report(fraction: float, message: str) -> None:
        store.change(run.id, only_if=("running",), fraction=fraction, message=message)

    do(run.spec, kind.options.make(**run.options), lambda name, data: store.put_part(run.id, name, data), report)


def reason(error: Exception) -> str:
    """One line for the user: what happened, and what to try."""
    from torch import OutOfMemoryError

    from hybrid_core.profiling.job import DoesNotFit
    from hybrid_core.profiling.trace import UnknownOperation

    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    if isinstance(error, (DoesNotFit, UnknownOperation, SpecError, CannotRun)):
        return first
    if isinstance(error, (OutOfMemoryError, MemoryError)) or "can't allocate memory" in first:
        return f"out of memory: {first}. Try a smaller batch, shorter contexts or bf16"
    return f"{type(error).__name__}: {first}"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
