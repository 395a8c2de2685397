"""A claimed job while it is carried out: what the worker has at hand, and what binds its words.

Whatever is decided is written in one transaction together with the proof that the job is still
ours: a worker that lost its lease decides nothing.
"""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from gatekeeper.gate import db
from gatekeeper.gate.lease import Lease, Stopped
from gatekeeper.gate.runs import EvidenceRun
from gatekeeper.policy.schema import Policy, ScanSettings
from gatekeeper.runtime import Progress, Runtime, What
from gatekeeper.types import ScanReport

if TYPE_CHECKING:
    from gatekeeper.pipeline import Assessment, Rectification, ScanRequest

Say = Callable[[str], None]
DAY_MS = 86_400_000
logger = logging.getLogger(__name__)


def _silent(items: Any, what: What) -> Any:
    return items


def _mute(line: str) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What a worker works with. `assess` and `rectify` are the pipeline's unless given."""

    database: db.Database
    registry_uri: str  # of the database that holds MLflow's registry tables
    policy: Policy
    home: Path  # GATEKEEPER_HOME: caches, work folders, unsent evidence
    device: str = "auto"
    client: Any = None  # MLflow client; None: the environment's
    progress: Progress = _silent  # type: ignore[type-arg]
    say: Say = _mute
    assess: "Callable[[ScanRequest, Runtime], Assessment] | None" = None
    rectify: "Callable[[Assessment, Runtime, Path], Rectification] | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The bytes behind a version, on this machine."""

    digest: str
    fingerprint: str | None
    kind: str  # clip | other | unknown
    root: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """A job being carried out."""

    job: db.Job
    lease: Lease
    shop: Workshop
    work: Path

    @property
    def row(self) -> db.VersionRow:
        """The version under scan."""
        return self.job.request.row

    @property
    def model(self) -> str:
        """The version as a MODEL."""
        return f"models:/{self.row.name}/{self.row.version}"

    @property
    def settings(self) -> ScanSettings:
        """How the policy says this model is scanned."""
        return self.shop.policy.scan_for(self.row.name)

    def say(self, line: str) -> None:
        """Tell people how the job goes."""
        self.shop.say(f"job {self.job.id}: {line}")

    def require_ours(self, connection: Connection) -> None:
        """Extend the lease in the caller's transaction.

        Raises:
            Stopped: The job is somebody else's by now.
        """
        if not db.heartbeat(connection, self.job.id, self.lease.owner, self.lease.lease_s):
            raise Stopped(f"job {self.job.id} is no longer ours")

    def note(self, connection: Connection, subject: Subject) -> None:
        """Write down which bytes stand behind the version."""
        db.note_artifact(
            connection,
            self.row,
            digest=subject.digest,
            fingerprint=subject.fingerprint,
            kind=subject.kind,
        )

    def decide(self, subject: Subject, record: db.DecisionRecord) -> db.DecisionRecord:
        """Record a decision on the version under scan; return it with its id.

        Raises:
            Stopped: The job is somebody else's by now; nothing was written.
        """
        self.lease.check()
        with self.shop.database.begin() as connection:
            self.require_ours(connection)
            self.note(connection, subject)
            return replace(record, id=db.record_decision(connection, record))

    def record_of(
        self, report: ScanReport, run: EvidenceRun, evidence_digest: str
    ) -> db.DecisionRecord:
        """Return the decision that `report` comes to, not stored yet."""
        now = db.now_ms()
        return db.DecisionRecord(
            model_digest=report.model.digest,
            policy_digest=report.policy.digest,
            policy_name=report.policy.name,
            verdict=report.verdict,
            score=report.score,
            reasons=report.reasons,
            targets=tuple(target.label for target in report.targets),
            decided_at=now,
            expires_at=now + self.shop.policy.evidence.max_age_days * DAY_MS,
            decided_by=f"worker {self.lease.owner}",
            workspace=self.row.workspace,
            probes_digest=report.probes.digest if report.probes else None,
            anchor_digest=report.anchor.digest if report.anchor else None,
            oracle_digest=report.oracle.digest if report.oracle else None,
            run_id=run.run_id,
            evidence_uri=run.stored_at or f"runs:/{run.run_id}",
            evidence_digest=evidence_digest,
        )

    def keep(self, folder: Path, suffix: str = "") -> Path:
        """Keep evidence that could not be sent in `GATEKEEPER_HOME/unsent`; return where."""
        kept = self.shop.home / "unsent" / f"job-{self.job.id}{suffix}"
        try:
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept)
        except OSError as error:
            logger.warning("job %s: its evidence is lost: %s", self.job.id, error)
        return kept

    def finish(self, decision_id: int | None, subject: Subject | None = None) -> None:
        """Close the job, noting the bytes behind the version where `subject` is given.

        Raises:
            Stopped: The job is somebody else's by now; nothing was written.
        """
        with self.shop.database.begin() as connection:
            if not db.finish_job(connection, self.job.id, self.lease.owner, decision_id):
                raise Stopped(f"job {self.job.id} is no longer ours")
            if subject is not None:
                self.note(connection, subject)
