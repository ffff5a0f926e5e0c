"""The tables of the run store, and how a database that holds them is opened and brought up to
date."""

import datetime as dt
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
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
CONNECT_S = 3  # a database server that does not answer makes nobody wait longer


class StoreError(RuntimeError):
    """The store cannot be used: one line that says why, and what to do."""


class Base(DeclarativeBase):
    """What all tables have in common."""


class RunRow(Base):
    """One run. `lease` is a word that only its worker knows; `boot` and `heard` say when the worker
    last renewed it, `pid_space` among which processes `pid` is counted (lease.py)."""

    __tablename__ = "runs"
    # The number of a deleted run is never given to another.
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


# The distribution that brings a database driver, where it is not called as its module is.
DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}


def sqlite_address(path: Path) -> URL:
    """The address of a file, whatever characters its name has: in an address as text a "?" would
    end it."""
    return URL.create("sqlite", database=str(path))


def open_database(address: URL | str) -> Engine:
    """The engine for an address, its tables up to date. Raises StoreError."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise StoreError(
            f"{VARIABLE}: not an address - must be one such as postgresql+psycopg://user@host/database"
        ) from None
    if url.get_backend_name() == "sqlite" and (
        url.database in (None, "", ":memory:") or "mode" in url.query
    ):
        raise StoreError(
            f"{VARIABLE}: an SQLite database in memory - must be a file, which jobs in other "
            "processes can open"
        )
    engine = _engine(url)
    with said_in_one_line(url):
        _bring_up_to_date(engine)
    return engine


def _engine(url: URL) -> Engine:
    driver = {}
    if url.get_backend_name() == "postgresql":
        driver["connect_timeout"] = CONNECT_S
    try:
        engine = create_engine(
            url,
            connect_args=driver,
            pool_pre_ping=url.get_backend_name()
            != "sqlite",  # a server that was restarted is connected to again
            json_serializer=lambda value: json.dumps(_sayable(value), allow_nan=False),
            json_deserializer=partial(json.loads, parse_constant=lambda _: None),
        )
    except NoSuchModuleError as error:
        raise StoreError(f"{_place(url)} - {_first_line(error)}") from None
    except ImportError as error:
        driver_name = error.name or url.get_driver_name()
        command = f'.venv/bin/pip install "{DRIVERS.get(driver_name, driver_name)}"'
        raise StoreError(
            f"{_place(url)} - its driver {driver_name} is not installed; `{command}` installs it"
        ) from None
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _sqlite_settings)
    return engine


def _sayable(value: Any) -> Any:
    """The value without NaN and infinities, which JSON does not have: None stands for them."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value
    if isinstance(value, dict):
        return {key: _sayable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sayable(item) for item in value]
    return value


def _sqlite_settings(connection: Any, _: Any) -> None:
    """Readers never block the writer; a busy database is waited for."""
    connection.text_factory = lambda data: data.decode(
        "utf-8", "replace"
    )  # a row that is damaged must not hide the others
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "busy_timeout=10000",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


# ---------------------------------------------------------------- migrations


def _bring_up_to_date(engine: Engine) -> None:
    """Make the tables, or change those of an earlier version. Raises StoreError for tables of a
    later one."""
    with engine.connect() as connection:
        if _version(connection) == LATEST:
            return
        connection.rollback()
        sqlite = engine.dialect.name == "sqlite"
        if sqlite:
            # A table that is made anew is dropped in between, and with it, if keys were looked at,
            # every part of a result.
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.commit()
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # another process may be at it
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
    from alembic import command  # late: a store that is up to date needs none of it
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
            f"{_place(connection.engine.url)} - its tables are of version {version}, this program "
            f"knows {LATEST} and earlier; update the program, or name another store"
        ) from None


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


# ---------------------------------------------------------------- errors

# What a driver says -> what a person can do.
REMEDIES = {
    "not a database": "move the file away, and a new one is made",
    "malformed": "move the file away, and a new one is made; "
    "`sqlite3 FILE .recover` may save what was in it",
    "readonly": "make the file and its folder writable, or name another folder",
    "unable to open": "make its folder readable and writable, or name another one",
    "disk is full": "free some space",
    "locked": "another program holds it; try again when that has ended",
    "disk I/O": "look at the disk, or name another folder",
}


@contextmanager
def said_in_one_line(url: URL) -> Iterator[None]:
    """Turn what a database driver raises into a StoreError."""
    try:
        yield
    except DBAPIError as error:
        why = _first_line(error.orig)
        remedy = "look at the file"
        if url.get_backend_name() != "sqlite":
            remedy = f"start the database server, or unset {VARIABLE}"
        for words, known in REMEDIES.items():
            if words in why:
                remedy = known
                break
        raise StoreError(f"{_place(url)} - {why}; {remedy}") from error


def _place(url: URL) -> str:
    """Where the store is, without a password."""
    if VARIABLE not in os.environ:
        return f"runs: {url.database}"
    return f"{VARIABLE}: {url.render_as_string(hide_password=True)!r}"


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0]
