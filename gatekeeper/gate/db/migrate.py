"""The gate's own Alembic migrations, beside MLflow's in the same database."""

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from gatekeeper.errors import ServiceError
from gatekeeper.gate.db.append_only import missing_triggers
from gatekeeper.gate.db.tables import VERSION_TABLE, metadata

HEAD = "0002"
_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 7_203_118_401  # any number, the same in every process


def current(engine: Engine) -> str | None:
    """Return the revision the gate's tables are at, None where there are none."""
    with engine.connect() as connection:
        return _revision(connection)


def check(engine: Engine) -> None:
    """Make sure that tables and triggers are those of this release.

    Raises:
        ServiceError: They are missing, older or newer.
    """
    with engine.connect() as connection:
        found = _revision(connection)
        problem = _problem(connection, found)
    if problem:
        raise ServiceError(
            f"the gate's tables are not usable: {problem}",
            hint="run `gatekeeper db upgrade` (and back the database up first)",
        )


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the gate's tables to `revision`; several processes may call it at once."""
    with engine.connect() as connection:
        if revision == "head" and not _problem(connection, _revision(connection)):
            return
    _run(engine, "upgrade", revision)


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take the gate's tables back to `revision`; `base` drops them with all decisions."""
    _run(engine, "downgrade", revision)


def _problem(connection: Connection, found: str | None) -> str | None:
    if found != HEAD:
        return f"revision {found or 'none'}, expected {HEAD}"
    absent = set(metadata.tables) - set(inspect(connection).get_table_names())
    if absent:
        return f"missing {', '.join(sorted(absent))}"
    triggers = missing_triggers(connection)
    return f"trigger {triggers[0]} is missing" if triggers else None


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
    return None if found is None else str(found)


def _run(engine: Engine, direction: str, revision: str) -> None:
    from alembic import command  # slow to import, and rarely needed
    from alembic.config import Config

    from gatekeeper.gate.db.append_only import create_triggers

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    with engine.connect() as connection:
        _lock(connection)
        config.attributes["connection"] = connection
        getattr(command, direction)(config, revision)
        if _revision(connection) == HEAD:
            create_triggers(connection)  # also where somebody dropped them
        connection.commit()


def _lock(connection: Connection) -> None:
    # Released by the commit. MySQL commits at every DDL statement: there, upgrade one at a time.
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _LOCK})
