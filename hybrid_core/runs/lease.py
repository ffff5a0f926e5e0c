"""Leases: how a run shows that its worker lives, whatever hosts, process numbers and wall clocks
say.

The worker writes down, every RENEW_S, how far the machine's monotonic clock has come and which boot
it counts from. Every process of that boot reads the same clock, in whichever container it is, and
nobody can set it: a run that was not renewed for LEASE_S has no worker. Of a run from another boot
(another machine, or this one before it was started again) only one thing can be told: whether what
it wrote changes. So it is watched for LEASE_S first. Where the process could be seen if it lived,
nobody has to wait."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from hybrid_core.runs.schema import StoreError
from hybrid_core.runs.store import Run, RunStore

RENEW_S = 2.0
LEASE_S = 20.0
START_S = (
    60.0  # from the moment when a device is given to a run until its worker says its first word
)
GIVE_UP_S = (
    14.0  # a worker that could not renew for so long stops, before another may have its device
)


def _this(space: str) -> str | None:
    """What tells boots of machines apart, and within one the containers that have "time" or "pid"
    of their own; None where the system does not say."""
    try:
        own = Path(f"/proc/self/ns/{space}")
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip() + (
            os.readlink(own) if own.exists() else ""
        )
    except OSError:
        return None


class Clock(NamedTuple):
    """A clock that nobody sets, and the boot that it counts from."""

    boot: str | None
    seconds: Callable[[], float]


CLOCK = Clock(_this("time"), time.monotonic)
PID_SPACE = _this("pid")


def worker_of(run: Run) -> psutil.Process | None:
    """The process that works on a run, where it can be seen: its command line has the lease,
    whoever has its number by now."""
    try:
        process = psutil.Process(run.pid) if run.pid else None
        return process if process and run.lease in process.cmdline() else None
    except psutil.Error:
        return None


class Seen(NamedTuple):
    """What a run's worker had written when it was looked at, since when it stands there, and
    whether another stood there before."""

    written: tuple[str | None, float | None]
    since: float
    moved: bool


@dataclass
class Watch:
    """Tells live runs from dead ones. Keep one as long as the process: what is seen of other boots
    is seen over time."""

    clock: Clock = CLOCK
    _seen: dict[int, "Seen"] = field(default_factory=dict)

    def expired(self, run: Run) -> bool:
        """Whether the worker of a running run must be dead, or cannot be known by what the row
        holds."""
        gone = (
            run.pid is not None
            and run.pid_space is not None
            and run.pid_space == PID_SPACE
            and worker_of(run) is None
        )
        return bool(run.unread) or gone or self._silent_s(run) > (LEASE_S if run.pid else START_S)

    def unsure(self, run: Run) -> bool:
        """Whether it takes longer to tell: nothing has moved yet, and a lease's time has not
        passed."""
        return not self._same_clock(run) and not self.expired(run) and not self._seen[run.id].moved

    def _silent_s(self, run: Run) -> float:
        now = self.clock.seconds()
        if self._same_clock(run):
            return now - (run.heard or 0.0)
        before = self._seen.get(run.id)
        if before is None or (run.lease, run.heard) != before.written:
            self._seen[run.id] = Seen(
                (run.lease, run.heard),
                now,
                moved=before is not None,
            )
        return now - self._seen[run.id].since

    def _same_clock(self, run: Run) -> bool:
        """A time that lies ahead is of another clock, whatever boot it names."""
        return (
            run.heard is not None
            and run.boot is not None
            and run.boot == self.clock.boot
            and run.heard <= self.clock.seconds()
        )


class LostLease(RuntimeError):
    """The run is another's by now, or has been ended."""


class Lease:
    """What a worker holds of its run: the right to write, renewed by a thread until the run ends.

    `overdue` says why the job should be ended, or None.
    """

    def __init__(
        self,
        store: RunStore,
        run_id: int,
        word: str,
        overdue: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.store, self.run_id, self.word, self.overdue = store, run_id, word, overdue
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._renew,
            name="lease",
            daemon=True,
        )

    def take(self) -> None:
        """Say which process works on the run, and renew from now on. Raises LostLease where it was
        cancelled or given to another."""
        me: dict[str, Any] = {
            "pid": os.getpid(),
            "pid_space": PID_SPACE,
            "host": socket.gethostname(),
        }
        self._must(self.store.renew(self.run_id, self.word, CLOCK.boot, CLOCK.seconds(), **me))
        self._thread.start()

    def report(self, fraction: float, message: str) -> None:
        """Progress. Raises LostLease."""
        self._must(
            self._patiently(
                lambda: self.store.change(
                    self.run_id, lease=self.word, fraction=fraction, message=message
                )
            )
        )

    def put_part(self, name: str, data: dict[str, object]) -> None:
        """A part of the result. Raises LostLease."""
        self._must(
            self._patiently(lambda: self.store.put_part(self.run_id, name, data, lease=self.word))
        )

    def finish(self, status: str, error: str | None = None) -> None:
        """End the run, unless it has been ended."""
        self._patiently(lambda: self.store.finish(self.run_id, status, error, lease=self.word))
        self._over.set()

    def _patiently(self, write: Callable[[], bool]) -> bool:
        """What cannot be written now may be in a moment: a database that is locked, a server that
        is started again. Raises StoreError where it could not for as long as a lease can do
        without."""
        begun = CLOCK.seconds()
        while True:
            try:
                return write()
            except StoreError:
                if CLOCK.seconds() - begun > GIVE_UP_S:
                    raise
                time.sleep(RENEW_S / 4)

    def _must(self, held: bool) -> None:
        if not held:
            raise LostLease(f"run {self.run_id} - was ended or given to another worker")

    def _renew(self) -> None:
        renewed = CLOCK.seconds()
        while not self._over.wait(RENEW_S):
            try:
                held = self.store.renew(
                    self.run_id,
                    self.word,
                    CLOCK.boot,
                    CLOCK.seconds(),
                )
                renewed = CLOCK.seconds()
                if held and (reason := self.overdue()):
                    self.store.finish(
                        self.run_id,
                        "failed",
                        reason,
                        lease=self.word,
                    )
                    end_this_process(f"run {self.run_id}: {reason}")
            except StoreError:
                held = CLOCK.seconds() - renewed < GIVE_UP_S
            if not held and not self._over.is_set():
                end_this_process(f"run {self.run_id}: its lease is lost")


def end_this_process(why: str) -> None:
    """At once, with all it started: a device is to be free when this returns to nobody."""
    print(why, flush=True)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
