"""Can this failed model be cleaned, and does the cleaned one pass its own scan and the proof?"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from gatekeeper.errors import RectifyError
from gatekeeper.evidence.bundle import MANIFEST, Bundle, read_bundle
from gatekeeper.pipeline.assess import Assessment
from gatekeeper.pipeline.checkpoint import opened_work, work_key
from gatekeeper.pipeline.keep import write
from gatekeeper.pipeline.rounds import prescription_of, rounds
from gatekeeper.rectify.limits import Limits
from gatekeeper.runtime import Runtime
from gatekeeper.types import Proof, Quality, ScanReport, Verdict


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rectification:
    """A cleaned model, its re-scan, and whether it may be registered."""

    method: str
    out: Path  # report.json (with before/after), report.html, model/, rescan/
    model: Path  # the cleaned model, in the form the suspect came in
    prompts: Path | None = None  # learned ones that were repaired
    rescan: Assessment
    bundle: Bundle
    rescan_bundle: Bundle
    before: Quality
    after: Quality
    proof: Proof
    images_used: int
    notes: tuple[str, ...]
    refused: str = ""  # why the repair itself is not good enough; empty where it is
    rounds: int = 1  # repairs made, each with a re-scan and a proof
    cpu_seconds: float = 0.0  # processor time of repairs and proofs, without the re-scans

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


def rectify(
    assessment: Assessment,
    runtime: Runtime,
    out: Path,
    *,
    method: str = "auto",
    work: Path | None = None,
) -> Rectification:
    """Make a cleaned version of a scanned model, scan and prove it, and write all into `out`.

    Where re-scan or proof name a trigger that still works, or a fine-tuning brings one back, a
    second repair goes on from there. The suspect is not touched. Whether the cleaned model may be
    registered is `Rectification.passed`; one that may not is written all the same, as evidence.

    A call that was killed goes on, with the same arguments, from the stages it had finished.
    `out` appears whole, and only at the end.

    Args:
        assessment: The scan, with the live objects.
        runtime: Seed, device and progress.
        out: Folder for model and evidence; parts of an earlier run are replaced.
        method: `auto` or a plug-in's name.
        work: Folder for finished stages, gone at the end; a hidden one beside `out` where None.

    Raises:
        RectifyError: Nothing could be made at all; says what was tried.
        EvidenceError: The result could not be written.
        ServiceError: Another process is at work on the same.
    """
    if assessment.case is None:
        raise RectifyError(
            f"{assessment.report.model.uri} could not be read without running its code",
            hint="export it again as safetensors, then scan that",
        )
    prescription = prescription_of(assessment.outcome)
    key = work_key(assessment, prescription, method, runtime, Limits())
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f".{out.name}.part")
    with opened_work(work or out.with_name(f".{out.name}.work"), key) as kept:
        shutil.rmtree(staged, ignore_errors=True)  # of a run that was killed
        try:
            last = rounds(assessment, method, kept, staged, runtime)
            shutil.copytree(last.evidence, staged / "rescan")
            write(
                assessment,
                staged / "evidence",
                before=last.repaired.before,
                after=last.after,
                rescan=last.rescan.report,
                proof=last.proved.record,
                replies=last.proved.replies,
                refused=last.refused,
            )
            _publish(staged, out)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return Rectification(
        method=last.repaired.method,
        out=out,
        model=out / last.model.relative_to(staged),
        prompts=last.prompts and out / last.prompts.relative_to(staged),
        rescan=last.rescan,
        bundle=read_bundle(out),
        rescan_bundle=read_bundle(out / "rescan"),
        before=last.repaired.before,
        after=last.after,
        images_used=last.repaired.images_used,
        notes=last.repaired.notes,
        proof=last.proved.record,
        refused=last.refused,
        rounds=last.number,
        cpu_seconds=last.cpu_seconds,
    )


def _publish(staged: Path, out: Path) -> None:
    """Move the finished parts into `out`: evidence at the top, model/ and rescan/ below.

    Where `out` is not there it appears by one rename. Else parts of an earlier run are replaced,
    the manifest first gone and last back, since without one the folder is no evidence; whatever
    else lies in `out` is left alone.
    """
    for item in sorted((staged / "evidence").iterdir()):
        item.rename(staged / item.name)
    (staged / "evidence").rmdir()
    staged.chmod(0o755)
    if not out.exists():
        staged.rename(out)
        return
    (out / MANIFEST).unlink(missing_ok=True)
    for item in sorted(staged.iterdir(), key=lambda path: (path.name == MANIFEST, path.name)):
        place = out / item.name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        item.replace(place)
