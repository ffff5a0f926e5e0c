"""Runs: what was measured, when and how (`store.py`), and the jobs that measure (`jobs.py`, `worker.py`)."""

from hybrid_core.runs.jobs import cancel, submit
from hybrid_core.runs.store import Run, RunStore, open_store

__all__ = ["Run", "RunStore", "cancel", "open_store", "submit"]
