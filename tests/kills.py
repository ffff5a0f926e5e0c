"""A server and a worker that a test may kill at any moment: the real queue, lease and store, a job
that is quick, and short leases.

`python -m tests.kills server` looks after the queue as the app does; `python -m tests.kills RUN_ID
LEASE` is its worker. For the whole app with real profiles: `python -m tests.kills rounds N`."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from hybrid_core.data import data_dir
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.runs import RunStore, jobs, lease, open_store, submit, worker
from hybrid_core.runs.kinds import KINDS, Kind
from hybrid_core.runs.store import ACTIVE
from tests.designs import design

ROOT = Path(__file__).parent.parent
PARTS = 5
LEASES = {"RENEW_S": 0.3, "LEASE_S": 3.0, "START_S": 8.0, "GIVE_UP_S": 2.0}
OPTIONS = ProfileOptions(
    device="cpu", budget_s=5, dtype="fp32", batch_size=1, prompt_len=8, totals=(64, 128)
)


def shorten() -> None:
    """What makes a test of minutes one of seconds."""
    for name, seconds in LEASES.items():
        setattr(lease, name, seconds)
    KINDS["profile"] = Kind(ProfileOptions, "tests.kills:job")
    jobs.WORKER = "tests.kills"


def job(spec: ArchSpec, options: ProfileOptions, store: Any, report: Any) -> None:
    """Stores PARTS parts, and writes each down elsewhere once the store has said that it is
    kept."""
    ledger = os.open(data_dir() / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in range(PARTS):
        report(number / PARTS, f"part {number}")
        store(f"part {number}", {"number": number})
        os.write(ledger, f"{os.environ['RUN']} {number}\n".encode())
        time.sleep(0.05)


class Killer:
    """Rounds of a random pause and a kill of the worker, the server or both, with jobs waiting;
    then everything may come to rest."""

    def __init__(self, command: list[str], seed: int, pause_s: float) -> None:
        self.command, self.random, self.pause_s = command, random.Random(seed), pause_s
        self.store = open_store()
        self.server = self._start()
        self.submitted: list[int] = []
        self.killed = {"worker": 0, "server": 0, "both": 0}

    def _start(self) -> "subprocess.Popen[bytes]":
        log = (data_dir() / "server.log").open("ab")
        return subprocess.Popen(
            self.command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )

    def submit(self, jobs: int) -> None:
        for _ in range(jobs):
            self.submitted.append(submit(design("A"), OPTIONS, self.store))

    def round(self) -> None:
        if len(self.store.list(with_parts=False, statuses=("queued",))) < 2:
            self.submit(1)
        time.sleep(self.random.uniform(0, self.pause_s))
        victim = self.random.choice(list(self.killed))
        self.killed[victim] += 1
        if victim != "server":
            for process in workers():
                process.kill()
        if victim != "worker":
            self.server.kill()
            self.server.wait()
            self.server = self._start()

    def rest(self) -> None:
        """Until no run is active; a guard against hanging, and nothing that is measured."""
        until = time.monotonic() + 900
        while self.store.list(with_parts=False, statuses=ACTIVE):
            assert time.monotonic() < until, [
                (run.id, run.status, run.message) for run in self.store.list(statuses=ACTIVE)
            ]
            time.sleep(0.2)
        while workers():  # one that is done looks at the queue once more
            assert time.monotonic() < until
            time.sleep(0.2)

    def stop(self) -> None:
        self.server.kill()
        self.server.wait()
        for process in workers():
            process.kill()


def workers() -> list[psutil.Process]:
    """Processes that work on runs of this data folder."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            mine = (
                jobs.WORKER in line
                and "server" not in line
                and process.environ().get("HYBRID_DATA_DIR") == str(data_dir())
            )
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def lost(store: RunStore) -> list[str]:
    """Parts that a worker had been told are kept, and that are not."""
    ledger = data_dir() / "ledger"
    told = ledger.read_text().splitlines() if ledger.exists() else []
    kept = {f"{run.id} {part['number']}" for run in store.list() for part in run.parts.values()}
    return [line for line in told if line not in kept]


def main() -> int:
    what = sys.argv[1]
    if what == "rounds":
        return rounds(int(sys.argv[2]))
    shorten()
    if what == "server":
        jobs._dispatch()
    os.environ["RUN"] = what
    return worker.main(int(what), sys.argv[2])


def rounds(number: int) -> int:
    """The real app and real profiles, killed `number` times."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HYBRID_DATA_DIR"] = folder
        command = [
            sys.executable,
            "-m",
            "streamlit",
            "run",
            "app.py",
            "--server.port",
            "8599",
            "--server.headless",
            "true",
        ]
        killer = Killer(command, seed=0, pause_s=9.0)
        try:
            for _ in range(number):
                killer.round()
            killer.rest()
            runs = killer.store.list()
            done = [run for run in runs if run.status == "done"]
            whole = {
                "environment",
                "trace",
                "ceilings",
                "cache",
                "prefill",
                "decode",
                "generation",
                "memory",
                "energy",
            }
            print(f"killed: {killer.killed}; {len(done)} of {len(runs)} runs done")
            errors = {str(run.error) for run in runs if run.status != "done"}
            print(f"why others were not: {sorted(errors)}")
            print(
                f"results lost: {sum(set(run.parts) != whole for run in done)}, "
                f"orphans: {len(workers())}; every run has ended"
            )
        finally:
            killer.stop()
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(main())
