"""The gate's own tables: decisions, artifacts, jobs, attempts, drills; see docs/gate.md.

Functions take an open `Connection` first, so that a caller chooses the transaction: the store
reads a decision in the transaction that moves the alias, the worker opens one of its own.
"""

from gatekeeper.gate.db.artifacts import (
    artifact_for,
    note_artifact,
    note_rectified,
    rectified_from,
    rectified_origin,
)
from gatekeeper.gate.db.attempts import add_attempt, attempts
from gatekeeper.gate.db.database import (
    Database,
    SchemaState,
    checked_uri,
    database_uri,
    downgrade,
    plain_uri,
    redacted,
    state_of_schema,
)
from gatekeeper.gate.db.decisions import (
    decision,
    decisions,
    latest_decision,
    lock_digest,
    record_decision,
)
from gatekeeper.gate.db.display import version_row, write_display
from gatekeeper.gate.db.drills import drill_mark, mark_drill
from gatekeeper.gate.db.jobs import (
    cancel_job,
    claim_job,
    enqueue_job,
    fail_job,
    finish_job,
    heartbeat,
    job,
    jobs,
    open_job,
    release_job,
    retry_job,
)
from gatekeeper.gate.db.records import (
    ArtifactNote,
    Attempt,
    DecisionRecord,
    DrillMark,
    Job,
    JobRequest,
    VersionRow,
    now_ms,
)

__all__ = [
    "ArtifactNote",
    "Attempt",
    "Database",
    "DecisionRecord",
    "DrillMark",
    "Job",
    "JobRequest",
    "SchemaState",
    "VersionRow",
    "add_attempt",
    "artifact_for",
    "attempts",
    "cancel_job",
    "checked_uri",
    "claim_job",
    "database_uri",
    "decision",
    "decisions",
    "downgrade",
    "drill_mark",
    "enqueue_job",
    "fail_job",
    "finish_job",
    "heartbeat",
    "job",
    "jobs",
    "latest_decision",
    "lock_digest",
    "mark_drill",
    "note_artifact",
    "note_rectified",
    "now_ms",
    "open_job",
    "plain_uri",
    "record_decision",
    "rectified_from",
    "rectified_origin",
    "redacted",
    "release_job",
    "retry_job",
    "state_of_schema",
    "version_row",
    "write_display",
]
