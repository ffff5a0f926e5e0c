"""Jobs that a test makes stand still, or that hold a device, so that nothing depends on who is
faster.

`python -m tests.jobs RUN_ID LEASE` is a worker whose job stores one part and then stands still. It
needs no torch."""

import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.profiling.job import Report, Store
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.runs import worker
from hybrid_core.runs.kinds import KINDS, Kind
from hybrid_core.runs.lease import CLOCK
from hybrid_core.runs.store import RunStore


@contextmanager
def kept_alive(store: RunStore, run_id: int) -> Iterator[None]:
    """Renew the lease of a running run in its worker's place, until the run ends."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(0.5):
            store.renew(run_id, str(store.get(run_id).lease), CLOCK.boot, CLOCK.seconds())

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def device_taken(store: RunStore, spec: ArchSpec, device: str) -> Iterator[int]:
    """A run that holds a device and does nothing, with no process: jobs for it wait meanwhile,
    however long a test takes."""
    run_id = store.create("profile", spec, {}, device)
    while store.get(run_id).status != "running":
        store.claim("held by a test", CLOCK.boot, CLOCK.seconds())
    with kept_alive(store, run_id):
        yield run_id
    store.finish(run_id, "cancelled")
    store.delete(run_id)


def suspend(store: RunStore, run_id: int) -> psutil.Process:
    """Stop the process of a run between two transactions: inside one it would keep the database
    locked. `resume()` lets it go on."""
    process = psutil.Process(store.get(run_id).pid)
    while True:
        process.suspend()
        while process.status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        if _can_be_written(store):
            return process
        process.resume()
        time.sleep(0.01)


def _can_be_written(store: RunStore) -> bool:
    connection = sqlite3.connect(str(store.engine.url.database), timeout=0)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True


def stand_still(spec: ArchSpec, options: ProfileOptions, store: Store, report: Report) -> None:
    """A job that stores a part and never ends."""
    store("trace", {"flops": 1})
    threading.Event().wait()


if __name__ == "__main__":
    KINDS["profile"] = Kind(ProfileOptions, "tests.jobs:stand_still")
    sys.exit(worker.main(int(sys.argv[1]), sys.argv[2]))
