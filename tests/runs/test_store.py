"""A store that breaks, that another version wrote, or that somebody edited: one line, nothing lost,
no page broken."""

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from hybrid_core.cli.main import main
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.runs.jobs import Dispatcher, cancel
from hybrid_core.runs.lease import CLOCK
from hybrid_core.runs.schema import StoreError, sqlite_address
from hybrid_core.runs.store import RunStore, open_store

ROOT = Path(__file__).parents[2]
SPEC = presets.get("mamba-100m").spec
OPTIONS = ProfileOptions(device="cpu").model_dump(mode="json")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder."""
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("HYBRID_DATABASE_URL", raising=False)
    return tmp_path / "data"


def page(name: str, chosen: list[int] | None = None) -> AppTest:
    """A page of the app; on Runs with these runs chosen."""
    shown = AppTest.from_file(str(ROOT / "pages" / f"{name}.py"), default_timeout=600)
    if chosen is not None:
        shown.session_state["runs.chosen"] = chosen
    return shown.run()


def said(shown: AppTest) -> str:
    """The texts of errors, warnings and captions on a page."""
    texts = []
    for kind in ("error", "warning", "caption"):
        for element in shown.get(kind):
            texts.append(element.value)
    return "\n".join(texts)


def ended(store: RunStore, **parts: dict[str, Any]) -> int:
    """A run that was done, with these parts."""
    run_id = store.create("profile", SPEC, OPTIONS, "cpu")
    for name, data in parts.items():
        store.put_part(run_id, name, data)
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
    a_file_in_its_place: "set HYBRID_DATA_DIR to a writable folder",
    a_later_version: "have version 0815, this program knows 0002 and earlier; update the program",
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
    in_markdown = BROKEN[damage].replace("_", "\\_")
    for name in ("runs", "profile"):
        assert said(page(name)).count(in_markdown) == 1


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
    [start] = [button for button in shown.button if button.label == "Start profile"]
    start.click().run()
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
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "file is not a database" in err


def test_a_full_disk_is_one_line(folder: Path) -> None:
    store = open_store()
    # The limit belongs to this connection, and the store takes the same one from its pool.
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
    with pytest.raises(StoreError, match=r"disk is full; free some space"):
        for _ in range(100):
            run_id = store.create("profile", SPEC, OPTIONS, "cpu")
            store.put_part(run_id, "trace", {"text": "x" * 9000})


def test_a_store_that_is_moved_away_under_a_server_is_made_anew(folder: Path) -> None:
    ended(open_store())
    for file in folder.glob("runs.db*"):
        file.rename(file.with_name(f"kept-{file.name}"))
    assert open_store().list() == []
    assert ended(open_store()) == 1
    made = RunStore(sqlite_address(folder / "runs.db"))
    assert [run.status for run in made.list()] == ["done"]


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
    name = "what?mode=memory #1 %20"
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path / name))
    monkeypatch.delenv("HYBRID_DATABASE_URL", raising=False)
    ended(open_store())
    assert (tmp_path / name / "runs.db").stat().st_size > 0
    assert os.listdir(tmp_path) == [name]


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
        "options: not a record",
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
        "prefill: not a record",
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
PREFILL = {
    "median_s": 1.0,
    "min_s": 1.0,
    "max_s": 1.0,
    "repeats": 3,
    "tokens_per_s": 8.0,
    "predicted_tokens_per_s": 9.0,
    "batch_size": 4,
    "prompt_len": 512,
    "shortened": False,
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_foreign_run_is_shown_as_such_and_can_be_deleted(
    folder: Path, edit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store()
    sound = ended(store, prefill=PREFILL)
    foreign = ended(store, prefill=PREFILL)
    statement, value, reason = EDITS[edit]
    by_hand(folder, statement, value, foreign)

    shown = page("runs", chosen=[sound, foreign])
    assert not shown.exception
    assert reason in said(shown).replace("\\", "") and f"un {foreign}" in said(shown)

    assert main(["runs"]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    assert store.get(sound).foreign is None
    store.delete(foreign)
    assert [run.id for run in store.list()] == [sound]


def test_the_profile_page_opens_beside_foreign_runs(folder: Path) -> None:
    store = open_store()
    for statement, value, _ in EDITS.values():
        by_hand(folder, statement, value, ended(store, prefill=PREFILL))
    assert len(store.list()) == len(EDITS)
    assert not page("profile").exception


COLUMNS = ["heard", "pid", "options", "name", "fraction", "lease", "spec_yaml", "kind"]
VALUES = ["abc", b"\xff\xfe", "[" * 100_000]


def odd_row(store: RunStore, folder: Path, column: str, value: object) -> int:
    """A running run whose row holds a value that does not belong there."""
    device = f"{column} {VALUES.index(value)}"
    odd = store.create("profile", SPEC, OPTIONS, device)
    assert store.claim("a lease", CLOCK.boot, CLOCK.seconds()) == odd
    by_hand(folder, "UPDATE runs SET pid = 1 WHERE id = ?", odd)
    by_hand(folder, f"UPDATE runs SET {column} = ? WHERE id = ?", value, odd)
    return odd


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("value", VALUES)
def test_an_odd_row_that_runs_does_not_stop_the_queue(
    folder: Path, column: str, value: object
) -> None:
    store = open_store()
    odd = odd_row(store, folder, column, value)
    waiting = store.create("profile", SPEC, OPTIONS, "cpu")
    Dispatcher(store).end_the_dead()
    assert store.claim("another", CLOCK.boot, CLOCK.seconds()) == waiting
    cancel(odd, store)
    store.delete(odd)
    assert [run.id for run in store.list()] == [waiting]


@pytest.mark.parametrize("name", ["glossary", "runs"])
def test_odd_rows_that_run_stop_no_page(folder: Path, name: str) -> None:
    store = open_store()
    for column in COLUMNS:
        for value in VALUES:
            odd_row(store, folder, column, value)
    assert not page(name).exception


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


# ---------------------------------------------------------------- actions go by run


def test_a_confirmed_deletion_deletes_the_runs_that_it_named(folder: Path) -> None:
    store = open_store()
    for _ in range(5):
        ended(store)
    shown = page("runs", chosen=[4, 5])
    store.delete(5)  # by somebody else, while the question is open
    ended(store)
    named = [element.value for element in shown.markdown if "- run" in element.value]
    assert [text.replace("\\", "") for text in named] == [
        f"- run 4, {SPEC.name}\n- run 5, {SPEC.name}"
    ]
    [delete] = [button for button in shown.button if button.label == "Yes, delete"]
    delete.click().run()
    assert sorted(run.id for run in store.list()) == [1, 2, 3, 6]
    assert "Run 5 is gone already" in said(shown)


def test_a_run_that_is_active_is_not_deleted(folder: Path) -> None:
    store = open_store()
    run_id = store.create("profile", ArchSpec.from_yaml(SPEC.to_yaml()), OPTIONS, "cpu")
    with pytest.raises(ValueError, match="cancel it before"):
        store.delete(run_id)
    assert store.get(run_id).status == "queued"
