"""The gate's tables, for SQLite, PostgreSQL and MySQL."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    CursorResult,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

VERSION_TABLE = "gatekeeper_alembic_version"
APPEND_ONLY = (
    "gatekeeper_decisions",
    "gatekeeper_attempts",
    "gatekeeper_artifacts",
    "gatekeeper_drills",
)

metadata = MetaData()

# SQLite numbers rows by itself only where the key is exactly INTEGER.
_key = BigInteger().with_variant(Integer, "sqlite")
_DIGEST = String(80)


def _row_columns() -> list[Column[object]]:
    return [
        Column("workspace", String(63), nullable=False),
        Column("name", String(256), nullable=False),
        Column("version", Integer, nullable=False),
        Column("creation_time", BigInteger, nullable=False),
        Column("storage_location", String(500), nullable=False),
    ]


decisions = Table(
    "gatekeeper_decisions",
    metadata,
    Column("id", _key, primary_key=True, autoincrement=True),
    Column("workspace", String(63), nullable=False),
    Column("model_digest", _DIGEST, nullable=False),
    Column("policy_digest", _DIGEST, nullable=False),
    Column("policy_name", String(256), nullable=False),
    Column("probes_digest", _DIGEST),
    Column("anchor_digest", _DIGEST),
    Column("oracle_digest", _DIGEST),
    Column("verdict", String(16), nullable=False),
    Column("score", Float),
    Column("reasons", JSON, nullable=False),
    Column("targets", JSON, nullable=False),
    Column("run_id", String(64)),
    Column("evidence_uri", String(1000)),
    Column("evidence_digest", _DIGEST),
    Column("decided_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("decided_by", String(256), nullable=False),
    Index("gatekeeper_decisions_by_digest", "model_digest", "policy_digest", "id"),
)

artifacts = Table(
    "gatekeeper_artifacts",
    metadata,
    Column("id", _key, primary_key=True, autoincrement=True),
    *_row_columns(),
    Column("digest", _DIGEST, nullable=False),
    Column("fingerprint", _DIGEST),
    Column("kind", String(16), nullable=False),
    Column("noted_at", BigInteger, nullable=False),
    Index("gatekeeper_artifacts_by_row", "workspace", "name", "version", "id"),
    Index("gatekeeper_artifacts_by_digest", "digest"),
)

jobs = Table(
    "gatekeeper_jobs",
    metadata,
    Column("id", _key, primary_key=True, autoincrement=True),
    # One open job per row and policy: MySQL knows no partial unique index, so the key of an open
    # job stands in a column of its own and is cleared when the job ends.
    Column("open_key", String(64), unique=True),
    *_row_columns(),
    Column("policy_digest", _DIGEST, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("lease_owner", String(256)),
    Column("lease_until", BigInteger),
    Column("heartbeat", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("error", Text),
    Column("requested_by", String(256)),
    Column("want_alias", String(256)),
    Column("want_stage", String(64)),
    Column("want_name", String(256)),
    Column("accept_rectified", Boolean, nullable=False),
    Column("fingerprint", _DIGEST),
    Column("decision_id", _key),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Index("gatekeeper_jobs_by_status", "status", "not_before", "id"),
)

attempts = Table(
    "gatekeeper_attempts",
    metadata,
    Column("id", _key, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("who", String(256)),
    Column("action", String(32), nullable=False),
    Column("workspace", String(63), nullable=False),
    Column("name", String(256), nullable=False),
    Column("alias_or_stage", String(256)),
    Column("version", Integer),
    Column("digest", _DIGEST),
    Column("decision", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("decision_id", _key),
    Column("run_id", String(64)),
    Index("gatekeeper_attempts_by_name", "name", "id"),
)

rectified = Table(
    "gatekeeper_rectified",
    metadata,
    Column("id", _key, primary_key=True, autoincrement=True),
    Column("digest", _DIGEST, nullable=False),
    Column("from_digest", _DIGEST, nullable=False),
    Column("workspace", String(63), nullable=False),
    Column("name", String(256), nullable=False),
    Column("version", Integer, nullable=False),
    Column("decision_id", _key),
    Column("at", BigInteger, nullable=False),
    Index("gatekeeper_rectified_by_origin", "from_digest", "id"),
    Index("gatekeeper_rectified_by_digest", "digest", "id"),
)

drills = Table(
    "gatekeeper_drills",
    metadata,
    Column("id", _key, primary_key=True, autoincrement=True),
    Column("digest", _DIGEST, nullable=False),
    Column("storage_location", String(500)),  # null: marked before it was stored anywhere
    Column("attack", String(256), nullable=False),
    Column("target", String(300), nullable=False),
    Column("marked_by", String(256), nullable=False),
    Column("marked_at", BigInteger, nullable=False),
    # MySQL indexes 3072 bytes, that is 768 characters.
    Index("gatekeeper_drills_by_digest", "digest"),
    Index("gatekeeper_drills_by_location", "storage_location"),
)


def new_key(result: CursorResult[Any]) -> int:
    """Return the id that the database gave to an inserted row."""
    key = result.inserted_primary_key
    return int(key[0]) if key else 0
