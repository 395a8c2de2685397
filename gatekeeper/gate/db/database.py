"""Which database the gate's tables live in, and how to open it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from gatekeeper.errors import GateError, ServiceError
from gatekeeper.gate.db import migrate as migrations

PREFIX = "gatekeeper+"
DIALECTS = ("sqlite", "postgresql", "mysql")
_BUSY_MS = 20_000  # MLflow's own figure for SQLite


def plain_uri(uri: str) -> str:
    """Return the URI that SQLAlchemy understands: without the gate's prefix."""
    return uri.removeprefix(PREFIX)


def database_uri(registry_uri: str | None = None) -> str:
    """Return where the gate's tables are: `GATEKEEPER_DATABASE_URI`, else the registry's database.

    Args:
        registry_uri: A registry store URI, with or without `gatekeeper+`; without it
            `MLFLOW_REGISTRY_STORE_URI`, then `MLFLOW_BACKEND_STORE_URI`.

    Raises:
        GateError: Neither is set, or it is no database.
    """
    uri = (
        os.environ.get("GATEKEEPER_DATABASE_URI")
        or registry_uri
        or os.environ.get("MLFLOW_REGISTRY_STORE_URI")
        or os.environ.get("MLFLOW_BACKEND_STORE_URI")
    )
    if not uri:
        raise GateError(
            "where the gate's database is was not said",
            hint="set GATEKEEPER_DATABASE_URI to the registry's database, e.g. sqlite:///mlflow.db",
        )
    return checked_uri(uri)


def checked_uri(uri: str) -> str:
    """Return `uri` without the gate's prefix.

    Raises:
        GateError: It is no database that the gate can keep its tables in.
    """
    uri = plain_uri(uri)
    if uri.split(":", 1)[0].split("+", 1)[0] not in DIALECTS:
        raise GateError(
            f"'{redacted(uri)}' is no database that the gate can keep its tables in",
            hint="use sqlite:///FILE, postgresql://… or mysql://… (GATEKEEPER_DATABASE_URI)",
        )
    return uri


def redacted(uri: str) -> str:
    """Return `uri` fit for a log: no user, no password, no query."""
    prefix = PREFIX if uri.startswith(PREFIX) else ""
    if "://" not in uri:
        return uri
    try:
        url = make_url(plain_uri(uri))
    except ArgumentError:
        return prefix + plain_uri(uri).split("://", 1)[0] + "://…"
    bare = URL.create(url.drivername, host=url.host, port=url.port, database=url.database)
    return prefix + bare.render_as_string()


@dataclass(frozen=True, slots=True)
class Database:
    """The gate's tables, open for use."""

    engine: Engine

    @classmethod
    def open(cls, uri: str, *, migrate: bool = False) -> "Database":
        """Open the database at `uri` (with or without `gatekeeper+`).

        Args:
            uri: SQLAlchemy URI.
            migrate: Create or upgrade the gate's tables; else they must be current.

        Raises:
            ServiceError: It cannot be reached, or its tables are missing or outdated.
        """
        with _reachable(uri, create=migrate) as engine:
            if migrate:
                migrations.upgrade(engine)
            else:
                migrations.check(engine)
        return cls(engine)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open one transaction: committed at the end, rolled back on an exception."""
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "sqlite":
                # Take the write lock now: two that read first and write later would deadlock.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a connection for reading only."""
        with self.engine.connect() as connection:
            yield connection


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaState:
    """Where the gate's tables stand."""

    revision: str | None  # None: there are none
    head: str  # what this release needs

    @property
    def up_to_date(self) -> bool:
        """Whether they are those of this release."""
        return self.revision == self.head


def state_of_schema(uri: str) -> SchemaState:
    """Return the revision of the gate's tables at `uri`.

    Raises:
        ServiceError: The database cannot be reached.
    """
    with _reachable(uri) as engine:
        return SchemaState(revision=migrations.current(engine), head=migrations.HEAD)


def downgrade(uri: str, revision: str = "base") -> None:
    """Take the gate's tables at `uri` back to `revision`; `base` drops them.

    Raises:
        ServiceError: The database cannot be reached.
    """
    with _reachable(uri) as engine:
        migrations.downgrade(engine, revision)


@contextmanager
def _reachable(uri: str, *, create: bool = False) -> Iterator[Engine]:
    uri = plain_uri(uri)
    file = make_url(uri).database if uri.startswith("sqlite") else None
    if file and file != ":memory:":
        if not create and not Path(file).is_file():
            raise ServiceError(
                f"there is no database at {file}",
                hint="start `gatekeeper server` first, or see GATEKEEPER_DATABASE_URI",
            )
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    try:
        yield engine_for(uri)
    except SQLAlchemyError as error:
        raise ServiceError(
            f"database {redacted(uri)} does not answer: {_first_line(error)}",
            hint="check that it runs and that GATEKEEPER_DATABASE_URI is right",
        ) from error
    except ModuleNotFoundError as error:
        raise ServiceError(
            f"database {redacted(uri)} needs the driver '{error.name}'",
            hint="pip install 'mlflow-gatekeeper[postgres]' (or [mysql])",
        ) from error


@cache
def engine_for(uri: str) -> Engine:
    """Return the engine for a URI (with or without `gatekeeper+`), one per process."""
    uri = plain_uri(uri)
    engine = create_engine(uri, pool_pre_ping=not uri.startswith("sqlite"))
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _settings(connection: Any, record: object) -> None:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.close()

    return engine


def _first_line(error: BaseException) -> str:
    return (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
