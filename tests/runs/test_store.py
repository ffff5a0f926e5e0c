"""A store that breaks, that another version wrote, or that somebody edited: one line, nothing lost,
no page broken."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from hybrid_core.cli.main import main
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.runs.jobs import Dispatcher, cancel
from hybrid_core.runs.lease import CLOCK
from hybrid_core.runs.schema import StoreError, sqlite_address
from hybrid_core.runs.store import Run, RunStore, open_store

ROOT = Path(__file__).parents[2]
SPEC = presets.get("mamba-100m").spec
OPTIONS = ProfileOptions(device="cpu").model_dump(mode="json")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder."""
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("HYBRID_DATABASE_URL", raising=False)
    return tmp_path / "data"


def page(name: str) -> AppTest:
    return AppTest.from_file(str(ROOT / "pages" / f"{name}.py"), default_timeout=600).run()


def said(shown: AppTest) -> str:
    return "\n".join(
        element.value for kind in ("error", "warning", "caption") for element in shown.get(kind)
    )


def ended(store: RunStore, **parts: object) -> int:
    """A run that was done, with these parts."""
    run_id = store.create("profile", SPEC, OPTIONS, "cpu")
    for name, data in parts.items():
        store.put_part(run_id, name, data)  # type: ignore[arg-type]
    store.finish(run_id, "done")
    return run_id


def by_hand(folder: Path, statement: str, *values: object) -> None:
    """What an editor of databases, or another version, does to the file."""
    with sqlite3.connect(folder / "runs.db") as connection:
        connection.execute(statement, values)
    connection.close()


# ---------------------------------------------------------------- a store that cannot be used


def not_a_database(folder: Path) -> None:
    folder.mkdir()
    (folder / "runs.db").write_bytes(b"this is no database, " * 500)


def a_folder_of_that_name(folder: Path) -> None:
    (folder / "runs.db").mkdir(parents=True)


def a_file_in_its_place(folder: Path) -> None:
    folder.write_text("not a folder")


def a_later_version(folder: Path) -> None:
    open_store()
    by_hand(folder, "UPDATE alembic_version SET version_num = '0815'")
    open_store.__globals__["_store"].cache_clear()


BROKEN: dict[Callable[[Path], None], str] = {
    not_a_database: "file is not a database; move the file away",
    a_folder_of_that_name: "unable to open database file",
    a_file_in_its_place: "name a folder that can be written in HYBRID_DATA_DIR",
    a_later_version: "of version 0815, this program knows 0002 and earlier; update the program",
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_store_that_cannot_be_used_is_one_line(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(folder)
    with pytest.raises(StoreError) as caught:
        open_store()
    line = str(caught.value)
    assert BROKEN[damage] in line and str(folder) in line and "\n" not in line
    for name in ("runs", "profile"):
        assert said(page(name)).count(BROKEN[damage].replace("_", "\\_")) == 1


@pytest.mark.parametrize("name", ["compose", "compare", "paper", "models", "glossary", "retrieval"])
def test_every_page_works_without_a_store(folder: Path, name: str) -> None:
    not_a_database(folder)
    shown = page(name)
    assert not shown.exception and shown.title
    assert said(shown).count("file is not a database") == 1


def test_nothing_is_started_and_nothing_lost_where_the_store_breaks_under_a_page(
    folder: Path,
) -> None:
    shown = page("profile")
    for left in folder.glob("runs.db*"):
        left.unlink()
    (folder / "runs.db").write_bytes(b"something else " * 3000)
    next(button for button in shown.button if button.label == "Start profile").click().run()
    assert not shown.exception and "file is not a database" in said(shown)


def test_the_command_line_fails_with_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    not_a_database(folder)
    for command in (
        ["runs"],
        ["profile", "mamba-100m", "--device", "cpu"],
        ["report", "1", "-o", str(folder / "x.html")],
    ):
        assert main(command) == 1
        told = capsys.readouterr()
        assert told.out == "" and told.err.count("\n") == 1 and "file is not a database" in told.err


def test_a_full_disk_is_one_line(folder: Path) -> None:
    store = open_store()
    with store.engine.connect() as connection:
        connection.exec_driver_sql(
            "PRAGMA max_page_count = 1"
        )  # of this connection, which the store takes again
    with pytest.raises(StoreError, match=r"disk is full; free some space"):
        for _ in range(100):
            store.put_part(
                store.create("profile", SPEC, OPTIONS, "cpu"), "trace", {"text": "x" * 9000}
            )


def test_a_store_that_is_moved_away_under_a_server_is_made_anew(folder: Path) -> None:
    ended(open_store())
    for file in folder.glob("runs.db*"):
        file.rename(file.with_name(f"kept-{file.name}"))
    assert open_store().list() == []
    assert ended(open_store()) == 1
    assert [run.status for run in RunStore(sqlite_address(folder / "runs.db")).list()] == ["done"]


@pytest.mark.parametrize(
    "address", ["sqlite://", "sqlite:///:memory:", "postgresql+psycopg://u@host:abc/db"]
)
def test_an_address_that_no_job_could_open_is_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_DATABASE_URL", address)
    with pytest.raises(StoreError, match=r"^HYBRID_DATABASE_URL: "):
        open_store()


@pytest.mark.parametrize(
    "command",
    [["show", "99999999999999999999"], ["cancel", "-1"], ["delete", "9223372036854775808"]],
)
def test_a_number_that_no_run_has_is_bad_input(
    folder: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["runs", *command])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_question_mark_in_the_name_of_the_folder_is_a_letter_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path / "what?mode=memory #1 %20"))
    monkeypatch.delenv("HYBRID_DATABASE_URL", raising=False)
    ended(open_store())
    assert (tmp_path / "what?mode=memory #1 %20" / "runs.db").stat().st_size > 0
    assert os.listdir(tmp_path) == ["what?mode=memory #1 %20"]


# ---------------------------------------------------------------- what others wrote

SCHEMA_2 = SPEC.to_yaml().replace("schema: 1", "schema: 2")
EDITS = {
    "a design of schema 2": ("UPDATE runs SET spec_yaml = ? WHERE id = ?", SCHEMA_2, "schema"),
    "no design at all": ("UPDATE runs SET spec_yaml = ? WHERE id = ?", "", "is a mapping of keys"),
    "a kind that is not known": ("UPDATE runs SET kind = ? WHERE id = ?", "dream", "kind: 'dream'"),
    "a status that is not known": (
        "UPDATE runs SET status = ? WHERE id = ?",
        "resting",
        "status: 'resting'",
    ),
    "an option that is not known": (
        "UPDATE runs SET options = ? WHERE id = ?",
        json.dumps(OPTIONS | {"warp": 9}),
        "warp",
    ),
    "options that are a list": (
        "UPDATE runs SET options = ? WHERE id = ?",
        "[1, 2]",
        "options: holds no record",
    ),
    "options that are cut": ("UPDATE runs SET options = ? WHERE id = ?", '{"dev', "cannot be read"),
    "options that are nested too deep": (
        "UPDATE runs SET options = ? WHERE id = ?",
        "[" * 100_000,
        "cannot be read",
    ),
    "a name of bytes": ("UPDATE runs SET name = ? WHERE id = ?", b"\xff\x00\xfe", "cannot be read"),
    "a date of bytes": (
        "UPDATE runs SET created_at = cast(? as text) WHERE id = ?",
        b"\xff\xfe",
        "cannot be read",
    ),
    "a process of minus five": ("UPDATE runs SET pid = ? WHERE id = ?", -5, "cannot be read"),
    "more done than all": ("UPDATE runs SET fraction = ? WHERE id = ?", 7.5, "cannot be read"),
    "a date that is none": (
        "UPDATE runs SET created_at = ? WHERE id = ?",
        "yesterday",
        "cannot be read",
    ),
    "a part that is a list": (
        "UPDATE parts SET data = ? WHERE run_id = ?",
        "[1]",
        "prefill: holds no record",
    ),
    "a part that lacks a key": (
        "UPDATE parts SET data = ? WHERE run_id = ?",
        '{"batch_size": 4}',
        "lacks",
    ),
    "a part that is nested too deep": (
        "UPDATE parts SET data = ? WHERE run_id = ?",
        "[" * 100_000,
        "cannot be read",
    ),
    "a part that is cut": (
        "UPDATE parts SET data = ? WHERE run_id = ?",
        '{"batch',
        "cannot be read",
    ),
}
SPEED = {
    "median_s": 1.0,
    "min_s": 1.0,
    "max_s": 1.0,
    "repeats": 3,
    "tokens_per_s": 8.0,
    "predicted_tokens_per_s": 9.0,
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_foreign_run_is_shown_as_such_and_can_be_deleted(
    folder: Path, edit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store()
    sound = ended(store, prefill=SPEED | {"batch_size": 4, "prompt_len": 512, "shortened": False})
    foreign = ended(store, prefill=SPEED | {"batch_size": 4, "prompt_len": 512, "shortened": False})
    statement, value, says = EDITS[edit]
    by_hand(folder, statement, value, foreign)

    shown = AppTest.from_file(str(ROOT / "pages" / "runs.py"), default_timeout=600)
    shown.session_state["runs.chosen"] = [sound, foreign]
    shown.run()
    assert not shown.exception
    assert says in said(shown).replace("\\", "") and f"un {foreign}" in said(shown)
    assert not page("profile").exception

    assert main(["runs"]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    assert store.get(sound).foreign is None
    store.delete(foreign)
    assert [run.id for run in store.list()] == [sound]


@pytest.mark.parametrize(
    "column", ["heard", "pid", "options", "name", "fraction", "lease", "spec_yaml", "kind"]
)
@pytest.mark.parametrize("value", ["abc", b"\xff\xfe", "[" * 100_000])
def test_an_odd_row_that_runs_stops_neither_pages_nor_the_queue(
    folder: Path, column: str, value: object
) -> None:
    store = open_store()
    odd = store.create("profile", SPEC, OPTIONS, "elsewhere")
    assert store.claim("a lease", CLOCK.boot, CLOCK.seconds()) == odd
    by_hand(
        folder,
        f"UPDATE runs SET pid = 1, {column} = ? WHERE id = ?"
        if column != "pid"
        else "UPDATE runs SET pid = ? WHERE id = ?",
        value,
        odd,
    )
    for name in ("glossary", "runs"):
        assert not page(name).exception
    waiting = store.create("profile", SPEC, OPTIONS, "cpu")
    Dispatcher(store).end_the_dead()
    assert store.claim("another", CLOCK.boot, CLOCK.seconds()) == waiting
    cancel(odd, store)
    store.delete(odd)
    assert [run.id for run in store.list()] == [waiting]


def test_numbers_that_json_cannot_say_are_kept_as_nothing(folder: Path) -> None:
    store = open_store()
    run_id = ended(
        store,
        scores={"loss": float("nan"), "rows": [1.5, float("inf")], "nested": {"x": -float("inf")}},
    )
    assert store.get(run_id).parts["scores"] == {
        "loss": None,
        "rows": [1.5, None],
        "nested": {"x": None},
    }
    by_hand(folder, "UPDATE parts SET data = ?", '{"loss": NaN}')
    assert store.get(run_id).parts["scores"] == {"loss": None}


# ---------------------------------------------------------------- versions

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
        runs: list[Run] = RunStore(sqlite_address(tmp_path / "runs.db")).list()[::-1]
        assert [run.status for run in runs] == ["done", "cancelled", "failed", "failed", "queued"]
        assert all(run.parts == {"trace": {"flops": 12}} and run.spec == SPEC for run in runs)
    assert "was replaced" in str(runs[2].error)


def test_two_processes_bring_one_store_up_to_date(tmp_path: Path) -> None:
    first_edition(tmp_path / "runs.db", "done")
    code = (
        "import sys; from pathlib import Path; from hybrid_core.runs.schema import sqlite_address; "
        "from hybrid_core.runs.store import RunStore; "
        "print(len(RunStore(sqlite_address(Path(sys.argv[1]))).list()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "runs.db")]
    both = [
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    assert [process.communicate() for process in both] == [("1\n", "")] * 3


def test_the_number_of_a_deleted_run_is_never_given_again(tmp_path: Path) -> None:
    first_edition(tmp_path / "runs.db", "done", "done")
    store = RunStore(sqlite_address(tmp_path / "runs.db"))
    store.delete(2)
    assert store.create("profile", SPEC, OPTIONS, "cpu") == 3


# ---------------------------------------------------------------- actions go by run


def test_a_confirmed_deletion_deletes_the_runs_that_it_named(folder: Path) -> None:
    store = open_store()
    for _ in range(5):
        ended(store)
    shown = AppTest.from_file(str(ROOT / "pages" / "runs.py"), default_timeout=600)
    shown.session_state["runs.chosen"] = [4, 5]
    shown.run()
    store.delete(5)  # by somebody else, while the question is open
    ended(store)
    named = [
        element.value.replace("\\", "") for element in shown.markdown if "- run" in element.value
    ]
    assert named == [f"- run 4, {SPEC.name}\n- run 5, {SPEC.name}"]
    next(button for button in shown.button if button.label == "Yes, delete").click().run()
    assert sorted(run.id for run in store.list()) == [1, 2, 3, 6]
    assert "Run 5 is gone already" in said(shown)


def test_a_run_that_is_active_is_not_deleted(folder: Path) -> None:
    store = open_store()
    run_id = store.create("profile", ArchSpec.from_yaml(SPEC.to_yaml()), OPTIONS, "cpu")
    with pytest.raises(ValueError, match="cancel it before"):
        store.delete(run_id)
    assert store.get(run_id).status == "queued"
