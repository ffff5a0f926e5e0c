"""Jobs: a run that is measured in a process of its own, so that a crash there never takes the app
down. No torch here.

A queued job is a row and nothing else. A `Dispatcher` gives it a process when its device is free,
and ends runs whose worker died. The server has one in a thread, a command that waits for its job
has one, and a worker that is done looks once: any number may be at it."""

import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from hybrid_core import extras
from hybrid_core.data import data_dir, folder
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.runs.devices import concrete
from hybrid_core.runs.kinds import Options, kind_of
from hybrid_core.runs.lease import CLOCK, LEASE_S, Watch, worker_of
from hybrid_core.runs.schema import StoreError
from hybrid_core.runs.store import Run, RunStore, UnknownRun, open_store
from hybrid_core.validation import SpecError
from kernels.implementations import CannotRun, require_installed

WORKER = "hybrid_core.runs.worker"
LOOK_S = 0.5  # how often a dispatcher looks


def submit(spec: ArchSpec, options: Options, store: RunStore | None = None) -> int:
    """Queue a job of the kind that `options` belong to; returns the run's number.

    Raises SpecError, with the command that installs it, for what the job needs and this machine
    lacks."""
    require_tools(options)
    store = store or open_store()
    options = options.model_copy(update={"device": concrete(options.device)})
    return store.create(
        kind_of(options),
        spec,
        options.model_dump(mode="json"),
        options.device,
    )


def require_tools(options: Options) -> None:
    """Raise SpecError, with the command that installs it, for what was asked for and is not
    installed with the app."""
    extras.require("live", kind_of(options))
    try:
        require_installed(os.environ.get("HYBRID_KERNELS", ""))
    except CannotRun as error:
        raise SpecError(str(error)) from None
    if not isinstance(options, ProfileOptions) or options.decode != "compiled":
        return
    compiler = os.environ.get("CXX", "g++")  # what torch's inductor calls
    if shutil.which(compiler) is None:
        raise SpecError(
            "decode: 'compiled' - needs a C++ compiler, and none is found; "
            "`apt-get install g++` installs one"
        )


def cancel(run_id: int, store: RunStore | None = None) -> bool:
    """End a queued or running job at once. What it had stored stays. Says whether there was
    anything to cancel. Raises UnknownRun."""
    store = store or open_store()
    ended = store.finish(run_id, "cancelled", "cancelled by the user")
    run = store.get(run_id)
    if ended:
        _kill_worker(run)
    return ended


class Dispatcher:
    """Starts waiting runs and ends runs whose worker has died."""

    def __init__(self, store: RunStore, watch: Watch | None = None) -> None:
        self.store, self.watch = store, watch or Watch()
        # Number of a run -> its lease, its process.
        self._started: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}

    def look(self) -> None:
        """Once at everything. Raises StoreError."""
        self.end_the_dead()
        self.start_next()

    def end_the_dead(self) -> None:
        """End runs whose process is gone or whose lease was not renewed; put back those whose
        worker never began."""
        for run_id, (lease, process) in list(self._started.items()):
            code = process.poll()
            if code is not None:
                self._ended(run_id, lease, code)
                del self._started[run_id]
        for run in self.store.list(with_parts=False, statuses=("running",)):
            if self.watch.expired(run):
                self._end(run)

    def start_next(self) -> None:
        """Start jobs as long as there is one whose device is free."""
        while True:
            lease = secrets.token_hex(8)
            run_id = self.store.claim(lease, CLOCK.boot, CLOCK.seconds())
            if run_id is None:
                return
            try:
                self._started[run_id] = (lease, _spawn(run_id, lease))
            except OSError as error:
                self.store.finish(
                    run_id,
                    "failed",
                    f"its process could not be started: {error.strerror or error}",
                    lease=lease,
                )

    def unsure(self) -> list[Run]:
        """Running runs of which it takes a lease's time to tell whether they live."""
        running = self.store.list(with_parts=False, statuses=("running",))
        return [run for run in running if self.watch.unsure(run)]

    def _ended(self, run_id: int, lease: str, code: int) -> None:
        try:
            run = self.store.get(run_id)
        except UnknownRun:  # deleted since
            return
        self.store.finish(
            run_id,
            "failed",
            _last_words(run, code),
            lease=lease,
        )

    def _end(self, run: Run) -> None:
        if run.unread:
            self.store.finish(run.id, "failed", run.unread)
        elif run.pid is None and run.lease is not None:
            self.store.requeue(run.id, run.lease)
        elif self.store.finish(
            run.id, "failed", _why_ended(run), lease=run.lease, heard=run.heard
        ):  # not renewed since
            _kill_worker(run)


def dispatch_in_background() -> None:
    """A thread of this process that looks after the queue for as long as the process lives,
    whatever becomes of the store."""
    threading.Thread(target=_dispatch, name="dispatcher", daemon=True).start()


def _dispatch() -> None:
    dispatcher = None
    pause = threading.Event()
    while not pause.wait(LOOK_S):
        try:
            store = open_store()
            if dispatcher is None or dispatcher.store is not store:
                dispatcher = Dispatcher(store)
            dispatcher.look()
        except StoreError:  # pages say so; it may come back
            pause.wait(10 * LOOK_S)
        except Exception:  # whatever it was, the queue must not stand still for it
            logging.getLogger(__name__).exception("the queue of jobs")
            pause.wait(10 * LOOK_S)


def _spawn(run_id: int, lease: str) -> "subprocess.Popen[bytes]":
    log = folder(data_dir() / "logs") / f"run-{run_id}.log"
    with log.open("ab") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", WORKER, str(run_id), lease],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ
            | {
                "HYBRID_DATA_DIR": str(data_dir()),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
        )


def _kill_worker(run: Run) -> None:
    """End the process of a run, with all it started. One in another container sees at its next
    renewal that its lease is lost."""
    process = worker_of(run)
    if process:
        with suppress(ProcessLookupError):  # gone in between
            os.killpg(process.pid, signal.SIGKILL)


def _why_ended(run: Run) -> str:
    """Of a run whose lease ran out."""
    if worker_of(run):
        return (
            f"nothing was heard of its process for {LEASE_S:g} s: something held it, or the "
            "machine was too busy; it was ended"
        )
    return _last_words(run)


def _last_words(run: Run, code: int | None = None) -> str:
    """Why a process may have died without saying so."""
    doing = ""
    if run.message:
        doing = f" while: {run.message}"
    if code is not None and code > 0:
        said = run.log_tail(1)
        why = said or f"exit code {code}"
        return f"its process failed{doing} ({why})"
    return (
        f"its process ended without a word{doing}. Most often the system stopped it because memory "
        "ran out: try a smaller batch, shorter contexts or bf16"
    )
