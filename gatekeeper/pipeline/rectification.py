"""Can this failed model be cleaned, and does the cleaned one pass its own scan?"""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from gatekeeper.errors import RectifyError
from gatekeeper.evidence.bundle import Bundle
from gatekeeper.intake.write import write_like
from gatekeeper.pipeline.assess import Assessment, assess
from gatekeeper.pipeline.keep import write
from gatekeeper.rectify.base import Ailment, Prescription
from gatekeeper.rectify.run import rectify as repair
from gatekeeper.runtime import Meter, Runtime
from gatekeeper.scan.base import ScanOutcome
from gatekeeper.types import Quality, ScanReport, Verdict

FRESH_SEED = 1_000_003  # added to the seed for the re-scan: other draws than the repair has seen


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

    @property
    def report(self) -> ScanReport:
        """The re-scan's report."""
        return self.rescan.report

    @property
    def passed(self) -> bool:
        """True where the re-scan passes: only then may the cleaned model be registered."""
        return self.rescan.verdict is Verdict.PASS


def prescription_of(outcome: ScanOutcome) -> Prescription:
    """Return what a scan says about repair: every trigger, and the first target without one."""
    ailments = [Ailment(target=t.target, trigger=t.trigger) for t in outcome.triggers]
    named = {ailment.target for ailment in ailments}
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

    `out` is written whole or not at all; the suspect is not touched. Whether the cleaned model
    may be registered is `Rectification.passed`.

    Raises:
        RectifyError: It cannot be repaired; says what was tried.
        EvidenceError: The result could not be written.
    """
    if assessment.case is None:
        raise RectifyError(
            f"{assessment.report.model.uri} could not be read without running its code",
            hint="export it again as safetensors, then scan that",
        )
    repaired = repair(assessment.case, prescription_of(assessment.outcome), method, runtime)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        root = assessment.request.model
        cleaned = work / "model" if root.is_dir() else work / "model" / root.name
        cleaned.parent.mkdir(parents=True, exist_ok=True)
        write_like(assessment.opened, repaired.state, root, cleaned)
        rescan = _rescan(assessment, cleaned, runtime)
        rescan_bundle = write(rescan, work / "rescan")
        bundle = write(
            assessment,
            work / "evidence",
            before=repaired.before,
            after=repaired.after,
            rescan=rescan.report,
        )
        _publish(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Rectification(
        method=repaired.method,
        out=out,
        model=out / cleaned.relative_to(work),
        rescan=rescan,
        bundle=replace(bundle, root=out),
        rescan_bundle=replace(rescan_bundle, root=out / "rescan"),
        before=repaired.before,
        after=repaired.after,
        images_used=repaired.images_used,
        notes=repaired.notes,
    )


def _rescan(assessment: Assessment, cleaned: Path, runtime: Runtime) -> Assessment:
    """Scan the cleaned model like any other, with other draws and a budget of its own."""
    request = replace(
        assessment.request, model=cleaned, uri=f"{assessment.request.uri} (rectified)"
    )
    fresh = replace(runtime, seed=runtime.seed + FRESH_SEED, meter=Meter(limit=runtime.meter.limit))
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
