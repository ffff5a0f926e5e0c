"""Leases: how a run shows that its worker is alive. Host names, process IDs and wall clocks can all
mislead, so we rely on none of them.

Every RENEW_S the worker writes two values into its row: the reading of the machine's monotonic
clock, and the ID of the boot from which that clock counts. All processes of the same boot read the
same clock, even in different containers, and nobody can set it. So if a run of this boot has not
been renewed for LEASE_S, its worker is dead.

Clocks of different boots cannot be compared. This affects runs from another machine, or from this
one before it was restarted. For them we can only see whether the row still changes, so we watch it
for LEASE_S first. If the worker's process would be visible from here, there is no need to wait."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from hybrid_core.runs.schema import StoreError
from hybrid_core.runs.store import Run, RunStore

RENEW_S = 2.0
LEASE_S = 20.0
# From the time a run is given a device until its worker first writes.
START_S = 60.0
# A worker that could not renew for this long stops itself, before another run gets its device.
GIVE_UP_S = 14.0


def _boot_and_namespace(kind: str) -> str | None:
    """Identifies this boot and this process's namespace of one kind, "time" or "pid". Containers
    may have their own namespaces. None if the system does not provide this."""
    namespace = Path(f"/proc/self/ns/{kind}")
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        if namespace.exists():
            boot += os.readlink(namespace)
    except OSError:
        return None
    return boot


class Clock(NamedTuple):
    """A clock that nobody can set, and the boot from which it counts."""

    boot: str | None
    seconds: Callable[[], float]


CLOCK = Clock(_boot_and_namespace("time"), time.monotonic)
PID_SPACE = _boot_and_namespace("pid")


def worker_of(run: Run) -> psutil.Process | None:
    """The process that works on a run, if it is visible from here.

    The lease is on the worker's command line. So another process that later gets the same process
    ID is not mistaken for it."""
    if not run.pid:
        return None
    try:
        process = psutil.Process(run.pid)
        if run.lease in process.cmdline():
            return process
    except psutil.Error:
        pass
    return None


class Seen(NamedTuple):
    """The contents of a run's row when we last looked, since when it has had them, and whether we
    have seen it change."""

    written: tuple[str | None, float | None]
    since: float
    moved: bool


@dataclass
class Watch:
    """Tells live runs from dead ones. Keep one for the lifetime of the process, because runs of
    other boots have to be observed over time."""

    clock: Clock = CLOCK
    _seen: dict[int, "Seen"] = field(default_factory=dict)

    def expired(self, run: Run) -> bool:
        """Whether a run in progress has lost its worker, or its row cannot be read."""
        if run.unread or _worker_is_gone(run):
            return True
        patience_s = START_S
        if run.pid:
            patience_s = LEASE_S
        return self._silent_s(run) > patience_s

    def unsure(self, run: Run) -> bool:
        """Whether it is too early to tell: the row has not changed yet, and it has been watched for
        less than a lease's time."""
        if self._same_clock(run) or self.expired(run):
            return False
        return not self._seen[run.id].moved

    def _silent_s(self, run: Run) -> float:
        """Seconds since the run was last renewed, as far as can be seen from here."""
        now = self.clock.seconds()
        if self._same_clock(run):
            return now - (run.heard or 0.0)
        written = (run.lease, run.heard)
        before = self._seen.get(run.id)
        if before is None or before.written != written:
            self._seen[run.id] = Seen(written, since=now, moved=before is not None)
        return now - self._seen[run.id].since

    def _same_clock(self, run: Run) -> bool:
        """Whether the run's times can be compared with this clock. A time in the future cannot come
        from this clock, whatever its boot ID."""
        return (
            run.heard is not None
            and run.boot is not None
            and run.boot == self.clock.boot
            and run.heard <= self.clock.seconds()
        )


def _worker_is_gone(run: Run) -> bool:
    """Whether the worker's process would be visible from here and is not there."""
    if run.pid is None or run.pid_space is None:
        return False
    return run.pid_space == PID_SPACE and worker_of(run) is None


class LostLease(RuntimeError):
    """The run has ended, or another worker has it now."""


def _never_overdue() -> None:
    return None


class Lease:
    """A worker's right to write to its run. A thread renews it until the run ends.

    `overdue` returns the reason why the job should be ended, or None.
    """

    def __init__(
        self,
        store: RunStore,
        run_id: int,
        token: str,
        overdue: Callable[[], str | None] = _never_overdue,
    ) -> None:
        self.store = store
        self.run_id = run_id
        self.token = token
        self.overdue = overdue
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._renew,
            name="lease",
            daemon=True,
        )

    def take(self) -> None:
        """Record which process works on the run, and start renewing the lease. Raises LostLease if
        the run was cancelled or given to another worker."""
        held = self.store.renew(
            self.run_id,
            self.token,
            CLOCK.boot,
            CLOCK.seconds(),
            pid=os.getpid(),
            pid_space=PID_SPACE,
            host=socket.gethostname(),
        )
        self._require(held)
        self._thread.start()

    def report(self, fraction: float, message: str) -> None:
        """Write progress. Raises LostLease."""

        def write() -> bool:
            return self.store.change(
                self.run_id,
                lease=self.token,
                fraction=fraction,
                message=message,
            )

        self._require(_with_patience(write))

    def put_part(self, name: str, data: dict[str, object]) -> None:
        """Write a part of the result. Raises LostLease."""

        def write() -> bool:
            return self.store.put_part(self.run_id, name, data, lease=self.token)

        self._require(_with_patience(write))

    def finish(self, status: str, error: str | None = None) -> None:
        """End the run, unless it has already ended."""

        def write() -> bool:
            return self.store.finish(self.run_id, status, error, lease=self.token)

        _with_patience(write)
        self._over.set()

    def _require(self, held: bool) -> None:
        if not held:
            raise LostLease(f"run {self.run_id} - was ended or given to another worker")

    def _renew(self) -> None:
        """Renew until the run ends. If the lease is lost, end this process."""
        renewed = CLOCK.seconds()
        while not self._over.wait(RENEW_S):
            try:
                held = self.store.renew(
                    self.run_id,
                    self.token,
                    CLOCK.boot,
                    CLOCK.seconds(),
                )
                renewed = CLOCK.seconds()
                if held:
                    self._end_if_overdue()
            except StoreError:
                held = CLOCK.seconds() - renewed < GIVE_UP_S
            if not held and not self._over.is_set():
                end_this_process(f"run {self.run_id}: lost its lease")

    def _end_if_overdue(self) -> None:
        reason = self.overdue()
        if reason is None:
            return
        self.store.finish(
            self.run_id,
            "failed",
            reason,
            lease=self.token,
        )
        end_this_process(f"run {self.run_id}: {reason}")


def _with_patience(write: Callable[[], bool]) -> bool:
    """Retry a write until it succeeds: a database may be locked, or its server restarting. Raises
    StoreError when waiting any longer would lose the lease."""
    begun = CLOCK.seconds()
    while True:
        try:
            return write()
        except StoreError:
            if CLOCK.seconds() - begun > GIVE_UP_S:
                raise
            time.sleep(RENEW_S / 4)


def end_this_process(why: str) -> None:
    """Kill this process and all its children, to free its device at once. Does not return."""
    print(why, flush=True)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
