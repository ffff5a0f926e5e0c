"""Jobs: each run is measured in its own process, so a crash there does not take the app down. No
torch here.

A queued job is only a row in the store. A `Dispatcher` starts its process when its device is free,
and ends runs whose worker has died. The app's server has a dispatcher in a thread, a command that
waits for its job has one, and a worker runs one after its job. Any number of dispatchers may be
active at the same time."""

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
LOOK_S = 0.5  # seconds between the server dispatcher's checks of the queue


def submit(spec: ArchSpec, options: Options, store: RunStore | None = None) -> int:
    """Queue a job; the type of `options` decides its kind. Returns the run's number.

    Raises SpecError if this machine lacks something that the job needs. The message gives the
    command that installs it."""
    require_tools(options)
    store = store or open_store()
    device = concrete(options.device)
    options = options.model_copy(update={"device": device})
    return store.create(
        kind_of(options),
        spec,
        options.model_dump(mode="json"),
        device,
    )


def require_tools(options: Options) -> None:
    """Raise SpecError if these options need a tool that is not installed. The message gives the
    command that installs it."""
    extras.require("live", kind_of(options))
    try:
        require_installed(os.environ.get("HYBRID_KERNELS", ""))
    except CannotRun as error:
        raise SpecError(str(error)) from None
    if not isinstance(options, ProfileOptions) or options.decode != "compiled":
        return
    compiler = os.environ.get("CXX", "g++")  # the compilers that torch's inductor calls
    if shutil.which(compiler) is None:
        raise SpecError(
            "decode: 'compiled' - needs a C++ compiler, and none is found; "
            "`apt-get install g++` installs one"
        )


def cancel(run_id: int, store: RunStore | None = None) -> bool:
    """End a queued or running job at once, and keep the results it has stored. Returns False if it
    had already ended. Raises UnknownRun."""
    store = store or open_store()
    ended = store.finish(run_id, "cancelled", "cancelled by the user")
    run = store.get(run_id)
    if ended:
        _kill_worker(run)
    return ended


class Dispatcher:
    """Starts waiting runs and ends runs whose worker has died."""

    def __init__(self, store: RunStore, watch: Watch | None = None) -> None:
        self.store = store
        self.watch = watch or Watch()
        # The workers that this dispatcher started: a run's number -> its lease and its process.
        self._started: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}

    def look(self) -> None:
        """End dead runs, then start waiting ones. Raises StoreError."""
        self.end_the_dead()
        self.start_next()

    def end_the_dead(self) -> None:
        """End runs whose process is gone or whose lease has expired. A run whose worker never
        started goes back into the queue."""
        for run_id, (lease, process) in list(self._started.items()):
            code = process.poll()
            if code is not None:
                self._end_exited(run_id, lease, code)
                del self._started[run_id]
        for run in self.store.list(with_parts=False, statuses=("running",)):
            if self.watch.expired(run):
                self._end_expired(run)

    def start_next(self) -> None:
        """Start every job whose device is free."""
        while True:
            lease = secrets.token_hex(8)
            run_id = self.store.claim(lease, CLOCK.boot, CLOCK.seconds())
            if run_id is None:
                return
            try:
                process = _spawn(run_id, lease)
            except OSError as error:
                why = error.strerror or error
                self.store.finish(
                    run_id,
                    "failed",
                    f"its process could not be started: {why}",
                    lease=lease,
                )
            else:
                self._started[run_id] = (lease, process)

    def unsure(self) -> list[Run]:
        """Runs in progress that have to be watched longer before we know whether they are alive."""
        running = self.store.list(with_parts=False, statuses=("running",))
        return [run for run in running if self.watch.unsure(run)]

    def _end_exited(self, run_id: int, lease: str, code: int) -> None:
        """Mark a run as failed if its process exited without ending the run itself."""
        try:
            run = self.store.get(run_id)
        except UnknownRun:  # deleted in the meantime
            return
        self.store.finish(
            run_id,
            "failed",
            _last_words(run, code),
            lease=lease,
        )

    def _end_expired(self, run: Run) -> None:
        if run.unread:
            self.store.finish(run.id, "failed", run.unread)
            return
        if run.pid is None and run.lease is not None:
            self.store.requeue(run.id, run.lease)
            return
        ended = self.store.finish(
            run.id,
            "failed",
            _why_expired(run),
            lease=run.lease,
            heard=run.heard,  # not if it was renewed since we looked
        )
        if ended:
            _kill_worker(run)


def dispatch_in_background() -> None:
    """Start a thread that serves the queue for as long as this process lives. It survives temporary
    failures of the store."""
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
        except StoreError:  # the pages show the error; the store may come back
            pause.wait(10 * LOOK_S)
        except Exception:  # one bad job must not stop the queue
            logging.getLogger(__name__).exception("the queue of jobs")
            pause.wait(10 * LOOK_S)


def _spawn(run_id: int, lease: str) -> "subprocess.Popen[bytes]":
    """Start the worker of a run; it imports from the same folders and uses the same data."""
    log = folder(data_dir() / "logs") / f"run-{run_id}.log"
    environment = os.environ | {
        "HYBRID_DATA_DIR": str(data_dir()),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with log.open("ab") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", WORKER, str(run_id), lease],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )


def _kill_worker(run: Run) -> None:
    """Kill the process of a run and all its children. A worker in another container cannot be
    killed from here; it notices at its next renewal that it has lost its lease."""
    process = worker_of(run)
    if process:
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(process.pid, signal.SIGKILL)


def _why_expired(run: Run) -> str:
    """The error of a run whose lease expired."""
    if worker_of(run):
        return (
            f"its process did not respond for {LEASE_S:g} s, because it hung or because the "
            "machine was too busy; it was ended"
        )
    return _last_words(run)


def _last_words(run: Run, code: int | None = None) -> str:
    """The error of a run whose process died without reporting one: the last line of its log, or the
    most likely cause."""
    doing = ""
    if run.message:
        doing = f" while: {run.message}"
    if code is not None and code > 0:
        why = run.log_tail(1) or f"exit code {code}"
        return f"its process failed{doing} ({why})"
    return (
        f"its process ended without an error message{doing}. The most likely reason is that memory "
        "ran out: try a smaller batch, shorter contexts or bf16"
    )
