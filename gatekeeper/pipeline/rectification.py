"""Can this failed model be cleaned, and does the cleaned one pass its own scan?"""

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from gatekeeper.errors import RectifyError, UtilityLostError
from gatekeeper.evidence.bundle import Bundle
from gatekeeper.intake.write import write_like
from gatekeeper.pipeline.assess import Assessment, assess
from gatekeeper.pipeline.keep import write
from gatekeeper.rectify.base import Ailment, Prescription, Rectified
from gatekeeper.rectify.run import rectify as repair
from gatekeeper.runtime import Meter, Runtime
from gatekeeper.scan.base import ScanOutcome
from gatekeeper.types import Quality, ScanReport, Verdict

FRESH_SEED = 1_000_003  # added to the seed for a re-scan: other draws than the repair has seen
ROUNDS = 2  # repairs at most; the second knows what the first one's re-scan found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rectification:
    """A cleaned model, its re-scan, and whether it may be registered."""

    method: str
    out: Path  # report.json (with before/after), report.html, model/, rescan/
    model: Path  # the cleaned model, in the form the suspect came in
    rescan: Assessment
    bundle: Bundle
    rescan_bundle: Bundle
    before: Quality
    after: Quality
    images_used: int
    notes: tuple[str, ...]
    refused: str = ""  # why the repair itself is not good enough; empty where it is
    rounds: int = 1  # repairs made, each with a re-scan
    cpu_seconds: float = 0.0  # processor time of the repairs, without the re-scans

    @property
    def report(self) -> ScanReport:
        """The re-scan's report."""
        return self.rescan.report

    @property
    def passed(self) -> bool:
        """True where repair and re-scan are good: only then may the model be registered."""
        return not self.refused and self.rescan.verdict is Verdict.PASS

    @property
    def why_not(self) -> str:
        """Why the cleaned model may not be registered, for people; empty where it may."""
        reasons = [self.refused] if self.refused else []
        if self.rescan.verdict is not Verdict.PASS:
            first = self.report.reasons[0] if self.report.reasons else "no reason given"
            reasons.append(f"its own scan says {self.rescan.verdict.value}: {first}")
        return "; ".join(reasons)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Attempt:
    """One repair, written and scanned afresh."""

    repaired: Rectified
    error: RectifyError | None  # the limit that it missed
    model: Path
    rescan: Assessment
    number: int  # of the round, from 1
    cpu_seconds: float  # of all repairs so far

    @property
    def passed(self) -> bool:
        return self.error is None and self.rescan.verdict is Verdict.PASS


def prescription_of(outcome: ScanOutcome) -> Prescription:
    """Return what a scan says about repair: every trigger, and the first target without one."""
    ailments = [Ailment(target=t.target, trigger=t.trigger) for t in outcome.triggers]
    named = {t.target for t in outcome.triggers}
    ailments += [
        Ailment(target=t.label, trigger=None) for t in outcome.targets[:1] if t.label not in named
    ]
    return Prescription(
        ailments=tuple(ailments),
        affected=outcome.compact.affected,
        victims=outcome.compact.victims,
        probes=outcome.compact.probes,
    )


def rectify(
    assessment: Assessment,
    runtime: Runtime,
    out: Path,
    *,
    method: str = "auto",
) -> Rectification:
    """Make a cleaned model of a scanned one, scan it afresh, and write both into `out`.

    Where the re-scan names a trigger that still works, a second repair goes on from the first
    with that trigger too. `out` is written whole or not at all; the suspect is not touched.
    Whether the cleaned model may be registered is `Rectification.passed`; one that may not is
    written all the same, as evidence.

    Raises:
        RectifyError: Nothing could be made at all; says what was tried.
        EvidenceError: The result could not be written.
    """
    if assessment.case is None:
        raise RectifyError(
            f"{assessment.report.model.uri} could not be read without running its code",
            hint="export it again as safetensors, then scan that",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        last = _attempts(assessment, method, work, runtime)
        repaired = last.repaired
        rescan_bundle = write(last.rescan, work / "rescan")
        bundle = write(
            assessment,
            work / "evidence",
            before=repaired.before,
            after=repaired.after,
            rescan=last.rescan.report,
        )
        _publish(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Rectification(
        method=repaired.method,
        out=out,
        model=out / last.model.relative_to(work),
        rescan=last.rescan,
        bundle=replace(bundle, root=out),
        rescan_bundle=replace(rescan_bundle, root=out / "rescan"),
        before=repaired.before,
        after=repaired.after,
        images_used=repaired.images_used,
        notes=repaired.notes,
        refused=last.error.message if last.error else "",
        rounds=last.number,
        cpu_seconds=last.cpu_seconds,
    )


def _attempts(assessment: Assessment, method: str, work: Path, runtime: Runtime) -> _Attempt:
    """Repair until the re-scan passes, has nothing new to say, or the rounds are used up."""
    prescription = prescription_of(assessment.outcome)
    attempt = _attempt(assessment, prescription, method, work, runtime)
    while attempt.number < ROUNDS:
        more = prescription_of(attempt.rescan.outcome)
        lossy = isinstance(attempt.error, UtilityLostError)  # more of it loses more
        if attempt.passed or lossy or not more.ailments:
            break
        prescription = replace(
            prescription,
            ailments=prescription.ailments + more.ailments,
            affected=tuple(dict.fromkeys(prescription.affected + more.affected)),
            begun=attempt.repaired.state,
        )
        try:
            attempt = _attempt(assessment, prescription, method, work, runtime, attempt)
        except RectifyError:  # this round made nothing: what the last one made stays the evidence
            break
    return attempt


def _attempt(
    assessment: Assessment,
    prescription: Prescription,
    method: str,
    work: Path,
    runtime: Runtime,
    earlier: _Attempt | None = None,
) -> _Attempt:
    """Repair, write the model into `work`, in place of an earlier round's, and scan it."""
    if assessment.case is None:
        raise RectifyError("no model to repair", hint="report this as a defect")
    error: RectifyError | None = None
    clock = time.process_time()
    try:
        repaired = repair(assessment.case, prescription, method, runtime)
    except RectifyError as missed:
        if not isinstance(missed.rejected, Rectified):
            raise
        repaired, error = missed.rejected, missed
    seconds = time.process_time() - clock + (earlier.cpu_seconds if earlier else 0.0)
    number = earlier.number + 1 if earlier else 1
    shutil.rmtree(work / "model", ignore_errors=True)
    root = assessment.request.model
    cleaned = work / "model" if root.is_dir() else work / "model" / root.name
    cleaned.parent.mkdir(parents=True, exist_ok=True)
    write_like(assessment.opened, repaired.state, root, cleaned)
    rescan = _rescan(assessment, cleaned, number, runtime)
    return _Attempt(
        repaired=repaired,
        error=error,
        model=cleaned,
        rescan=rescan,
        number=number,
        cpu_seconds=seconds,
    )


def _rescan(assessment: Assessment, cleaned: Path, number: int, runtime: Runtime) -> Assessment:
    """Scan the cleaned model like any other, with other draws and a budget of its own."""
    request = replace(
        assessment.request, model=cleaned, uri=f"{assessment.request.uri} (rectified)"
    )
    seed = runtime.seed + number * FRESH_SEED
    fresh = replace(runtime, seed=seed, meter=Meter(limit=runtime.meter.limit))
    return assess(request, fresh)


def _publish(work: Path, out: Path) -> None:
    """Move the finished parts into `out`: evidence at the top, model/ and rescan/ below.

    Parts of an earlier run are replaced; whatever else lies in `out` is left alone.
    """
    for item in sorted((work / "evidence").iterdir()):
        item.rename(work / item.name)
    (work / "evidence").rmdir()
    out.mkdir(exist_ok=True)
    replaced = work / ".replaced"
    replaced.mkdir()
    for item in sorted(path for path in work.iterdir() if path != replaced):
        if (out / item.name).exists():
            (out / item.name).rename(replaced / item.name)
        item.rename(out / item.name)
    shutil.rmtree(work, ignore_errors=True)
