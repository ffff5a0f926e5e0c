"""Jobs: a run that is measured in a process of its own, so that a crash there never takes the app down. No torch here.

A queued run already has its process, which waits for its turn on the device (`worker.py`). Whoever looks at the queue first buries
the dead: a run whose process is gone is never shown as running.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys

import psutil

from hybrid_core.data import data_dir
from hybrid_core.profiling.options import ProfileOptions
from hybrid_core.runs.devices import concrete
from hybrid_core.runs.kinds import Options, kind_of
from hybrid_core.runs.store import ACTIVE, Run, RunStore, now, open_store
from hybrid_core.spec import ArchSpec, SpecError
from kernels.implementations import CannotRun, require_installed

SPAWN_GRACE_S = 30


def submit(spec: ArchSpec, options: Options, store: RunStore | None = None) -> int:
    """Queue a job of the kind that `options` belong to and start its process; returns the run's number.

    Raises SpecError, with the command that installs it, for what the job needs and this machine lacks.
    """
    require_tools(options)
    store = store or open_store()
    options = options.model_copy(update={"device": concrete(options.device)})
    run_id = store.create(kind_of(options), spec, options.model_dump(mode="json"), options.device)
    log = store.get(run_id).log_path
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "hybrid_core.runs.worker", str(run_id)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"HYBRID_DATA_DIR": str(data_dir()), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    started = psutil.Process(process.pid).create_time()
    store.change(run_id, host=socket.gethostname(), pid=process.pid, pid_started=started)
    return run_id


def require_tools(options: Options) -> None:
    """Raise SpecError, with the command that installs it, for what was asked for and is not installed with the app."""
    try:
        require_installed(os.environ.get("HYBRID_KERNELS", ""))
    except CannotRun as error:
        raise SpecError(str(error)) from None
    compiled = isinstance(options, ProfileOptions) and options.decode == "compiled"
    if compiled and shutil.which(os.environ.get("CXX", "g++")) is None:  # what torch's inductor calls
        raise SpecError("decode: 'compiled' - needs a C++ compiler, and none is found; `apt-get install g++` installs one")


def cancel(run_id: int, store: RunStore | None = None) -> bool:
    """End a queued or running job at once. What it had stored stays. Says whether there was anything to cancel."""
    store = store or open_store()
    run = store.get(run_id)
    if not store.finish(run_id, "cancelled", "cancelled by the user"):
        return False
    if run.pid is not None and _alive(run):
        os.killpg(run.pid, signal.SIGKILL)
    return True


def bury_the_dead(store: RunStore) -> None:
    """Mark active runs of this machine as failed when their process is gone."""
    for run in store.list(with_parts=False, statuses=ACTIVE):
        if run.pid is None:
            if (now() - run.created_at).total_seconds() > SPAWN_GRACE_S:
                store.finish(run.id, "failed", "its process never started")
        elif run.host == socket.gethostname() and not _alive(run):
            store.finish(run.id, "failed", _last_words(run))


def _alive(run: Run) -> bool:
    """Whether the very process that was started for this run still runs (numbers of ended processes are used again)."""
    assert run.pid is not None
    try:
        process = psutil.Process(run.pid)
        same = run.pid_started is None or abs(process.create_time() - run.pid_started) < 2
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _last_words(run: Run) -> str:
    """Why a process may have died without saying so."""
    doing = f" while: {run.message}" if run.message else ""
    return (
        f"its process ended without a word{doing}. Most often the system stopped it for want of memory: "
        "try a smaller batch, shorter contexts or bf16"
    )
