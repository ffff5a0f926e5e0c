"""Runs: what was measured, when and how (`store.py`), and the jobs that measure (`jobs.py`,
`lease.py`, `worker.py`)."""

from hybrid_core.runs.jobs import Dispatcher, cancel, submit
from hybrid_core.runs.schema import StoreError
from hybrid_core.runs.store import Run, RunStore, open_store

__all__ = ["Dispatcher", "Run", "RunStore", "StoreError", "cancel", "open_store", "submit"]
