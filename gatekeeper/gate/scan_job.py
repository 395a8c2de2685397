"""One job from the queue: fetch, scan, keep the evidence, decide, repair, display. In this order.

Evidence comes before the decision, the decision before its display.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gatekeeper.errors import (
    EvidenceError,
    GatekeeperError,
    PolicyError,
    ServiceError,
    UnsupportedModelError,
)
from gatekeeper.gate import db
from gatekeeper.gate.artifacts import fetch, take
from gatekeeper.gate.client import asking, connect
from gatekeeper.gate.evidence_store import bundle_files, store_evidence
from gatekeeper.gate.fingerprint import artifacts_destination
from gatekeeper.gate.job_run import JobRun, Subject, Workshop
from gatekeeper.gate.lease import Lease
from gatekeeper.gate.repair_job import Cleaned, mend
from gatekeeper.gate.runs import EvidenceRun
from gatekeeper.gate.tracking import evidence_key, log_scan
from gatekeeper.gate.version_display import show
from gatekeeper.runtime import Runtime
from gatekeeper.types import Verdict

if TYPE_CHECKING:
    from gatekeeper.evidence.bundle import Bundle
    from gatekeeper.pipeline import Assessment, ScanRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What a job came to."""

    decision: db.DecisionRecord | None  # None: the model is no CLIP, so there is nothing to decide
    run: EvidenceRun | None = None
    cleaned: Cleaned | None = None
    reused: bool = False


def carry_out(job: db.Job, lease: Lease, shop: Workshop) -> Conclusion:
    """Do one claimed job to its end.

    Raises:
        Stopped: The job is no longer ours, or the worker was told to stop; nothing was decided.
        GatekeeperError: It could not be done; nothing was decided.
    """
    lease.check()
    _require_same_policy(job, shop)
    with _work_folder(job, shop) as work:
        run = JobRun(job=job, lease=lease, shop=shop, work=work)
        subject = _collect(run)
        lease.check()
        if subject.kind == "other":
            run.finish(None, subject)
            run.say(f"{run.model} holds no CLIP")
            return Conclusion(decision=None)
        request = _request(run, subject)
        standing = _standing(run, subject, request)
        if standing is None:
            return _scan(run, subject, request)
        run.finish(standing.id, subject)
        run.say(f"{run.model}: {standing.verdict}, decided before on the same bytes")
        show(run, run.row, standing, _run_path(run, standing.run_id))
        return Conclusion(decision=standing, reused=True)


def _require_same_policy(job: db.Job, shop: Workshop) -> None:
    if job.request.policy_digest != shop.policy.digest:
        raise PolicyError(
            f"job {job.id} asks for policy {job.request.policy_digest[:19]}, "
            f"this worker has '{shop.policy.name}' {shop.policy.digest[:19]}",
            hint="give server and workers the same GATEKEEPER_POLICY, then promote again",
        )


@contextmanager
def _work_folder(job: db.Job, shop: Workshop) -> Iterator[Path]:
    parent = shop.home / "jobs"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f"job-{job.id}-", dir=parent))
    except OSError as error:
        raise ServiceError(
            f"no work folder in {parent}: {error}", hint="free space or set GATEKEEPER_HOME"
        ) from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _collect(run: JobRun) -> Subject:
    from gatekeeper.intake.digest import tree_digest
    from gatekeeper.intake.recognise import Kind, recognise_folder

    run.say(f"fetching {run.model}")
    taken = take(
        run.row.storage_location,
        run.work / "model",
        client=run.shop.client,
        destination=artifacts_destination(),
    )
    digest, _ = tree_digest(taken.root)
    # A worker behind the proxy sees no times of writing; the server listed them for us before.
    fingerprint = taken.fingerprint or run.job.request.fingerprint
    # What nobody can tell is scanned: only what says of itself that it is no CLIP is not.
    kind = "other" if recognise_folder(taken.root).kind is Kind.OTHER else "clip"
    return Subject(root=taken.root, digest=digest, fingerprint=fingerprint, kind=kind)


def _request(run: JobRun, subject: Subject) -> "ScanRequest":
    from gatekeeper.pipeline import ScanRequest

    wanted = run.settings
    anchor = None
    if wanted.anchor:
        anchor = fetch(wanted.anchor, run.work / "anchor", client=run.shop.client)
    return ScanRequest(
        model=subject.root,
        uri=run.model,
        policy=run.shop.policy,
        anchor=anchor,
        anchor_uri=wanted.anchor or "",
        probes=Path(wanted.probes) if wanted.probes else None,
        labels=Path(wanted.labels) if wanted.labels else None,
        oracle=wanted.oracle or os.environ.get("GATEKEEPER_ORACLE") or "regions",
        arch=wanted.arch,
        detectors=tuple(wanted.detectors or ()),
        cache=run.shop.home / "oracle",
    )


def _standing(run: JobRun, subject: Subject, request: "ScanRequest") -> db.DecisionRecord | None:
    """Return a decision that a new scan would only repeat; from the database, never from tags."""
    with run.shop.database.reading() as connection:
        found = db.latest_decision(connection, subject.digest, run.shop.policy.digest)
        cleaned = db.rectified_from(connection, subject.digest, run.row.workspace)
    if found is None or (found.expires_at is not None and found.expires_at <= db.now_ms()):
        return None
    terms = run.shop.policy.on_fail.rectify
    if found.verdict is Verdict.FAIL and terms.when == "fail" and terms.register and not cleaned:
        return None  # the repair is still to be done, and it needs the scan
    same = found.probes_digest == _probes_digest(request)
    return found if same and found.anchor_digest == _anchor_digest(request) else None


def _run_path(run: JobRun, run_id: str | None) -> str | None:
    if run_id is None:
        return None
    try:
        client = run.shop.client or connect()
        with asking("find the evidence run"):
            experiment = client.get_run(run_id).info.experiment_id
    except GatekeeperError:  # a link less on a page
        return None
    return EvidenceRun(run_id=run_id, experiment_id=experiment).path


def _probes_digest(request: "ScanRequest") -> str:
    from gatekeeper.probes.embedded import embedded_probes
    from gatekeeper.probes.load import load_probes

    return (load_probes(request.probes) if request.probes else embedded_probes()).digest


def _anchor_digest(request: "ScanRequest") -> str | None:
    from gatekeeper.intake.digest import tree_digest

    return tree_digest(request.anchor)[0] if request.anchor else None


def _scan(run: JobRun, subject: Subject, request: "ScanRequest") -> Conclusion:
    shop, settings = run.shop, run.settings
    run.say(f"scanning {run.model}")
    runtime = Runtime.on(
        shop.device, settings.seed or 0, run.lease.watched(shop.progress), settings.budget
    )
    assessment, evidence, record = _verdict(run, subject, request, runtime)
    run.say(f"{run.model}: {record.verdict} ({evidence.url})")
    repaired = Cleaned(version=None, note="")
    if record.verdict is Verdict.FAIL and shop.policy.on_fail.rectify.when == "fail":
        show(run, run.row, record, evidence.path, note="A repair is being tried.")
        repaired = mend(run, assessment, runtime)
    run.finish(record.id)
    cleaned = repaired.version.uri if repaired.version else None
    show(run, run.row, record, evidence.path, cleaned=cleaned, note=repaired.note)
    return Conclusion(decision=record, run=evidence, cleaned=repaired)


def _verdict(
    run: JobRun, subject: Subject, request: "ScanRequest", runtime: Runtime
) -> "tuple[Assessment, EvidenceRun, db.DecisionRecord]":
    from gatekeeper.pipeline import assess, write

    try:
        assessment = (run.shop.assess or assess)(request, runtime)
    except UnsupportedModelError:
        with run.shop.database.begin() as connection:
            run.require_ours(connection)
            run.note(connection, replace(subject, kind="unknown"))
        raise
    if assessment.report.model.digest != subject.digest:
        raise ServiceError(
            f"{run.model}: the scan read {assessment.report.model.digest}, "
            f"{subject.digest} was fetched",
            hint="something writes into GATEKEEPER_HOME/jobs: give the worker a home of its own",
        )
    run.lease.check()
    bundle = write(assessment, run.work / "report")
    evidence = _keep_evidence(run, assessment, bundle)
    record = run.record_of(assessment.report, evidence, bundle.digest)
    return assessment, evidence, run.decide(subject, record)


def _keep_evidence(run: JobRun, assessment: "Assessment", bundle: "Bundle") -> EvidenceRun:
    files = bundle_files(bundle)
    key = f"{evidence_key(assessment.report)}-job{run.job.id}"
    try:
        stored = store_evidence(files, key)
        tags = {"gatekeeper.job": str(run.job.id)}
        if stored:
            tags["gatekeeper.evidence"] = stored
        logged = log_scan(assessment, files, model=run.model, client=run.shop.client, tags=tags)
    except EvidenceError as error:
        kept = run.keep(bundle.root)
        raise EvidenceError(
            f"{error.message}; nothing was decided, the report is in {kept}", hint=error.hint
        ) from error
    return EvidenceRun(run_id=logged.run_id, experiment_id=logged.experiment_id, stored_at=stored)
