"""What the gated store asks before it acts, and what it writes down afterwards."""

import logging
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from gatekeeper.gate import db
from gatekeeper.gate.fingerprint import Listing
from gatekeeper.gate.promotion import Decision, Facts, Outcome, Wish, decide
from gatekeeper.gate.settings import Settings

logger = logging.getLogger(__name__)


class Refused(MlflowException):  # type: ignore[misc]  # MLflow is untyped here
    """A refusal at MLflow's border: HTTP 403, the message reaches client and UI unchanged."""

    def __init__(self, message: str, decision: Decision | None = None) -> None:
        super().__init__(message, error_code=PERMISSION_DENIED)
        self.decision = decision


class Guard:
    """Facts in, decision out, trail written. One per store."""

    def __init__(self, settings: Settings, registry_uri: str) -> None:
        self.settings = settings
        uri = db.database_uri(registry_uri)
        self.shared = uri == db.plain_uri(registry_uri)  # tables beside MLflow's own
        self.database = db.Database.open(uri, migrate=True)

    def judge(
        self, connection: Connection, row: db.VersionRow, wish: Wish, listing: Listing
    ) -> Decision:
        """Gather the facts in the caller's transaction and decide."""
        policy = self.settings.policy
        note = db.artifact_for(connection, row)
        found = under_other = cleaned = None
        if note is not None:
            db.lock_digest(connection, note.digest)
            found = db.latest_decision(connection, note.digest, policy.digest)
            under_other = found or db.latest_decision(connection, note.digest, None)
            cleaned = db.rectified_from(connection, note.digest, row.workspace)
        return decide(
            Facts(
                wish=wish,
                mode=self.settings.mode,
                unrecognised=policy.unrecognised,
                policy_name=policy.name,
                policy_digest=policy.digest,
                note=note,
                fingerprint=listing.fingerprint,
                fingerprint_problem=listing.problem,
                decision=found,
                other_policy=found is None and under_other is not None,
                now=db.now_ms(),
                cleaned=cleaned,
                drill=db.drill_mark(connection, row, note.digest if note else None),
            )
        )

    def write(self, connection: Connection, attempt: db.Attempt) -> None:
        """Append to the trail in the caller's transaction."""
        db.add_attempt(connection, attempt)

    def write_apart(self, attempt: db.Attempt, job: db.JobRequest | None = None) -> str:
        """Append to the trail, and queue a scan, in a transaction of their own.

        For refusals, whose own transaction is rolled back. Returns what to tell about the queue;
        never raises: a refusal stays a refusal when it cannot be written down.
        """
        try:
            with self.database.begin() as connection:
                db.add_attempt(connection, attempt)
                return "" if job is None else self.queue(connection, job)
        except SQLAlchemyError:
            logger.exception("attempt at %s could not be written down", attempt.name)
            return "It could not be written down or queued: the gate's database fails."

    def queue(self, connection: Connection, job: db.JobRequest) -> str:
        """Queue a scan and return a sentence about it."""
        number, is_new = db.enqueue_job(connection, job)
        return f"Scan job {number} is {'now' if is_new else 'already'} in the queue."

    def attempt(
        self,
        action: str,
        name: str,
        *,
        workspace: str,
        reason: str,
        decision: str,
        label: str | None = None,
        version: int | None = None,
        answer: Decision | None = None,
    ) -> db.Attempt:
        """Return a row of the trail about this request."""
        return db.Attempt(
            at=db.now_ms(),
            who=requester(),
            action=action,
            workspace=workspace,
            name=name,
            alias_or_stage=label,
            version=version,
            digest=answer.digest if answer else None,
            decision=decision,
            reason=reason,
            decision_id=answer.decision_id if answer else None,
            run_id=answer.run_id if answer else None,
        )

    def job(self, row: db.VersionRow, wish: Wish, listing: Listing) -> db.JobRequest:
        """Return the scan that would answer `wish`."""
        return db.JobRequest(
            row=row,
            policy_digest=self.settings.policy.digest,
            requested_by=requester(),
            want_alias=wish.label if wish.action == "alias" else None,
            want_stage=wish.label if wish.action == "stage" else None,
            want_name=wish.label if wish.action == "copy" else None,
            fingerprint=listing.fingerprint,
        )


def message(decision: Decision, wish: Wish, queued: str, link: str) -> str:
    """Return a refusal for people: MLflow's dialogs show it verbatim."""
    verb = "refuses" if decision.outcome is Outcome.REFUSE else "holds"
    parts = [f"gatekeeper {verb} {wish.phrase}: {decision.reason}.", queued]
    if link:
        parts.append(f"Evidence: {link}")
    if decision.next_step:
        parts.append(f"Next: {decision.next_step}")
    return "\n".join(part for part in parts if part)


def run_link(connection: Connection, run_id: str | None) -> str:
    """Return the address of the evidence run in this server's UI, "" where there is no run."""
    if not run_id:
        return ""
    try:
        with connection.begin_nested():
            found = connection.execute(
                text("SELECT experiment_id FROM runs WHERE run_uuid = :run"), {"run": run_id}
            ).scalar()
    except SQLAlchemyError:  # tracking may live in another database
        found = None
    if found is None:
        return f"run {run_id}"
    return f"{_address()}/#/experiments/{found}/runs/{run_id}/artifacts/report.html"


def requester() -> str | None:
    """Return who asks, where the server knows."""
    request = _request()
    authorization = None if request is None else request.authorization
    return None if authorization is None else authorization.username


def _address() -> str:
    request = _request()
    if request is None:
        return ""
    return f"{request.host_url.rstrip('/')}{request.script_root}"


def _request() -> Any:
    from flask import has_request_context, request

    return request if has_request_context() else None
