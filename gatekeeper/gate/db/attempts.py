"""The trail: every attempt at a protected name, allowed or refused; appended, never changed."""

from sqlalchemy import Connection, select

from gatekeeper.gate.db import tables
from gatekeeper.gate.db.records import Attempt

_t = tables.attempts
_REASON_CHARS = 4000


def add_attempt(connection: Connection, attempt: Attempt) -> int:
    """Append an attempt and return its id."""
    values = {name: getattr(attempt, name) for name in Attempt.__dataclass_fields__ if name != "id"}
    # A name may be as long as the client likes; the trail must not fail on it.
    values["reason"] = attempt.reason[:_REASON_CHARS]
    values["name"] = attempt.name[:256]
    values["alias_or_stage"] = attempt.alias_or_stage and attempt.alias_or_stage[:256]
    values["who"] = attempt.who and attempt.who[:256]
    result = connection.execute(_t.insert().values(**values))
    return tables.new_key(result)


def attempts(
    connection: Connection, limit: int = 50, name: str | None = None
) -> tuple[Attempt, ...]:
    """Return the newest attempts, newest first, of one model or of all."""
    query = select(_t).order_by(_t.c.id.desc()).limit(limit)
    if name is not None:
        query = query.where(_t.c.name == name)
    return tuple(Attempt(**dict(row)) for row in connection.execute(query).mappings())
