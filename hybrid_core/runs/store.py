"""The run store: SQLite in the user's data folder, or any database that `HYBRID_DATABASE_URL` names, through SQLAlchemy.

A run is one row; each part of its result is a row of its own, written when it is known, so that a crash loses nothing.
"""

import datetime as dt
import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import JSON, URL, Engine, ForeignKey, create_engine, delete, event, make_url, select, update
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from hybrid_core.data import data_dir
from hybrid_core.spec import ArchSpec, SpecError

Status = Literal["queued", "running", "done", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = get_args(Status)
ACTIVE: tuple[Status, ...] = ("queued", "running")


VARIABLE = "HYBRID_DATABASE_URL"


class UnknownRun(LookupError):
    """No run has this number."""


def now() -> dt.datetime:
    """The time, UTC, without a zone, as databases keep it."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None, microsecond=0)


class _Base(DeclarativeBase):
    pass


class _RunRow(_Base):
    __tablename__ = "runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    status: Mapped[str] = mapped_column(index=True)
    spec_yaml: Mapped[str]
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    device: Mapped[str]
    host: Mapped[str | None]
    pid: Mapped[int | None]
    pid_started: Mapped[float | None]
    fraction: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str] = mapped_column(default="")
    error: Mapped[str | None]
    created_at: Mapped[dt.datetime]
    started_at: Mapped[dt.datetime | None]
    ended_at: Mapped[dt.datetime | None]


class _PartRow(_Base):
    __tablename__ = "parts"
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


@dataclass(frozen=True)
class Run:
    """One run as it stood when it was read. Times are UTC."""

    id: int
    kind: str
    name: str
    status: Status
    spec_yaml: str
    options: dict[str, Any]
    device: str
    host: str | None
    pid: int | None
    pid_started: float | None
    fraction: float
    message: str
    error: str | None
    created_at: dt.datetime
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def spec(self) -> ArchSpec:
        return ArchSpec.from_yaml(self.spec_yaml)

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @property
    def log_path(self) -> Path:
        return data_dir() / "logs" / f"run-{self.id}.log"

    def log_tail(self, lines: int = 12) -> str:
        """The last lines that the run's process printed."""
        try:
            return "\n".join(self.log_path.read_text("utf-8", "replace").splitlines()[-lines:])
        except OSError:
            return ""


# The distribution that brings a database driver, where it is not called as its module is.
DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}


def _engine(url: str) -> Engine:
    """The engine for an address. Raises SpecError for one that cannot be read, or whose driver is not installed."""
    try:
        address = make_url(url)
    except ArgumentError:
        raise SpecError(f"{VARIABLE}: not an address - must be one such as postgresql+psycopg://user@host/database") from None
    try:
        return create_engine(address)
    except NoSuchModuleError as error:
        raise _refused(address, _first_line(error)) from None
    except ModuleNotFoundError as error:
        driver = error.name or address.get_driver_name()
        command = f'.venv/bin/pip install "{DRIVERS.get(driver, driver)}"'
        raise _refused(address, f"its driver {driver} is not installed; `{command}` installs it") from None


def _refused(address: URL, why: str) -> SpecError:
    """One line on an address, without its password."""
    return SpecError(f"{VARIABLE}: {address.render_as_string(hide_password=True)!r} - {why}")


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0]


class RunStore:
    """All reads and writes. Every method is one transaction."""

    def __init__(self, url: str) -> None:
        """Raises SpecError for a database that cannot be opened."""
        self.engine = _engine(url)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _sqlite_settings)
        try:
            _Base.metadata.create_all(self.engine)
        except DBAPIError as error:
            raise _refused(self.engine.url, _first_line(error.orig)) from None
        self._session = sessionmaker(self.engine)

    def create(self, kind: str, spec: ArchSpec, options: dict[str, Any], device: str) -> int:
        """A queued run; returns its number."""
        with self._session.begin() as session:
            row = _RunRow(
                kind=kind, name=spec.name, status="queued", spec_yaml=spec.to_yaml(), options=options, device=device, created_at=now()
            )
            session.add(row)
            session.flush()
            return row.id

    def get(self, run_id: int) -> Run:
        """One run with its parts. Raises UnknownRun."""
        with self._session() as session:
            row = session.get(_RunRow, run_id)
            if row is None:
                raise UnknownRun(f"run {run_id} - there is no such run; `python -m hybrid_core runs` lists them")
            return _run(session, row)

    def list(self, *, with_parts: bool = True, statuses: tuple[Status, ...] = STATUSES, kind: str | None = None) -> list[Run]:
        """Runs, of one kind or of all, newest first."""
        wanted = select(_RunRow).where(_RunRow.status.in_(statuses)).order_by(_RunRow.id.desc())
        with self._session() as session:
            rows = session.scalars(wanted.where(_RunRow.kind == kind) if kind else wanted)
            return [_run(session, row, with_parts) for row in rows]

    def change(self, run_id: int, only_if: tuple[Status, ...] = STATUSES, **values: Any) -> bool:
        """Set columns of a run whose status is one of `only_if`; says whether it was."""
        with self._session.begin() as session:
            statement = update(_RunRow).where(_RunRow.id == run_id, _RunRow.status.in_(only_if)).values(**values)
            return bool(session.execute(statement).rowcount)  # type: ignore[attr-defined]

    def finish(self, run_id: int, status: Status, error: str | None = None) -> bool:
        """End an active run; a run that has ended already stays as it is."""
        return self.change(run_id, only_if=ACTIVE, status=status, error=error, ended_at=now())

    def put_part(self, run_id: int, name: str, data: dict[str, Any]) -> None:
        """Store or replace one part of a result."""
        with self._session.begin() as session:
            session.merge(_PartRow(run_id=run_id, name=name, data=data))

    def delete(self, run_id: int) -> None:
        """Forget an ended run and its log. Raises UnknownRun, and ValueError while it is active."""
        run = self.get(run_id)
        if run.active:
            raise ValueError(f"run {run_id} - is {run.status}; cancel it before deleting")
        with self._session.begin() as session:
            session.execute(delete(_PartRow).where(_PartRow.run_id == run_id))
            session.execute(delete(_RunRow).where(_RunRow.id == run_id))
        run.log_path.unlink(missing_ok=True)


def _run(session: Session, row: _RunRow, with_parts: bool = True) -> Run:
    columns = {column.name: getattr(row, column.name) for column in _RunRow.__table__.columns}
    parts = session.scalars(select(_PartRow).where(_PartRow.run_id == row.id)) if with_parts else ()
    return Run(**columns, parts={part.name: part.data for part in parts})


def _sqlite_settings(connection: Any, _: Any) -> None:
    """Readers never block the writer; a busy database is waited for."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


@cache
def _store(url: str) -> RunStore:
    return RunStore(url)


def open_store() -> RunStore:
    """The store that the environment names; one per process and address. Raises SpecError for one that cannot be opened."""
    return _store(os.environ.get(VARIABLE) or f"sqlite:///{data_dir() / 'runs.db'}")
