"""How far is the scan that a promotion waits for, and what did it say? For clients that ask.

Two sources with one answer: the gate's tables, where this process may read them, and the endpoint
`/gatekeeper/api/state` of a server that may.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlparse

from sqlalchemy.exc import SQLAlchemyError

from gatekeeper.errors import GatekeeperError, ServiceError
from gatekeeper.gate import db

API_PATH = "/gatekeeper/api/state"
OPEN = ("queued", "running")
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanState:
    """What is known of one version under the gate's policy."""

    job_id: int | None = None
    job_status: str | None = None  # queued | running | done | failed | cancelled
    job_error: str | None = None
    verdict: str | None = None  # of the current decision; None: there is none
    score: float | None = None
    reasons: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    run_id: str | None = None
    cleaned: str | None = None  # models:/NAME/VERSION

    @property
    def working(self) -> bool:
        """Whether a scan or a repair is still to come."""
        return self.job_status in OPEN


class StateSource(Protocol):
    """Where a client learns how far a scan is."""

    def state(self, name: str, version: int) -> ScanState:
        """Return what is known of a version.

        Raises:
            ServiceError: The source does not answer.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The gate's own tables."""

    database: db.Database
    registry_uri: str
    policy_digest: str

    def state(self, name: str, version: int) -> ScanState:
        """Return what the tables say of a version."""
        try:
            row = db.version_row(self.registry_uri, name, version)
            return ScanState() if row is None else state_of(self.database, row, self.policy_digest)
        except SQLAlchemyError as error:
            raise ServiceError(
                "the gate's tables do not answer", hint="check GATEKEEPER_DATABASE_URI"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A gated server's own answer."""

    base: str  # MLFLOW_TRACKING_URI

    def state(self, name: str, version: int) -> ScanState:
        """Return what the server says of a version."""
        return from_json(self._ask(f"name={quote(name, safe='')}&version={version}"))

    def fingerprint(self, name: str, version: int) -> str | None:
        """Return the fingerprint that the server lists for a version now, None if it cannot."""
        found = self._ask(f"name={quote(name, safe='')}&version={version}&list=1")
        listed = found.get("fingerprint")
        return None if listed is None else str(listed)

    def _ask(self, query: str) -> dict[str, Any]:
        import requests
        from mlflow.exceptions import MlflowException
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        address = f"{API_PATH}?{query}"
        try:
            answer = http_request(
                get_default_host_creds(self.base), address, "GET", timeout=_TIMEOUT_S, max_retries=1
            )
            found = answer.json() if answer.status_code == 200 else None
        except (requests.RequestException, MlflowException, ValueError, OSError) as error:
            raise _silent(self.base) from error
        if not isinstance(found, dict):
            raise ServiceError(
                f"the server has no {API_PATH} (HTTP {answer.status_code})",
                hint="start it with `gatekeeper server`, or set GATEKEEPER_DATABASE_URI",
            )
        return found


def listed_by_server(name: str, version: int) -> str | None:
    """Return the server's own fingerprint of a version, None where it is not to be had.

    For workers behind the proxy, who see no times of writing. Ask before the bytes are read.
    """
    base = os.environ.get("MLFLOW_TRACKING_URI", "")
    if urlparse(base).scheme not in {"http", "https"}:
        return None
    try:
        return Endpoint(base=base).fingerprint(name, version)
    except ServiceError:
        return None


def state_of(database: db.Database, row: db.VersionRow, policy_digest: str) -> ScanState:
    """Return what the gate's tables say of `row` under a policy."""
    with database.reading() as connection:
        job = db.open_job(connection, row, policy_digest) or _latest(
            db.jobs(connection, 50, name=row.name), row, policy_digest
        )
        note = db.artifact_for(connection, row)
        found = cleaned = None
        if note is not None:
            found = db.latest_decision(connection, note.digest, policy_digest)
            cleaned = db.rectified_from(connection, note.digest, row.workspace)
    return ScanState(
        job_id=job.id if job else None,
        job_status=job.status if job else None,
        job_error=job.error if job else None,
        verdict=str(found.verdict) if found else None,
        score=found.score if found else None,
        reasons=found.reasons if found else (),
        targets=found.targets if found else (),
        run_id=found.run_id if found else None,
        cleaned=f"models:/{cleaned[0]}/{cleaned[1]}" if cleaned else None,
    )


def to_json(state: ScanState) -> dict[str, Any]:
    """Return `state` as the endpoint sends it."""
    return asdict(state)


def from_json(document: dict[str, Any]) -> ScanState:
    """Return the state in an endpoint's answer; unknown keys are from a newer server."""
    known = {key: value for key, value in document.items() if key in ScanState.__slots__}
    for key in ("reasons", "targets"):
        known[key] = tuple(str(item) for item in known.get(key) or ())
    return ScanState(**known)


def find_source(policy_digest: str | None, base: str | None = None) -> StateSource | None:
    """Return the best source at hand, None where there is none.

    Args:
        policy_digest: Of the gate's policy, needed to read the tables.
        base: The server; by default `MLFLOW_TRACKING_URI`.
    """
    base = base or os.environ.get("MLFLOW_TRACKING_URI", "")
    if urlparse(base).scheme in {"http", "https"}:
        endpoint = Endpoint(base=base)
        try:
            endpoint.state("", 0)
            return endpoint
        except ServiceError:
            pass  # an MLflow server without our app; its database may be within reach
    try:
        uri = db.database_uri()
        database = db.Database.open(uri)
    except GatekeeperError:
        return None
    registry = os.environ.get("MLFLOW_REGISTRY_STORE_URI") or uri
    if policy_digest is None:
        return None
    return Tables(database=database, registry_uri=registry, policy_digest=policy_digest)


def _latest(jobs: tuple[db.Job, ...], row: db.VersionRow, policy_digest: str) -> db.Job | None:
    for job in jobs:  # newest first
        if job.request.row == row and job.request.policy_digest == policy_digest:
            return job
    return None


def _silent(base: str) -> ServiceError:
    host = urlparse(base).netloc.rpartition("@")[2]
    return ServiceError(f"the server at {host} does not answer", hint="check MLFLOW_TRACKING_URI")
