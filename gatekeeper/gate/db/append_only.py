"""Triggers that refuse to change or delete what was appended.

A seat belt where the server's role owns the tables (it could drop them); a lock where it does not.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from gatekeeper.gate.db.tables import APPEND_ONLY

_FUNCTION = "gatekeeper_append_only"


def create_triggers(connection: Connection, tables: Sequence[str] = APPEND_ONLY) -> None:
    """Create every trigger that is missing on `tables`; a migration names those of its time."""
    dialect = connection.dialect.name
    absent = missing_triggers(connection, tables)
    if absent and dialect == "postgresql":
        connection.execute(
            text(
                f"CREATE OR REPLACE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
            )
        )
    for name in absent:
        table, event = _parts(name)
        connection.execute(text(_STATEMENTS[dialect].format(name=name, table=table, event=event)))


def drop_triggers(
    connection: Connection, tables: Sequence[str] = APPEND_ONLY, *, function: bool = True
) -> None:
    """Drop those of `tables`, so that the tables can be dropped, and what the triggers call."""
    postgres = connection.dialect.name == "postgresql"
    for name in _names(connection, tables):
        on = f" ON {_parts(name)[0]}" if postgres else ""
        connection.execute(text(f"DROP TRIGGER IF EXISTS {name}{on}"))
    if postgres and function:
        connection.execute(text(f"DROP FUNCTION IF EXISTS {_FUNCTION}()"))


def missing_triggers(
    connection: Connection, tables: Sequence[str] = APPEND_ONLY
) -> tuple[str, ...]:
    """Return the names of triggers that should exist and do not."""
    found = set(connection.execute(text(_CATALOGUE[connection.dialect.name])).scalars())
    return tuple(name for name in _names(connection, tables) if name not in found)


_STATEMENTS = {
    "sqlite": "CREATE TRIGGER {name} BEFORE {event} ON {table} "
    "BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END",
    "postgresql": "CREATE TRIGGER {name} BEFORE {event} ON {table} "
    "FOR EACH STATEMENT EXECUTE FUNCTION gatekeeper_append_only()",
    "mysql": "CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW "
    "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{table} is append-only'",
}

_CATALOGUE = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger'",
    # A disabled trigger counts as missing.
    "postgresql": "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'",
    "mysql": "SELECT trigger_name FROM information_schema.triggers "
    "WHERE trigger_schema = DATABASE()",
}


def _names(connection: Connection, tables: Sequence[str]) -> tuple[str, ...]:
    events = ["update", "delete"]
    if connection.dialect.name == "postgresql":
        events.append("truncate")  # the others have no trigger for it
    return tuple(f"{table}_no_{event}" for table in tables for event in events)


def _parts(name: str) -> tuple[str, str]:
    table, _, event = name.rpartition("_no_")
    return table, event.upper()
