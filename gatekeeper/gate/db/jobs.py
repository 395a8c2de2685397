"""The queue: at most one open job per version and policy, leases that expire, a bounded retry."""

import hashlib

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, or_, select, update
from sqlalchemy.exc import IntegrityError

from gatekeeper.gate.db import tables
from gatekeeper.gate.db.records import Job, JobRequest, VersionRow, now_ms

MAX_ATTEMPTS = 3
RETRY_S = 20.0  # a service that was away gets this long before the next try

_t = tables.jobs
_ROW = tuple(VersionRow.__dataclass_fields__)
_REQUEST = tuple(name for name in JobRequest.__dataclass_fields__ if name != "row")


def enqueue_job(
    connection: Connection, request: JobRequest, max_attempts: int = MAX_ATTEMPTS
) -> tuple[int, bool]:
    """Queue a scan; return (job id, True if it is new).

    An open job for the same row, policy and kind is returned instead; while it is still queued,
    what the newest caller wants (alias, stage, fingerprint) replaces what it held.
    """
    key = _open_key(request)
    found = _by_key(connection, key)
    if found is None:
        values = {name: getattr(request.row, name) for name in _ROW}
        values |= {name: getattr(request, name) for name in _REQUEST}
        values |= {"open_key": key, "status": "queued", "attempts": 0, "not_before": 0}
        values |= {"max_attempts": max_attempts, "created_at": now_ms()}
        try:
            with connection.begin_nested():
                result = connection.execute(_t.insert().values(**values))
                return tables.new_key(result), True
        except IntegrityError:  # somebody else was faster
            found = _by_key(connection, key)
            if found is None:
                raise
    wanted = {
        name: getattr(request, name)
        for name in ("want_alias", "want_stage", "want_name", "fingerprint", "accept_rectified")
        if getattr(request, name)
    }
    if wanted:
        connection.execute(
            update(_t).where(_t.c.id == found, _t.c.status == "queued").values(**wanted)
        )
    return found, False


def claim_job(
    connection: Connection, owner: str, lease_s: float, job_id: int | None = None
) -> Job | None:
    """Take the oldest job that is free, or the one asked for; None if there is none.

    A job is free when it is queued and due, or when its worker let the lease run out. One
    conditional UPDATE decides between several workers. A job whose workers died `max_attempts`
    times is failed instead of taken.
    """
    lost: list[int] = []  # to others; MySQL would show them as free for the whole transaction
    while True:
        now = now_ms()
        free = or_(
            and_(_t.c.status == "queued", _t.c.not_before <= now),
            and_(_t.c.status == "running", _t.c.lease_until < now),
        )
        query = select(_t).where(free).order_by(_t.c.not_before, _t.c.id).limit(1)
        if job_id is not None:
            query = select(_t).where(free, _t.c.id == job_id)
        found = connection.execute(query.where(_t.c.id.not_in(lost))).mappings().first()
        if found is None:
            return None
        lost.append(int(found["id"]))
        unchanged = and_(
            _t.c.id == found["id"],
            _t.c.status == found["status"],
            _t.c.attempts == found["attempts"],
            free,
        )
        if found["attempts"] >= found["max_attempts"]:
            reason = f"given up after {found['attempts']} attempts: the worker stopped answering"
            _close(connection, unchanged, status="failed", error=found["error"] or reason)
            continue
        taken = (
            update(_t)
            .where(unchanged)
            .values(
                status="running",
                lease_owner=owner,
                lease_until=now + int(lease_s * 1000),
                heartbeat=now,
                attempts=found["attempts"] + 1,
                started_at=now,
            )
        )
        if connection.execute(taken).rowcount == 1:
            return job(connection, int(found["id"]))


def heartbeat(connection: Connection, job_id: int, owner: str, lease_s: float) -> bool:
    """Extend the lease; False if the job is no longer this owner's (stop working on it)."""
    now = now_ms()
    values = {"heartbeat": now, "lease_until": now + int(lease_s * 1000)}
    result = connection.execute(update(_t).where(_mine(job_id, owner)).values(**values))
    return result.rowcount == 1


def finish_job(connection: Connection, job_id: int, owner: str, decision_id: int | None) -> bool:
    """Close a job with its decision; False if the job is no longer this owner's.

    Call it in the transaction that records the decision and roll back on False: a worker that
    lost its lease must not decide.
    """
    return _close(connection, _mine(job_id, owner), status="done", decision_id=decision_id)


def fail_job(
    connection: Connection,
    job_id: int,
    owner: str,
    error: str,
    *,
    retry: bool = True,
    retry_s: float = RETRY_S,
) -> bool:
    """Give a job back after a failure; failed for good after `max_attempts`, or without `retry`.

    Returns:
        False if the job is no longer this owner's.
    """
    if retry:
        again = (
            update(_t)
            .where(_mine(job_id, owner), _t.c.attempts < _t.c.max_attempts)
            .values(
                status="queued",
                lease_owner=None,
                lease_until=None,
                error=error,
                not_before=now_ms() + int(retry_s * 1000),
            )
        )
        if connection.execute(again).rowcount == 1:
            return True
    return _close(connection, _mine(job_id, owner), status="failed", error=error)


def release_job(connection: Connection, job_id: int, owner: str) -> bool:
    """Hand a job back as it was, as when a worker is told to stop: no attempt is counted.

    Returns:
        False if the job is no longer this owner's.
    """
    back = (
        update(_t)
        .where(_mine(job_id, owner))
        .values(
            status="queued",
            lease_owner=None,
            lease_until=None,
            attempts=_t.c.attempts - 1,
            not_before=0,
        )
    )
    return connection.execute(back).rowcount == 1


def cancel_job(connection: Connection, job_id: int) -> bool:
    """Take a job off the queue; False if it was not open. A running worker notices at its beat."""
    is_open = and_(_t.c.id == job_id, _t.c.open_key.is_not(None))
    return _close(connection, is_open, status="cancelled", error="cancelled")


def retry_job(connection: Connection, job_id: int) -> int | None:
    """Queue a failed or cancelled job again; return the id of the open job, None if it cannot."""
    found = job(connection, job_id)
    if found is None or found.status not in ("failed", "cancelled"):
        return None
    return enqueue_job(connection, found.request, found.max_attempts)[0]


def job(connection: Connection, job_id: int) -> Job | None:
    """Return one job."""
    row = connection.execute(select(_t).where(_t.c.id == job_id)).mappings().first()
    return None if row is None else _job(row)


def jobs(
    connection: Connection, limit: int = 100, *, only_open: bool = False, name: str | None = None
) -> tuple[Job, ...]:
    """Return jobs, newest first."""
    query = select(_t).order_by(_t.c.id.desc()).limit(limit)
    if only_open:
        query = query.where(_t.c.open_key.is_not(None))
    if name is not None:
        query = query.where(_t.c.name == name)
    return tuple(_job(row) for row in connection.execute(query).mappings())


def open_job(connection: Connection, row: VersionRow, policy_digest: str) -> Job | None:
    """Return the open scan of a row under a policy."""
    found = _by_key(connection, _open_key(JobRequest(row=row, policy_digest=policy_digest)))
    return None if found is None else job(connection, found)


def _open_key(request: JobRequest) -> str:
    parts = [request.kind, request.policy_digest, *(getattr(request.row, name) for name in _ROW)]
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def _by_key(connection: Connection, key: str) -> int | None:
    found = connection.execute(select(_t.c.id).where(_t.c.open_key == key)).scalar()
    return None if found is None else int(found)


def _mine(job_id: int, owner: str) -> ColumnElement[bool]:
    return and_(_t.c.id == job_id, _t.c.status == "running", _t.c.lease_owner == owner)


def _close(connection: Connection, where: ColumnElement[bool], **values: object) -> bool:
    closing = update(_t).where(where).values(open_key=None, finished_at=now_ms(), **values)
    return connection.execute(closing).rowcount == 1


def _job(row: RowMapping) -> Job:
    version = VersionRow(**{name: row[name] for name in _ROW})
    request = JobRequest(row=version, **{name: row[name] for name in _REQUEST})
    rest = [name for name in Job.__dataclass_fields__ if name != "request"]
    return Job(request=request, **{name: row[name] for name in rest})
