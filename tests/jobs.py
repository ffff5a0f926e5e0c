"""A job's process that a test makes stand still, so that nothing depends on who is faster."""

import sqlite3
import time

import psutil

from hybrid_core.runs.store import RunStore


def suspend(store: RunStore, run_id: int) -> psutil.Process:
    """Stop the process of a run between two transactions: inside one it would keep the database locked. `resume()` lets it go on."""
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
