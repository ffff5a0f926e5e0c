"""The run store: SQLite in the user's data folder, or any database that `HYBRID_DATABASE_URL`
names, through SQLAlchemy.

A run is one row; each part of its result is a row of its own, written when it is known, so that a
crash loses nothing."""

import datetime as dt
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from sqlalchemy import URL, ColumnElement, String, delete, func, select, type_coerce, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from hybrid_core.data import NotWritten, data_dir, data_path
from hybrid_core.design.spec import ArchSpec
from hybrid_core.results.part import Part
from hybrid_core.runs.kinds import KINDS
from hybrid_core.runs.schema import (
    VARIABLE,
    PartRow,
    RunRow,
    StoreError,
    open_database,
    said_in_one_line,
    sqlite_address,
)
from hybrid_core.validation import SpecError

Status = Literal["queued", "running", "done", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = get_args(Status)
ACTIVE: tuple[Status, ...] = ("queued", "running")
AnyPart = TypeVar("AnyPart", bound=Part)


class UnknownRun(LookupError):
    """No run has this number."""


def now() -> dt.datetime:
    """The time, UTC, without a zone, as databases keep it."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None, microsecond=0)


@dataclass(frozen=True)
class Run:
    """One run as it stood when it was read. Times are UTC. Of a row that cannot be read `unread`
    says why, and most fields are empty."""

    id: int
    kind: str
    name: str
    status: Status
    spec_yaml: str
    options: dict[str, Any]
    device: str
    host: str | None
    pid: int | None
    pid_space: str | None
    lease: str | None
    boot: str | None
    heard: float | None
    fraction: float
    message: str
    error: str | None
    created_at: dt.datetime
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    unread: str | None = None
    _read: dict[type[Part], Part] = field(
        default_factory=dict,
        repr=False,
        compare=False,
    )

    def part(self, kind: type[AnyPart]) -> AnyPart | None:
        """One part of the result; None where there is none (yet). Raises Unreadable."""
        data = self.parts.get(kind.part)
        if data is None:
            return None
        found = self._read.get(kind)
        if not isinstance(found, kind):
            found = self._read[kind] = kind.read(data)
        return found

    @property
    def spec(self) -> ArchSpec:
        return ArchSpec.from_yaml(self.spec_yaml)

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @cached_property
    def foreign(self) -> str | None:
        """Why this program cannot show the run, in one line: another version wrote it, or somebody
        edited it. None if it can."""
        if self.unread:
            return self.unread
        if self.kind not in KINDS:
            return f"kind: {self.kind!r} - this version knows {', '.join(KINDS)}"
        if self.status not in STATUSES:
            return f"status: {self.status!r} - this version knows {', '.join(STATUSES)}"
        odd = [
            name
            for name, record in {"options": self.options, **self.parts}.items()
            if not isinstance(record, dict)
        ]
        if odd:
            return f"{odd[0]}: holds no record - written by another version, or edited"
        try:
            _ = self.spec
            KINDS[self.kind].options.make(**self.options)
        except SpecError as error:
            return str(error)
        return None

    @property
    def log_path(self) -> Path:
        return _log_path(self.id)

    def log_tail(self, lines: int = 12) -> str:
        """The last lines that the run's process printed."""
        try:
            return "\n".join(self.log_path.read_text("utf-8", "replace").splitlines()[-lines:])
        except OSError:
            return ""


class RunStore:
    """All reads and writes. Every method is one transaction. All raise StoreError where the
    database fails."""

    def __init__(self, address: URL | str) -> None:
        self.engine = open_database(address)
        # WAL cannot be used over a network: whoever has a SQLite file open is on this machine. A
        # server's database is shared by several.
        self.shared = self.engine.dialect.name != "sqlite"
        self._sessions = sessionmaker(self.engine)

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        with said_in_one_line(self.engine.url), self._sessions.begin() as session:
            yield session

    # ------------------------------------------------------------ reading

    def get(self, run_id: int) -> Run:
        """One run with its parts. Raises UnknownRun."""
        with self._transaction() as session:
            found = _runs(session, [run_id], with_parts=True)
        if not found:
            raise UnknownRun(
                f"run {run_id} - there is no such run; `python -m hybrid_core runs` lists them"
            )
        return found[0]

    def list(
        self,
        *,
        with_parts: bool = True,
        statuses: tuple[Status, ...] | None = None,
        kind: str | None = None,
    ) -> list[Run]:
        """Runs, of one kind or of all, newest first."""
        wanted = select(RunRow.id).order_by(RunRow.id.desc())
        if statuses is not None:
            wanted = wanted.where(RunRow.status.in_(statuses))
        if kind is not None:
            wanted = wanted.where(RunRow.kind == kind)
        with self._transaction() as session:
            return _runs(session, list(session.scalars(wanted)), with_parts)

    # ------------------------------------------------------------ writing

    def create(
        self,
        kind: str,
        spec: ArchSpec,
        options: dict[str, Any],
        device: str,
    ) -> int:
        """A queued run of this machine; returns its number."""
        row = RunRow(
            kind=kind,
            name=spec.name,
            status="queued",
            spec_yaml=spec.to_yaml(),
            options=options,
            device=device,
        )
        row.created_at, row.host = now(), socket.gethostname()
        with self._transaction() as session:
            session.add(row)
            session.flush()
            return row.id

    def claim(
        self,
        lease: str,
        boot: str | None,
        heard: float,
    ) -> int | None:
        """Give the first queued run whose device is free to the holder of `lease`: its number, or
        None where nothing can start."""
        busy = select(RunRow.device).where(RunRow.status == "running", *self._here())
        first = select(func.min(RunRow.id)).where(
            RunRow.status == "queued", RunRow.device.not_in(busy), *self._here()
        )
        values = {
            "status": "running",
            "lease": lease,
            "boot": boot,
            "heard": heard,
            "pid": None,
            "message": "Starting",
        }
        try:
            with self._transaction() as session:
                run_id = session.scalar(first)
                if run_id is not None and _changed(
                    session,
                    [RunRow.id == run_id, RunRow.status == "queued"],
                    **values,
                    started_at=now(),
                ):
                    return run_id
        except StoreError as error:
            if not isinstance(
                error.__cause__, IntegrityError
            ):  # another gave the device away in the same moment
                raise
        return None

    def _here(self) -> tuple[ColumnElement[bool], ...]:
        """What restricts a query to this machine's runs."""
        return (RunRow.host == socket.gethostname(),) if self.shared else ()

    def renew(self, run_id: int, lease: str, boot: str | None, heard: float, **values: Any) -> bool:
        """Say that the holder of `lease` lives; says whether it still holds the run."""
        return self.change(
            run_id,
            lease=lease,
            boot=boot,
            heard=heard,
            **values,
        )

    def change(self, run_id: int, *, lease: str, **values: Any) -> bool:
        """Set columns of a run that `lease` holds; says whether it does."""
        with self._transaction() as session:
            return _changed(session, _held(run_id, lease), **values)

    def put_part(
        self, run_id: int, name: str, data: dict[str, Any], lease: str | None = None
    ) -> bool:
        """Store or replace one part of a result, where `lease`, if it is given, holds the run; says
        whether it was stored."""
        with self._transaction() as session:
            if lease is not None and not _changed(session, _held(run_id, lease), lease=lease):
                return False
            session.merge(PartRow(run_id=run_id, name=name, data=data))
            return True

    def finish(
        self,
        run_id: int,
        status: str,
        error: str | None = None,
        *,
        lease: str | None = None,
        heard: float | None = None,
    ) -> bool:
        """End an active run; says whether it was. With `lease` only if that holds it, with `heard`
        only if it was not renewed since."""
        where = [RunRow.id == run_id, RunRow.status.in_(ACTIVE)]
        where += [RunRow.lease == lease] if lease is not None else []
        where += [RunRow.heard == heard] if heard is not None else []
        with self._transaction() as session:
            return _changed(
                session,
                where,
                status=status,
                error=error,
                ended_at=now(),
            )

    def requeue(self, run_id: int, lease: str) -> bool:
        """Put a run back whose worker never began."""
        with self._transaction() as session:
            where = [*_held(run_id, lease), RunRow.pid.is_(None)]
            return _changed(
                session, where, status="queued", lease=None, heard=None, started_at=None, message=""
            )

    def delete(self, run_id: int) -> None:
        """Forget an ended run and its log. Raises UnknownRun, and ValueError while it is active."""
        with self._transaction() as session:
            gone = session.execute(
                delete(RunRow).where(RunRow.id == run_id, RunRow.status.not_in(ACTIVE))
            ).rowcount  # type: ignore[attr-defined]
            if gone:
                session.execute(delete(PartRow).where(PartRow.run_id == run_id))
        if not gone:
            raise ValueError(
                f"run {run_id} - is {self.get(run_id).status}; cancel it before deleting"
            )
        with suppress(OSError):  # a log that cannot be deleted is no run
            _log_path(run_id).unlink(missing_ok=True)


def _held(run_id: int, lease: str) -> list[ColumnElement[bool]]:
    return [RunRow.id == run_id, RunRow.status == "running", RunRow.lease == lease]


def _changed(session: Session, where: list[ColumnElement[bool]], **values: Any) -> bool:
    return bool(session.execute(update(RunRow).where(*where).values(**values)).rowcount)  # type: ignore[attr-defined]


def _log_path(run_id: int) -> Path:
    return data_path() / "logs" / f"run-{run_id}.log"


# ---------------------------------------------------------------- rows as runs

COLUMNS = [column.name for column in RunRow.__table__.columns]
WORDS = [column.name for column in RunRow.__table__.columns if isinstance(column.type, String)]
UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    RecursionError,
)  # what comes of a date that is none, or of JSON that is cut or too deep


def _runs(session: Session, ids: list[int], with_parts: bool) -> list[Run]:
    """The runs of these numbers that there are, in this order."""
    try:
        rows = {row.id: row for row in session.scalars(select(RunRow).where(RunRow.id.in_(ids)))}
        parts: dict[int, dict[str, dict[str, Any]]] = {run_id: {} for run_id in rows}
        for part in (
            session.scalars(select(PartRow).where(PartRow.run_id.in_(rows))) if with_parts else ()
        ):
            parts[part.run_id][part.name] = part.data
        return [_run(rows[run_id], parts[run_id]) for run_id in ids if run_id in rows]
    except UNREADABLE:
        if len(ids) > 1:  # one of them, or several
            return [run for run_id in ids for run in _runs(session, [run_id], with_parts)]
        return [_unread(session, ids[0])]


def _run(row: RunRow, parts: dict[str, dict[str, Any]]) -> Run:
    """Raises ValueError for a column that holds something else than it is for, as SQLite lets
    it."""
    run = Run(**{name: getattr(row, name) for name in COLUMNS}, parts=parts)
    sound = (
        all(isinstance(getattr(run, name), str | None) for name in WORDS)
        and (run.pid is None or (isinstance(run.pid, int) and 0 < run.pid < 2**31))
        and (run.heard is None or isinstance(run.heard, float | int))
        and isinstance(run.fraction, float | int)
        and 0 <= run.fraction <= 1
    )
    if not sound:
        raise ValueError(f"run {run.id} - holds a value of another type")
    return run


def _unread(session: Session, run_id: int) -> Run:
    """What can be said of a row that holds something else than what its columns are for."""
    words = ("kind", "name", "status", "device")
    row = session.execute(
        select(*(type_coerce(getattr(RunRow, name), String) for name in words)).where(
            RunRow.id == run_id
        )
    ).one()
    empty: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "spec_yaml": "",
        "options": {},
        "fraction": 0.0,
        "message": "",
    }
    said = {name: str(value) for name, value in zip(words, row, strict=True)}
    why = "its row holds a date, JSON or a number that cannot be read: edited by hand, or cut"
    return Run(**empty | said | {"id": run_id, "created_at": dt.datetime.min}, unread=why)


# ---------------------------------------------------------------- the store of this process


def _file(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of its name; made when missing. None where it cannot be made:
    opening it says why."""
    with suppress(OSError):
        if not path.exists():
            path.touch()
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


@cache
def _store(address: URL | str, file: tuple[int, int] | None = None) -> RunStore:
    return RunStore(address)


def open_store() -> RunStore:
    """The store that the environment names; one per process and address. A file that was put in the
    place of another is another store. Raises StoreError."""
    if address := os.environ.get(VARIABLE):
        return _store(address)
    try:
        path = data_dir() / "runs.db"
        return _store(sqlite_address(path), _file(path))
    except NotWritten as error:
        raise StoreError(
            f"runs: {error}; name a folder that can be written in HYBRID_DATA_DIR"
        ) from None
