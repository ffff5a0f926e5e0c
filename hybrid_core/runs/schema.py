"""The tables of the run store. Opens its database, and migrates tables of earlier versions."""

import datetime as dt
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    Connection,
    Engine,
    ForeignKey,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

VARIABLE = "HYBRID_DATABASE_URL"
FIRST, LATEST = "0001", "0002"  # files in migrations/versions
CONNECT_S = 3  # how long to wait for a database server that does not answer


class StoreError(RuntimeError):
    """The store cannot be used. The message says in one line why, and what to do."""


class Base(DeclarativeBase):
    """The base class of all tables."""


class RunRow(Base):
    """One run. For the meaning of the worker's columns, see lease.py.

    `lease`: a random token that the worker needs in order to write. `boot` and `heard`: when it was
    last renewed, as a reading of one boot's monotonic clock. `pid_space`: the PID namespace that
    `pid` belongs to."""

    __tablename__ = "runs"
    # Never reuse the number of a deleted run.
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    status: Mapped[str] = mapped_column(index=True)
    spec_yaml: Mapped[str]
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    device: Mapped[str]
    host: Mapped[str | None]
    pid: Mapped[int | None]
    pid_space: Mapped[str | None]
    lease: Mapped[str | None]
    boot: Mapped[str | None]
    heard: Mapped[float | None]
    fraction: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str] = mapped_column(default="")
    error: Mapped[str | None]
    created_at: Mapped[dt.datetime]
    started_at: Mapped[dt.datetime | None]
    ended_at: Mapped[dt.datetime | None]


class PartRow(Base):
    """One part of a run's result."""

    __tablename__ = "parts"
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


# A driver's module -> the package for pip, if the two have different names.
DISTRIBUTIONS = {
    "psycopg": "psycopg[binary]",  # also the extra `cluster`
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}


def sqlite_address(path: Path) -> URL:
    """The address of a file. It is built from parts, because a "?" in the file's name would end an
    address written as text."""
    return URL.create("sqlite", database=str(path))


def open_database(address: URL | str) -> Engine:
    """The engine for an address, with its tables up to date. Raises StoreError."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):  # ValueError: a port that is not a number
        raise StoreError(
            f"{VARIABLE}: not an address - must look like postgresql+psycopg://user@host/database"
        ) from None
    in_memory = url.database in (None, "", ":memory:") or "mode" in url.query
    if in_memory and url.get_backend_name() == "sqlite":
        raise StoreError(
            f"{VARIABLE}: an SQLite database in memory - must be a file that jobs in other "
            "processes can open"
        )
    engine = _engine(url)
    with said_in_one_line(url):
        _bring_up_to_date(engine)
    return engine


def _engine(url: URL) -> Engine:
    backend = url.get_backend_name()
    driver_options = {}
    if backend == "postgresql":
        driver_options["connect_timeout"] = CONNECT_S
    try:
        engine = create_engine(
            url,
            connect_args=driver_options,
            pool_pre_ping=backend != "sqlite",  # reconnect to a server that was restarted
            json_serializer=_to_json,
            json_deserializer=_from_json,
        )
    except NoSuchModuleError as error:
        raise StoreError(f"{_place(url)} - {_first_line(error)}") from None
    except ImportError as error:
        driver_name = error.name or url.get_driver_name()
        command = f"pip install '{DISTRIBUTIONS.get(driver_name, driver_name)}'"
        raise StoreError(
            f"{_place(url)} - its driver {driver_name} is not installed; `{command}` installs it"
        ) from None
    if backend == "sqlite":
        event.listen(engine, "connect", _sqlite_settings)
    return engine


def _to_json(value: Any) -> str:
    return json.dumps(_without_nan(value), allow_nan=False)


def _from_json(text: str) -> Any:
    """Earlier versions wrote NaN and infinities; they are read as None."""
    return json.loads(text, parse_constant=lambda _: None)


def _without_nan(value: Any) -> Any:
    """The value with NaN and infinities replaced by None, because JSON does not have them."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value


def _sqlite_settings(connection: Any, _: Any) -> None:
    """With WAL, readers do not block the writer. Connections wait for a busy database."""
    connection.text_factory = _damaged_text_too
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "busy_timeout=10000",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _damaged_text_too(data: bytes) -> str:
    """Replace bytes that are not UTF-8, so that a damaged row does not hide the others."""
    return data.decode("utf-8", "replace")


# ---------------------------------------------------------------- migrations


def _bring_up_to_date(engine: Engine) -> None:
    """Create the tables, or migrate those of an earlier version. Raises StoreError for tables of a
    later version."""
    with engine.connect() as connection:
        if _version(connection) == LATEST:
            return
        connection.rollback()
        sqlite = engine.dialect.name == "sqlite"
        if sqlite:
            # To change a table, SQLite copies it and drops the old one. With foreign keys on, that
            # would delete the parts of every run.
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.commit()
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # wait for another migration
        try:
            _upgrade(connection, _version(connection))
            connection.commit()
        finally:
            connection.rollback()
            if sqlite:
                connection.exec_driver_sql("PRAGMA foreign_keys=ON")


def _upgrade(connection: Connection, version: str | None) -> None:
    if version == LATEST:
        return
    # Imported late, because an up-to-date store does not need Alembic.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        if version is None and inspect(connection).has_table("runs"):
            command.stamp(config, FIRST)
        command.upgrade(config, LATEST)
    except CommandError:
        raise StoreError(
            f"{_place(connection.engine.url)} - its tables have version {version}, this program "
            f"knows {LATEST} and earlier; update the program, or name another store"
        ) from None


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


# ---------------------------------------------------------------- errors

# Part of a driver's message -> what the user can do.
REMEDIES = {
    "not a database": "move the file away, and a new one is created",
    "malformed": "move the file away, and a new one is created; "
    "`sqlite3 FILE .recover` may recover its contents",
    "readonly": "make the file and its folder writable, or name another folder",
    "unable to open": "make its folder readable and writable, or name another one",
    "disk is full": "free some space",
    "locked": "another program has locked it; try again when that program has ended",
    "disk I/O": "check the disk, or name another folder",
}


@contextmanager
def said_in_one_line(url: URL) -> Iterator[None]:
    """Turn an error of the database driver into a StoreError."""
    try:
        yield
    except DBAPIError as error:
        why = _first_line(error.orig)
        raise StoreError(f"{_place(url)} - {why}; {_remedy(why, url)}") from error


def _remedy(why: str, url: URL) -> str:
    for words, remedy in REMEDIES.items():
        if words in why:
            return remedy
    if url.get_backend_name() == "sqlite":
        return "check the file"
    return f"start the database server, or unset {VARIABLE}"


def _place(url: URL) -> str:
    """Where the store is, for error lines: a path, or an address without its password."""
    if VARIABLE not in os.environ:
        return f"runs: {url.database}"
    return f"{VARIABLE}: {url.render_as_string(hide_password=True)!r}"


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0]
