"""Leases and the queue: who lives, who is dead, who is next. Clocks are the tests' own; processes
are real."""

import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from hybrid_core.live.profiling.job import DoesNotFit
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.retrieval.options import CheckpointOptions, NiahOptions, ProbeOptions
from hybrid_core.runs import jobs
from hybrid_core.runs.jobs import Dispatcher, cancel, submit
from hybrid_core.runs.kinds import KINDS, Options, kind_of
from hybrid_core.runs.lease import CLOCK, LEASE_S, START_S, Clock, Lease, Watch, worker_of
from hybrid_core.runs.schema import StoreError
from hybrid_core.runs.store import RunStore
from hybrid_core.runs.worker import STUCK_S, Pace, reason
from hybrid_core.runs.worker import main as work_on
from tests import kills
from tests.designs import design

LONG = ProfileOptions(
    device="cpu", budget_s=300, dtype="fp32", batch_size=1, prompt_len=8, totals=(64, 4096)
)


class Hands:
    """A clock that goes when it is told to."""

    def __init__(self, at: float = 1000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def queued(store: RunStore, device: str = "cpu") -> int:
    return store.create("profile", design("A"), LONG.model_dump(mode="json"), device)


def running(store: RunStore, boot: str | None, heard: float, pid: int | None = 4_000_000) -> int:
    """A run whose worker, of that boot, was last heard of then."""
    run_id = queued(store)
    assert store.claim("a lease", boot, heard) == run_id
    if pid:
        assert store.renew(run_id, "a lease", boot, heard, pid=pid)
    return run_id


def status(store: RunStore, run_id: int) -> str:
    return store.get(run_id).status


# ---------------------------------------------------------------- who lives


def test_a_run_that_is_renewed_lives_whatever_host_and_process_number_it_names(
    store: RunStore,
) -> None:
    hands = Hands()
    run_id = running(store, "this boot", hands.at)
    dispatcher = Dispatcher(store, Watch(Clock("this boot", hands)))
    for _ in range(3):  # no such process can be seen here: it is in another container
        hands.at += LEASE_S - 1
        dispatcher.end_the_dead()
        assert status(store, run_id) == "running"
        assert store.renew(run_id, "a lease", "this boot", hands.at, host="another name")


def test_a_lease_that_is_not_renewed_ends_its_run(store: RunStore) -> None:
    hands = Hands()
    run_id = running(store, "this boot", hands.at)
    store.put_part(run_id, "trace", {"flops": 1})
    hands.at += LEASE_S + 1
    Dispatcher(store, Watch(Clock("this boot", hands))).end_the_dead()
    assert status(store, run_id) == "failed"
    assert store.get(run_id).parts == {"trace": {"flops": 1}}
    assert not store.renew(run_id, "a lease", "this boot", hands.at)  # its worker is told


@pytest.mark.parametrize(
    ("boot", "heard"), [("another boot", 5.0), (None, 5.0), ("this boot", 9_000_000.0)]
)
def test_a_run_of_another_boot_is_watched_before_it_is_ended(
    store: RunStore, boot: str | None, heard: float
) -> None:
    """Its clock cannot be compared with ours: after a restart, on another host, or with a time that
    lies in the future."""
    hands = Hands()
    dead = running(store, boot, heard)
    dispatcher = Dispatcher(store, Watch(Clock("this boot", hands)))
    dispatcher.end_the_dead()
    assert status(store, dead) == "running"
    assert [run.id for run in dispatcher.unsure()] == [dead]
    hands.at += LEASE_S - 1
    dispatcher.end_the_dead()
    assert status(store, dead) == "running"
    hands.at += 2
    dispatcher.end_the_dead()
    assert status(store, dead) == "failed" and not dispatcher.unsure()


def test_a_worker_that_would_be_seen_if_it_lived_is_not_waited_for(store: RunStore) -> None:
    first = Dispatcher(store)
    run_id = submit(design("AMHS"), LONG, store)
    worker = begun(store, first, run_id)
    worker.kill()
    worker.wait()
    Dispatcher(store).end_the_dead()  # of a server that was started since
    assert status(store, run_id) == "failed"


def test_a_live_run_of_another_boot_stays(store: RunStore) -> None:
    hands = Hands()
    run_id = running(store, "another boot", 5.0)
    dispatcher = Dispatcher(store, Watch(Clock("this boot", hands)))
    for tick in range(20):
        hands.at += LEASE_S / 2
        store.renew(run_id, "a lease", "another boot", 5.0 + tick)
        dispatcher.end_the_dead()
        is_first_look = tick == 0  # from the second on, it has been seen to move
        assert bool(dispatcher.unsure()) == is_first_look
    assert status(store, run_id) == "running"


def test_a_renewal_between_look_and_end_keeps_the_run(store: RunStore) -> None:
    hands = Hands()
    run_id = running(store, "this boot", hands.at)
    seen = store.get(run_id)
    store.renew(run_id, "a lease", "this boot", hands.at + 100)
    assert not store.finish(run_id, "failed", lease=seen.lease, heard=seen.heard)
    assert status(store, run_id) == "running"


def test_a_step_of_the_wall_clock_disowns_no_worker(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = Dispatcher(store)
    run_id = submit(design("AMHS"), LONG, store)
    worker = begun(store, dispatcher, run_id)
    created = psutil.Process.create_time

    def five_seconds_later(process: psutil.Process) -> float:
        return created(process) + 5  # as after a step of the wall clock

    monkeypatch.setattr(psutil.Process, "create_time", five_seconds_later)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    dispatcher.look()
    assert status(store, run_id) == "running" and worker.is_running()
    assert cancel(run_id, store)
    worker.wait()


def begun(store: RunStore, dispatcher: Dispatcher, run_id: int) -> psutil.Process:
    """The worker of a run, once it holds its lease."""
    while (pid := store.get(run_id).pid) is None:
        dispatcher.look()
        assert store.get(run_id).active, store.get(run_id).error
        time.sleep(0.02)
    return psutil.Process(pid)


def test_a_worker_that_lost_its_lease_stops(store: RunStore) -> None:
    dispatcher = Dispatcher(store)
    run_id = submit(design("AMHS"), LONG, store)
    worker = begun(store, dispatcher, run_id)
    store.finish(run_id, "failed", "ended by another host, which cannot kill it")
    worker.wait()  # at its next word or renewal
    assert store.get(run_id).error == "ended by another host, which cannot kill it"


def test_a_job_that_was_cancelled_while_it_started_never_starts(store: RunStore) -> None:
    run_id = queued(store)
    # Its process is on the way.
    assert store.claim("its lease", CLOCK.boot, CLOCK.seconds()) == run_id
    assert cancel(run_id, store)
    assert work_on(run_id, "its lease") == 1
    run = store.get(run_id)
    assert (run.status, run.pid, run.parts) == ("cancelled", None, {})


def test_a_process_that_has_the_number_of_a_dead_worker_is_left_alone(store: RunStore) -> None:
    run_id = running(store, CLOCK.boot, CLOCK.seconds(), pid=os.getpid())
    assert cancel(run_id, store)  # this test goes on


# ---------------------------------------------------------------- the queue


def test_waiting_jobs_have_no_process_and_write_nothing(store: RunStore, tmp_path: Path) -> None:
    running(store, CLOCK.boot, CLOCK.seconds())
    waiting = [submit(design("M"), LONG, store) for _ in range(30)]
    dispatcher = Dispatcher(store)
    written = (tmp_path / "runs.db-wal").read_bytes()
    for _ in range(5):
        dispatcher.look()
    assert (tmp_path / "runs.db-wal").read_bytes() == written
    for child in psutil.Process().children(recursive=True):
        assert "hybrid_core.runs.worker" not in child.cmdline()
    assert {status(store, run_id) for run_id in waiting} == {"queued"}


def test_jobs_start_in_their_order_one_a_device(store: RunStore) -> None:
    first, second, other = queued(store), queued(store), queued(store, "cuda:0")
    assert [store.claim(word, None, 0.0) for word in "abc"] == [first, other, None]
    store.finish(first, "done")
    assert store.claim("d", None, 0.0) == second


def test_one_of_many_dispatchers_gets_a_device(store: RunStore) -> None:
    for _ in range(8):
        queued(store)
    got: list[int | None] = []
    barrier = threading.Barrier(8)

    def claim(word: str) -> None:
        own = RunStore(store.engine.url)
        barrier.wait()
        got.append(own.claim(word, None, 0.0))

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=claim, args=(f"lease {number}",)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run_id for run_id in got if run_id) == [1]
    assert [run.id for run in store.list(statuses=("running",))] == [1]


def test_a_job_whose_process_never_began_is_queued_again(store: RunStore) -> None:
    """The server was killed between giving it a device and starting its process."""
    hands = Hands()
    run_id = running(store, "this boot", hands.at, pid=None)
    dispatcher = Dispatcher(store, Watch(Clock("this boot", hands)))
    hands.at += START_S - 1
    dispatcher.end_the_dead()
    assert status(store, run_id) == "running"
    hands.at += 2
    dispatcher.end_the_dead()
    assert status(store, run_id) == "queued"


def test_a_process_that_cannot_begin_fails_its_run_with_what_it_printed(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_core.runs.jobs.WORKER", "no.such.module")
    dispatcher = Dispatcher(store)
    run_id = submit(design("M"), LONG, store)
    while store.get(run_id).active:
        dispatcher.look()
        time.sleep(0.02)
    assert "No module named" in str(store.get(run_id).error)


@pytest.mark.slow
def test_fifty_kills_of_worker_and_server_lose_nothing_and_leave_nothing_behind(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "WORKER", "tests.kills")
    killer = kills.Killer([sys.executable, "-m", "tests.kills", "server"], seed=0, pause_s=1.6)
    try:
        for _ in range(50):
            killer.round()
        killer.submit(3)  # these are left in peace, however slow the machine is
        killer.rest()
    finally:
        killer.stop()
    runs = store.list()
    assert sorted(run.id for run in runs) == killer.submitted
    assert not kills.lost(store)
    assert {run.status for run in runs} <= {"done", "failed"} and min(killer.killed.values()) > 5
    done = [run for run in runs if run.status == "done"]
    assert {run.id for run in done} >= set(killer.submitted[-3:])
    assert all(len(run.parts) == kills.PARTS for run in done)
    failed = [run for run in runs if run.status == "failed"]
    assert all("ended without an error message" in str(run.error) for run in failed)


def test_a_foreign_job_that_waits_fails_with_the_reason_and_the_queue_moves_on(
    store: RunStore,
) -> None:
    foreign = store.create("dream", design("A"), {}, "cpu")
    next_one = queued(store)
    assert store.claim("its lease", CLOCK.boot, CLOCK.seconds()) == foreign
    assert work_on(foreign, "its lease") == 1
    assert "kind: 'dream' - this version knows" in str(store.get(foreign).error)
    assert status(store, next_one) == "running"  # started by the worker before it


def test_a_run_that_is_cancelled_and_deleted_does_not_stop_the_queue(store: RunStore) -> None:
    dispatcher = Dispatcher(store)
    first = submit(design("AMHS"), LONG, store)
    begun(store, dispatcher, first)
    cancel(first, store)
    store.delete(first)
    second = submit(design("M"), LONG, store)
    assert begun(store, dispatcher, second).is_running()


def test_a_store_that_is_locked_for_a_while_loses_no_part(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = queued(store)
    store.claim("a lease", CLOCK.boot, CLOCK.seconds())
    monkeypatch.setattr("hybrid_core.runs.lease.RENEW_S", 0.01)
    refused = [StoreError("database is locked")] * 3
    put_part = store.put_part

    def busy(*args: Any, **kwargs: Any) -> bool:
        if refused:
            raise refused.pop()
        return put_part(*args, **kwargs)

    monkeypatch.setattr(store, "put_part", busy)
    Lease(store, run_id, "a lease").put_part("trace", {"flops": 1})
    assert store.get(run_id).parts == {"trace": {"flops": 1}}


# ---------------------------------------------------------------- jobs that get nowhere


def test_a_job_that_says_nothing_long_after_its_budget_is_overdue() -> None:
    hands = Hands()
    pace = Pace(60, hands)
    hands.at += 60 + STUCK_S - 1
    assert pace.overdue() is None
    hands.at += 2
    assert str(pace.overdue()) == "no progress for 10 minutes after its budget of 60 s was used up"
    pace.progress()
    assert pace.overdue() is None


def test_a_job_without_a_budget_may_take_its_time() -> None:
    hands = Hands()
    pace = Pace(None, hands)
    hands.at += 1e6
    assert pace.overdue() is None


def test_an_overdue_job_is_ended_with_that_reason(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = queued(store)
    said = []
    store.claim("a lease", CLOCK.boot, CLOCK.seconds())
    lease = Lease(store, run_id, "a lease", lambda: "no progress for 10 minutes")

    def end(why: str) -> None:  # in place of the end of this process
        said.append(why)
        lease._over.set()

    monkeypatch.setattr("hybrid_core.runs.lease.RENEW_S", 0.01)
    monkeypatch.setattr("hybrid_core.runs.lease.end_this_process", end)
    lease.take()
    assert lease._over.wait(60) and "no progress" in said[0]
    run = store.get(run_id)
    assert (run.status, run.error) == ("failed", "no progress for 10 minutes")


# ---------------------------------------------------------------- kinds of job, and their errors


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (LONG, "profile"),
        (NiahOptions(), "niah"),
        (ProbeOptions(), "probes"),
        (CheckpointOptions(path="folder"), "checkpoint"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_options_decide_the_kind_of_a_job(options: Options, kind: str) -> None:
    assert kind_of(options) == kind
    assert KINDS[kind].load().__name__ == kind


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DoesNotFit("9 GiB are needed\nand more"), "9 GiB are needed"),
        (
            MemoryError("no room"),
            "out of memory: no room. Try a smaller batch, shorter contexts or bf16",
        ),
        (RuntimeError("can't allocate memory: 1 byte"), "out of memory: can't allocate memory"),
        (KeyError("warp"), "KeyError: 'warp'"),
        (RuntimeError(), "RuntimeError: RuntimeError"),
    ],
)
def test_an_error_of_a_job_is_one_line_for_the_user(error: Exception, line: str) -> None:
    assert reason(error).startswith(line)
    assert "\n" not in reason(error)


def test_a_worker_is_found_by_the_lease_on_its_command_line(store: RunStore) -> None:
    run_id = running(store, CLOCK.boot, CLOCK.seconds(), pid=os.getpid())
    assert worker_of(store.get(run_id)) is None  # this process has no "a lease" among its arguments
    last_argument = psutil.Process().cmdline()[-1]
    named = replace(store.get(run_id), lease=last_argument)
    found = worker_of(named)
    assert found and found.pid == os.getpid()
    assert worker_of(replace(named, pid=None)) is None


def test_the_queue_is_looked_after_in_a_thread_that_does_not_keep_the_server_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []
    looked = threading.Event()

    def look() -> None:
        threads.append(threading.current_thread())
        looked.set()

    monkeypatch.setattr(jobs, "_dispatch", look)
    jobs.dispatch_in_background()
    assert looked.wait(60)
    assert threads[0].daemon and threads[0] is not threading.main_thread()
