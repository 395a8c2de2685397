"""After a failing scan: make a cleaned version, scan it, register it if it passes.

The original is never touched. A cleaned model that fails its own scan is kept as evidence and is
not registered. The cleaned version gets a decision of its own, bound to its own bytes and row.
"""

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gatekeeper.errors import EvidenceError, GateError, RectifyError, ServiceError
from gatekeeper.gate import db
from gatekeeper.gate.artifacts import take
from gatekeeper.gate.client import first_line
from gatekeeper.gate.evidence_store import store_evidence
from gatekeeper.gate.fingerprint import artifacts_destination
from gatekeeper.gate.job_run import JobRun, Subject
from gatekeeper.gate.moves import Names, move
from gatekeeper.gate.register import Registered, register_tree
from gatekeeper.gate.runs import EvidenceRun
from gatekeeper.gate.state import listed_by_server
from gatekeeper.gate.tracking import evidence_key, log_rectification, rectification_files
from gatekeeper.gate.version_display import show
from gatekeeper.runtime import Runtime

if TYPE_CHECKING:
    from gatekeeper.pipeline import Assessment, Rectification

STALE_S = 7 * 86_400  # after which a job's finished stages are waste


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What became of a repair."""

    version: Registered | None  # None: nothing was registered
    note: str  # for people; why there is none, or where the name went
    promoted: bool = False


def mend(run: JobRun, assessment: "Assessment", runtime: Runtime) -> Cleaned:
    """Repair the model just scanned, as far as the policy allows.

    Raises:
        Stopped: The job is somebody else's by now.
        EvidenceError, ServiceError: The repair could not be kept; the job is to be tried again.
    """
    run.say(f"rectifying {run.model}")
    try:
        result = _rectified(run, assessment, runtime)
    except RectifyError as error:
        run.say(f"not rectified: {error.message}")
        return Cleaned(version=None, note=f"It could not be repaired: {error.message}")
    run.lease.check()
    wanted = run.shop.policy.on_fail.rectify.register and result.passed
    evidence = _keep_evidence(run, result, with_model=not wanted)
    if not result.passed:
        run.say(f"not good enough: {result.why_not}")
        note = (
            f"A repair was tried and is not good enough (run {evidence.run_id}): {result.why_not}"
        )
        return Cleaned(version=None, note=note)
    if not wanted:
        return Cleaned(version=None, note=f"A cleaned model is kept in run {evidence.run_id}.")
    try:
        return _register(run, assessment, result, evidence)
    except GateError as error:  # e.g. a protected model that takes approved copies alone
        return Cleaned(version=None, note=f"The cleaned model was not registered: {error.message}")


def _rectified(run: JobRun, assessment: "Assessment", runtime: Runtime) -> "Rectification":
    from gatekeeper.pipeline import rectify

    out = run.work / "rectified"
    if run.shop.rectify is not None:
        return run.shop.rectify(assessment, runtime, out)
    repairs = run.shop.home / "repairs"
    _sweep(repairs)
    # outlives this process: a worker that takes the job over goes on from its finished stages
    return rectify(assessment, runtime, out, work=repairs / f"job-{run.job.id}")


def _sweep(repairs: Path) -> None:
    """Remove what jobs that nobody took up again have left in `repairs`."""
    for folder in repairs.glob("job-*"):
        with contextlib.suppress(OSError):  # another worker was faster
            if time.time() - folder.stat().st_mtime > STALE_S:
                shutil.rmtree(folder, ignore_errors=True)


def _keep_evidence(run: JobRun, result: "Rectification", *, with_model: bool) -> EvidenceRun:
    files = rectification_files(result, with_model=with_model)
    key = f"{evidence_key(result.report)}-job{run.job.id}-rectified"
    tags = {"gatekeeper.job": str(run.job.id)}
    client = run.shop.client
    try:
        stored = store_evidence(files, key)
        logged = log_rectification(result, files, model=run.model, client=client, tags=tags)
    except EvidenceError as error:
        kept = run.keep(result.out, "-rectified")
        raise EvidenceError(
            f"{error.message}; nothing was registered, the repair is in {kept}", hint=error.hint
        ) from error
    return EvidenceRun(run_id=logged.run_id, experiment_id=logged.experiment_id, stored_at=stored)


def _register(
    run: JobRun, assessment: "Assessment", result: "Rectification", evidence: EvidenceRun
) -> Cleaned:
    version = register_tree(
        result.model,
        name=run.row.name,
        digest=result.report.model.digest,
        description=f"Cleaned by gatekeeper ({result.method}) from version {run.row.version}.",
        run_id=evidence.run_id,
        client=run.shop.client,
    )
    row = db.version_row(run.shop.registry_uri, version.name, version.version, run.row.workspace)
    if row is None:
        raise ServiceError(
            f"{version.uri} was registered and is not in the registry's database",
            hint="is GATEKEEPER_DATABASE_URI the database of the server at MLFLOW_TRACKING_URI?",
        )
    subject = _read_back(run, row, result.report.model.digest)
    record = run.record_of(result.report, evidence, result.rescan_bundle.digest)
    with run.shop.database.begin() as connection:
        run.require_ours(connection)
        decision_id = db.record_decision(connection, record)
        db.note_artifact(
            connection,
            row,
            digest=subject.digest,
            fingerprint=subject.fingerprint,
            kind=subject.kind,
        )
        db.note_rectified(
            connection,
            row,
            digest=subject.digest,
            from_digest=assessment.report.model.digest,
            decision_id=decision_id,
        )
    run.say(f"registered the cleaned model as {version.uri}")
    moved = _promote(run, version)
    show(run, row, record, evidence.path, rectified_from=run.model, note=moved)
    note = moved or "The name moves to it only when someone accepts it."
    return Cleaned(version=version, note=note, promoted=bool(moved))


def _read_back(run: JobRun, row: db.VersionRow, digest: str) -> Subject:
    from gatekeeper.intake.digest import tree_digest

    folder: Path = run.work / "registered"
    listed = listed_by_server(row.name, row.version)  # before the bytes are read
    taken = take(
        row.storage_location, folder, client=run.shop.client, destination=artifacts_destination()
    )
    stored, _ = tree_digest(taken.root)
    if stored != digest:
        raise EvidenceError(
            f"version {row.version} of {row.name} holds {stored}, {digest} was scanned",
            hint="check the artifact store; the version has no decision and cannot be promoted",
        )
    return Subject(
        digest=digest, fingerprint=taken.fingerprint or listed, kind="clip", root=taken.root
    )


def _promote(run: JobRun, version: Registered) -> str:
    """Move the name that the job was about, where somebody accepted that beforehand."""
    wish = run.job.request
    with run.shop.database.reading() as connection:
        latest = db.job(connection, run.job.id)
    accepted = wish.accept_rectified or (latest is not None and latest.request.accept_rectified)
    if not accepted and not run.shop.policy.on_fail.rectify.promote:
        return ""
    names = Names(alias=wish.want_alias, stage=wish.want_stage, copy_to=wish.want_name)
    if not names:
        return ""
    try:
        move(version.uri, names, client=run.shop.client)
    except (GateError, ServiceError) as error:
        run.say(f"{version.uri} was not promoted: {first_line(error)}")
        return ""
    run.say(f"{names} now points at {version.uri}, the cleaned version")
    return f"{names} was given to this cleaned version instead of {run.model}."
