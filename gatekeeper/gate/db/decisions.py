"""Decisions: appended, never changed; the latest for a digest and a policy counts."""

import hashlib
from typing import Any

from sqlalchemy import Connection, RowMapping, select, text

from gatekeeper.gate.db import tables
from gatekeeper.gate.db.records import DecisionRecord
from gatekeeper.types import Verdict

_t = tables.decisions


def lock_digest(connection: Connection, digest: str) -> None:
    """Hold `digest` until this transaction ends, so that no other decision on it slips between.

    On SQLite the caller's `BEGIN IMMEDIATE` already holds everything.
    """
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(digest.encode()).digest()[:8], "big", signed=True)
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": number})
    elif connection.dialect.name == "mysql":
        connection.execute(select(_t.c.id).where(_t.c.model_digest == digest).with_for_update())


def record_decision(connection: Connection, record: DecisionRecord) -> int:
    """Append a decision and return its id."""
    lock_digest(connection, record.model_digest)
    values = {
        name: getattr(record, name) for name in DecisionRecord.__dataclass_fields__ if name != "id"
    }
    values["verdict"] = record.verdict.value
    values["reasons"] = list(record.reasons)
    values["targets"] = list(record.targets)
    result = connection.execute(_t.insert().values(**values))
    return tables.new_key(result)


def latest_decision(
    connection: Connection, digest: str, policy_digest: str | None
) -> DecisionRecord | None:
    """Return the newest decision on these bytes under this policy (None: under any)."""
    query = select(_t).where(_t.c.model_digest == digest).order_by(_t.c.id.desc()).limit(1)
    if policy_digest is not None:
        query = query.where(_t.c.policy_digest == policy_digest)
    row = connection.execute(query).mappings().first()
    return None if row is None else _record(row)


def decision(connection: Connection, decision_id: int) -> DecisionRecord | None:
    """Return one decision by its id."""
    row = connection.execute(select(_t).where(_t.c.id == decision_id)).mappings().first()
    return None if row is None else _record(row)


def decisions(connection: Connection, limit: int = 50) -> tuple[DecisionRecord, ...]:
    """Return the newest decisions, newest first."""
    query = select(_t).order_by(_t.c.id.desc()).limit(limit)
    return tuple(_record(row) for row in connection.execute(query).mappings())


def _record(row: RowMapping) -> DecisionRecord:
    values: dict[str, Any] = dict(row)
    values["verdict"] = Verdict(values["verdict"])
    values["reasons"] = tuple(values["reasons"])
    values["targets"] = tuple(values["targets"])
    return DecisionRecord(**values)
