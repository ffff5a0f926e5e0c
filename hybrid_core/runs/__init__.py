"""Runs: the store of results (`store.py`) and the queue of jobs that produce them (`jobs.py`,
`lease.py`, `worker.py`)."""
