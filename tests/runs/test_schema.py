"""Stores of earlier versions: their tables are migrated, and nothing is lost."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

from hybrid_core.design import presets
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.runs.schema import sqlite_address
from hybrid_core.runs.store import Run, RunStore

ROOT = Path(__file__).parents[2]
SPEC = presets.get("mamba-100m").spec
OPTIONS = ProfileOptions(device="cpu").model_dump(mode="json")

FIRST_EDITION = """
CREATE TABLE runs (id INTEGER NOT NULL, kind VARCHAR NOT NULL, name VARCHAR NOT NULL, status
  VARCHAR NOT NULL, spec_yaml VARCHAR NOT NULL,
  options JSON NOT NULL, device VARCHAR NOT NULL, host VARCHAR, pid INTEGER, pid_started FLOAT,
  fraction FLOAT NOT NULL,
  message VARCHAR NOT NULL, error VARCHAR, created_at DATETIME NOT NULL, started_at DATETIME,
  ended_at DATETIME, PRIMARY KEY (id));
CREATE INDEX ix_runs_status ON runs (status);
CREATE TABLE parts (run_id INTEGER NOT NULL, name VARCHAR NOT NULL, data JSON NOT NULL, PRIMARY
  KEY (run_id, name),
  FOREIGN KEY(run_id) REFERENCES runs (id) ON DELETE CASCADE);
"""


def first_edition(path: Path, *states: str) -> None:
    """A store as the first edition made it, with a run of each status, each with a part."""
    with sqlite3.connect(path) as connection:
        connection.executescript(FIRST_EDITION)
        for status in states:
            row = (
                "profile",
                SPEC.name,
                status,
                SPEC.to_yaml(),
                json.dumps(OPTIONS),
                "cpu",
                77,
                0.5,
                "Done",
                "2026-11-01 10:00:00.000000",
            )
            connection.execute(
                "INSERT INTO runs (kind, name, status, spec_yaml, options, device, "
                "pid, fraction, message, created_at)"
                " VALUES (?,?,?,?,?,?,?,?,?,?)",
                row,
            )
        connection.execute("INSERT INTO parts SELECT id, 'trace', '{\"flops\": 12}' FROM runs")
    connection.close()


def test_a_store_of_the_first_edition_is_brought_up_to_date_and_keeps_every_result(
    tmp_path: Path,
) -> None:
    first_edition(tmp_path / "runs.db", "done", "cancelled", "running", "running", "queued")
    for _ in range(2):  # the second time there is nothing to do
        store = RunStore(sqlite_address(tmp_path / "runs.db"))
        runs: list[Run] = store.list()[::-1]
        assert [run.status for run in runs] == ["done", "cancelled", "failed", "failed", "queued"]
        assert all(run.parts == {"trace": {"flops": 12}} and run.spec == SPEC for run in runs)
    assert "was replaced" in str(runs[2].error)


def test_several_processes_bring_one_store_up_to_date(tmp_path: Path) -> None:
    first_edition(tmp_path / "runs.db", "done")
    code = (
        "import sys; from pathlib import Path; from hybrid_core.runs.schema import sqlite_address; "
        "from hybrid_core.runs.store import RunStore; "
        "print(len(RunStore(sqlite_address(Path(sys.argv[1]))).list()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "runs.db")]
    processes = []
    for _ in range(3):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
    assert [process.communicate() for process in processes] == [("1\n", "")] * 3


def test_the_number_of_a_deleted_run_is_never_given_again(tmp_path: Path) -> None:
    first_edition(tmp_path / "runs.db", "done", "done")
    store = RunStore(sqlite_address(tmp_path / "runs.db"))
    store.delete(2)
    assert store.create("profile", SPEC, OPTIONS, "cpu") == 3
