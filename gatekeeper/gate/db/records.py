"""Rows of the gate's tables as frozen values; times are milliseconds since the epoch, UTC."""

import time
from dataclasses import dataclass

from gatekeeper.types import Verdict


def now_ms() -> int:
    """Return the wall clock in milliseconds since the epoch, as MLflow's own tables count."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """One row of MLflow's `model_versions`, as it was when it was looked at.

    Name and version alone do not do: a model deleted and made again restarts at version 1, and a
    `model_id` can be borrowed from another model.
    """

    workspace: str
    name: str
    version: int
    creation_time: int  # ms
    storage_location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactNote:
    """What the gate knows of the bytes behind a row; the latest note of a row counts."""

    row: VersionRow
    digest: str  # "sha256:…" of the artifact tree
    fingerprint: str | None  # cheap: keys, sizes, times; None: could not be listed
    kind: str  # clip | other | unknown
    noted_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """A verdict bound to a content digest and a policy digest."""

    model_digest: str
    policy_digest: str
    policy_name: str
    verdict: Verdict
    score: float | None
    reasons: tuple[str, ...]  # worst first
    targets: tuple[str, ...]  # labels, most probable first
    decided_at: int
    expires_at: int | None  # None: never
    decided_by: str
    workspace: str = "default"
    probes_digest: str | None = None
    anchor_digest: str | None = None
    oracle_digest: str | None = None
    run_id: str | None = None
    evidence_uri: str | None = None
    evidence_digest: str | None = None
    id: int | None = None  # None: not stored yet


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A scan that somebody waits for."""

    row: VersionRow
    policy_digest: str
    kind: str = "scan"
    requested_by: str | None = None
    want_alias: str | None = None
    want_stage: str | None = None
    want_name: str | None = None  # copy into this model
    accept_rectified: bool = False
    fingerprint: str | None = None  # as listed when the scan was asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of the queue."""

    id: int
    request: JobRequest
    status: str  # queued | running | done | failed | cancelled
    lease_owner: str | None
    lease_until: int | None
    heartbeat: int | None
    attempts: int
    max_attempts: int
    not_before: int
    error: str | None
    decision_id: int | None
    created_at: int
    started_at: int | None
    finished_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at a protected name, allowed or not; never changed afterwards."""

    at: int
    who: str | None
    action: str  # alias | stage | create | copy | rename | tag | delete_alias | delete_version | …
    workspace: str
    name: str
    alias_or_stage: str | None
    version: int | None
    digest: str | None
    decision: str  # allow | refuse | hold | allow_warn | allow_audit
    reason: str
    decision_id: int | None = None
    run_id: str | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillMark:
    """Bytes that somebody planted on purpose; a mark is for ever."""

    digest: str
    attack: str
    target: str  # label
    marked_by: str
    marked_at: int
    storage_location: str | None = None
