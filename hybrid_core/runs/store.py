"""The run store: SQLite in the user's data folder, or any database that `HYBRID_DATABASE_URL`
names, through SQLAlchemy.

A run is one row. Each part of its result is a separate row, written as soon as it is ready, so
earlier parts survive a crash."""

import datetime as dt
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from sqlalchemy import (
    URL,
    ColumnElement,
    Select,
    String,
    delete,
    func,
    select,
    type_coerce,
    update,
)
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
    """The current time in UTC, without a zone, as databases store it."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None, microsecond=0)


@dataclass(frozen=True)
class Run:
    """One run, as of the time it was read. Times are in UTC. If its row cannot be read, `unread`
    says why and most fields are empty."""

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
    # Parts that have already been parsed.
    _read: dict[type[Part], Part] = field(default_factory=dict, repr=False, compare=False)

    def part(self, kind: type[AnyPart]) -> AnyPart | None:
        """One part of the result, or None if it does not exist (yet). Raises Unreadable."""
        data = self.parts.get(kind.part)
        if data is None:
            return None
        found = self._read.get(kind)
        if not isinstance(found, kind):
            found = kind.read(data)
            self._read[kind] = found
        return found

    @property
    def spec(self) -> ArchSpec:
        return ArchSpec.from_yaml(self.spec_yaml)

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @cached_property
    def foreign(self) -> str | None:
        """Why this version cannot show the run, in one line, or None if it can. Another version may
        have written the run, or its row may have been edited."""
        if self.unread:
            return self.unread
        if self.kind not in KINDS:
            return f"kind: {self.kind!r} - this version knows {', '.join(KINDS)}"
        if self.status not in STATUSES:
            return f"status: {self.status!r} - this version knows {', '.join(STATUSES)}"
        records = {"options": self.options} | self.parts
        for name, record in records.items():
            if not isinstance(record, dict):
                return f"{name}: not a record - written by another version, or edited"
        try:
            _ = self.spec  # raises SpecError if the design cannot be read
            KINDS[self.kind].options.make(**self.options)
        except SpecError as error:
            return str(error)
        return None

    @property
    def log_path(self) -> Path:
        return _log_path(self.id)

    def log_tail(self, lines: int = 12) -> str:
        """The last lines of output from the run's process."""
        try:
            text = self.log_path.read_text("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


class RunStore:
    """Reads and writes runs. Every method is one transaction, and raises StoreError if the database
    fails."""

    def __init__(self, address: URL | str) -> None:
        self.engine = open_database(address)
        # SQLite's WAL does not work over a network, so all users of a file are on this machine. A
        # server's database may be shared by several machines.
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
        """Queue a run on this machine; returns its number."""
        row = RunRow(
            kind=kind,
            name=spec.name,
            status="queued",
            spec_yaml=spec.to_yaml(),
            options=options,
            device=device,
            created_at=now(),
            host=socket.gethostname(),
        )
        with self._transaction() as session:
            session.add(row)
            session.flush()
            return row.id

    def claim(self, lease: str, boot: str | None, heard: float) -> int | None:
        """Give the first queued run whose device is free to the holder of `lease`. Returns its
        number, or None if nothing can start. `boot` and `heard` give the current time: see
        lease.py."""
        try:
            with self._transaction() as session:
                run_id = session.scalar(self._first_startable())
                if run_id is None:
                    return None
                given = _changed(
                    session,
                    [RunRow.id == run_id, RunRow.status == "queued"],
                    status="running",
                    lease=lease,
                    boot=boot,
                    heard=heard,
                    pid=None,
                    message="Starting",
                    started_at=now(),
                )
        except StoreError as error:
            # The unique index: another dispatcher assigned the device at the same moment.
            if isinstance(error.__cause__, IntegrityError):
                return None
            raise
        if not given:
            return None
        return run_id

    def _first_startable(self) -> Select[int]:
        """Selects the number of the oldest queued run whose device is free."""
        here = self._here()
        busy = select(RunRow.device).where(RunRow.status == "running", *here)
        return select(func.min(RunRow.id)).where(
            RunRow.status == "queued",
            RunRow.device.not_in(busy),
            *here,
        )

    def _here(self) -> tuple[ColumnElement[bool], ...]:
        """Restricts a query to runs of this machine."""
        if not self.shared:
            return ()
        return (RunRow.host == socket.gethostname(),)

    def renew(self, run_id: int, lease: str, boot: str | None, heard: float, **values: Any) -> bool:
        """Record that the holder of `lease` is alive. Returns whether it still holds the run."""
        return self.change(
            run_id,
            lease=lease,
            boot=boot,
            heard=heard,
            **values,
        )

    def change(self, run_id: int, *, lease: str, **values: Any) -> bool:
        """Set columns of a run if `lease` holds it. Returns whether it does."""
        with self._transaction() as session:
            return _changed(session, _held(run_id, lease), **values)

    def put_part(
        self,
        run_id: int,
        name: str,
        data: dict[str, Any],
        lease: str | None = None,
    ) -> bool:
        """Store or replace one part of a result. With a `lease`, do so only if it holds the run.
        Returns whether the part was stored."""
        with self._transaction() as session:
            # The update changes nothing. It checks that the lease is valid, and locks the row.
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
        """End an active run; returns whether this call ended it. With `lease`, do so only if it
        holds the run. With `heard`, do so only if the run has not been renewed since then."""
        where = [RunRow.id == run_id, RunRow.status.in_(ACTIVE)]
        if lease is not None:
            where.append(RunRow.lease == lease)
        if heard is not None:
            where.append(RunRow.heard == heard)
        with self._transaction() as session:
            return _changed(
                session,
                where,
                status=status,
                error=error,
                ended_at=now(),
            )

    def requeue(self, run_id: int, lease: str) -> bool:
        """Put a run whose worker never started back into the queue. Returns whether it did so."""
        never_began = [*_held(run_id, lease), RunRow.pid.is_(None)]
        with self._transaction() as session:
            return _changed(
                session,
                never_began,
                status="queued",
                lease=None,
                heard=None,
                started_at=None,
                message="",
            )

    def delete(self, run_id: int) -> None:
        """Delete an ended run and its log. Raises UnknownRun, and ValueError while it is active."""
        ended = delete(RunRow).where(RunRow.id == run_id, RunRow.status.not_in(ACTIVE))
        with self._transaction() as session:
            deleted = session.execute(ended).rowcount  # type: ignore[attr-defined]
            if deleted:
                session.execute(delete(PartRow).where(PartRow.run_id == run_id))
        if not deleted:
            status = self.get(run_id).status
            raise ValueError(f"run {run_id} - is {status}; cancel it before deleting")
        with suppress(OSError):  # the run is deleted even if its log cannot be
            _log_path(run_id).unlink(missing_ok=True)


def _held(run_id: int, lease: str) -> list[ColumnElement[bool]]:
    """Restricts a query to this run, provided that `lease` holds it."""
    return [RunRow.id == run_id, RunRow.status == "running", RunRow.lease == lease]


def _changed(session: Session, where: list[ColumnElement[bool]], **values: Any) -> bool:
    """Set columns of the run that `where` selects. Returns whether there is one."""
    done = session.execute(update(RunRow).where(*where).values(**values))
    return bool(done.rowcount)  # type: ignore[attr-defined]


def _log_path(run_id: int) -> Path:
    return data_path() / "logs" / f"run-{run_id}.log"


# ---------------------------------------------------------------- rows as runs

COLUMNS = [column.name for column in RunRow.__table__.columns]
TEXTS = [column.name for column in RunRow.__table__.columns if isinstance(column.type, String)]
# What reading raises for an invalid date, and for JSON that is cut or nested too deeply.
UNREADABLE = (ValueError, TypeError, LookupError, RecursionError)


def _runs(session: Session, ids: list[int], with_parts: bool) -> list[Run]:
    """The runs with these numbers, in this order. Unknown numbers are left out."""
    try:
        return _readable_runs(session, ids, with_parts)
    except UNREADABLE:
        if len(ids) == 1:
            return [_unread(session, ids[0])]
    # Some rows cannot be read. Read one by one, so that these do not hide the others.
    found = []
    for run_id in ids:
        found += _runs(session, [run_id], with_parts)
    return found


def _readable_runs(session: Session, ids: list[int], with_parts: bool) -> list[Run]:
    chosen = select(RunRow).where(RunRow.id.in_(ids))
    rows = {row.id: row for row in session.scalars(chosen)}
    parts: dict[int, dict[str, dict[str, Any]]] = {run_id: {} for run_id in rows}
    if with_parts:
        for part in session.scalars(select(PartRow).where(PartRow.run_id.in_(rows))):
            parts[part.run_id][part.name] = part.data
    return [_run(rows[run_id], parts[run_id]) for run_id in ids if run_id in rows]


def _run(row: RunRow, parts: dict[str, dict[str, Any]]) -> Run:
    """Raises ValueError if a column holds a value of the wrong type, which SQLite allows."""
    run = Run(**{name: getattr(row, name) for name in COLUMNS}, parts=parts)
    if not _types_are_right(run):
        raise ValueError(f"run {run.id} - holds a value of the wrong type")
    return run


def _types_are_right(run: Run) -> bool:
    texts_are_text = all(isinstance(getattr(run, name), str | None) for name in TEXTS)
    is_pid = run.pid is None or (isinstance(run.pid, int) and 0 < run.pid < 2**31)
    is_time = run.heard is None or isinstance(run.heard, float | int)
    is_fraction = isinstance(run.fraction, float | int) and 0 <= run.fraction <= 1
    return texts_are_text and is_pid and is_time and is_fraction


def _unread(session: Session, run_id: int) -> Run:
    """A run whose row cannot be read, with its text columns and the reason."""
    words = ("kind", "name", "status", "device")
    as_text = [type_coerce(getattr(RunRow, name), String) for name in words]
    row = session.execute(select(*as_text).where(RunRow.id == run_id)).one()
    fields: dict[str, Any] = dict.fromkeys(COLUMNS)
    for name, value in zip(words, row, strict=True):
        fields[name] = str(value)
    fields |= {"id": run_id, "created_at": dt.datetime.min}
    fields |= {"spec_yaml": "", "options": {}, "fraction": 0.0, "message": ""}
    why = "its row has a date, JSON or a number that cannot be read: it was edited by hand, or cut"
    return Run(**fields, unread=why)


# ---------------------------------------------------------------- the store of this process


def _file_identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the store's file, which is created if it is missing. None if it cannot be
    created; opening the store then says why."""
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
    """The store that the environment names. There is one per process and address. If the file was
    replaced by another, this opens a new store. Raises StoreError."""
    address = os.environ.get(VARIABLE)
    if address:
        return _store(address)
    try:
        path = data_dir() / "runs.db"
        return _store(sqlite_address(path), _file_identity(path))
    except NotWritten as error:
        raise StoreError(f"runs: {error}; set HYBRID_DATA_DIR to a writable folder") from None
