"""Repair, re-scan, proof: round by round, each finished stage kept."""

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from gatekeeper.errors import RectifyError, UtilityLostError
from gatekeeper.intake.write import write_like, write_prompts_like
from gatekeeper.pipeline.assess import Assessment, assess, recall
from gatekeeper.pipeline.checkpoint import Work
from gatekeeper.pipeline.keep import write
from gatekeeper.pipeline.prepare import ScanRequest
from gatekeeper.pipeline.stages import (
    PROOF,
    Mended,
    read_mended,
    read_proved,
    write_mended,
    write_proved,
)
from gatekeeper.rectify.base import Ailment, Prescription, Rectified
from gatekeeper.rectify.limits import check_proof
from gatekeeper.rectify.proof import Proved, prove
from gatekeeper.rectify.run import rectify as repair
from gatekeeper.runtime import Meter, Runtime
from gatekeeper.scan.base import ScanOutcome
from gatekeeper.types import Quality, Verdict

FRESH_SEED = 1_000_003  # added to the seed for a re-scan: other draws than the repair has seen
ROUNDS = 2  # repairs at most; the second knows what re-scan and proof of the first have found
BUNDLE, SECONDS = "bundle", "cpu-seconds"  # of a re-scan and of a proof, in their stages


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Round:
    """One repair, written, scanned afresh and put to the proof."""

    mended: Mended
    proved: Proved
    unproven: RectifyError | None  # what the proof says against it
    model: Path
    prompts: Path | None  # learned ones that were repaired; None: the suspect's hold
    rescan: Assessment
    evidence: Path  # the re-scan's bundle
    affected: tuple[str, ...]  # labels that the re-scan says flip
    number: int  # from 1
    cpu_seconds: float  # of all repairs and proofs so far
    repair_seconds: float  # of the repairs alone, processor time
    image_passes: float  # of the repairs

    @property
    def repaired(self) -> Rectified:
        """The new weights."""
        return self.mended.repaired

    @property
    def after(self) -> Quality:
        """The cleaned model, with the worst that the proof's fine-tuning brought back."""
        return replace(self.repaired.after, rebound=self.proved.rebound)

    @property
    def errors(self) -> tuple[RectifyError, ...]:
        """The limits it missed."""
        return tuple(e for e in (self.mended.error, self.unproven) if e is not None)

    @property
    def refused(self) -> str:
        """Why the repair itself is not good enough; empty where it is."""
        return "; ".join(error.message for error in self.errors)

    @property
    def passed(self) -> bool:
        """True where repair, proof and re-scan are good."""
        return not self.errors and self.rescan.verdict is Verdict.PASS

    @property
    def told(self) -> str:
        """What became of it, for people."""
        if self.passed:
            return "passed"
        return f"refused: {self.refused}; re-scan says {self.rescan.verdict.value}"


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


def rounds(
    assessment: Assessment, method: str, work: Work, models: Path, runtime: Runtime
) -> Round:
    """Repair until re-scan and proof pass, have nothing new to say, or the rounds are used up.

    `models` is a folder for the cleaned model, which stands under `model`. The last round is
    returned; one that made nothing leaves the one before.

    Raises:
        RectifyError: The first round made nothing.
    """
    prescription = prescription_of(assessment.outcome)
    last = _round(assessment, prescription, method, work, models, runtime)
    while last.number < ROUNDS and not last.passed:
        more = (*prescription_of(last.rescan.outcome).ailments, *last.proved.returned)
        lossy = any(isinstance(e, UtilityLostError) for e in last.errors)  # more of it loses more
        if lossy or not (more or last.proved.begun):
            break
        prescription = replace(
            prescription,
            ailments=prescription.ailments + more,
            affected=tuple(dict.fromkeys(prescription.affected + last.affected)),
            begun=last.proved.begun or last.repaired.state,
        )
        try:
            last = _round(assessment, prescription, method, work, models, runtime, last)
        except RectifyError:  # this round made nothing: what the last one made stays the evidence
            break
    return last


def _round(
    assessment: Assessment,
    prescription: Prescription,
    method: str,
    work: Work,
    models: Path,
    runtime: Runtime,
    earlier: Round | None = None,
) -> Round:
    number = earlier.number + 1 if earlier else 1
    mended = read_mended(
        work.stage(
            f"{number}-repair",
            lambda folder: write_mended(folder, _mend(assessment, prescription, method, runtime)),
        )
    )
    model, prompts = _write_model(assessment, mended.repaired, models)
    request = replace(
        assessment.request,
        model=model,
        prompts=prompts or assessment.request.prompts,
        uri=f"{assessment.request.uri} (rectified)",
    )
    rescan, told = _rescan(request, number, work, runtime)
    proof = work.stage(
        f"{number}-proof",
        lambda folder: _prove(
            assessment, prescription, mended, work.folder / f"{number}-repair", folder, runtime
        ),
    )
    proved = read_proved(proof)
    unproven: RectifyError | None = None
    try:
        check_proof(proved.record, mended.repaired)
    except RectifyError as missed:
        unproven = missed
    return Round(
        mended=mended,
        proved=proved,
        unproven=unproven,
        model=model,
        prompts=prompts,
        rescan=rescan,
        evidence=told / BUNDLE,
        affected=tuple(json.loads((told / "affected.json").read_text(encoding="utf-8"))),
        number=number,
        cpu_seconds=mended.cpu_seconds
        + float((proof / SECONDS).read_text(encoding="utf-8"))
        + (earlier.cpu_seconds if earlier else 0.0),
        repair_seconds=mended.cpu_seconds
        - mended.repaired.proof_seconds
        + (earlier.repair_seconds if earlier else 0.0),
        image_passes=mended.repaired.image_passes + (earlier.image_passes if earlier else 0.0),
    )


def _mend(
    assessment: Assessment, prescription: Prescription, method: str, runtime: Runtime
) -> Mended:
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
    return Mended(repaired=repaired, error=error, cpu_seconds=time.process_time() - clock)


def _prove(
    assessment: Assessment,
    prescription: Prescription,
    mended: Mended,
    repair_stage: Path,
    folder: Path,
    runtime: Runtime,
) -> None:
    """Write the proof of a repair into `folder`, and what it cost; the repair may have made one."""
    if assessment.case is None:
        raise RectifyError("no model to prove", hint="report this as a defect")
    clock = time.process_time()
    if (repair_stage / PROOF).is_dir():
        shutil.copytree(repair_stage / PROOF, folder, dirs_exist_ok=True)
    else:
        write_proved(folder, prove(assessment.case, prescription, mended.repaired, runtime))
    (folder / SECONDS).write_text(str(time.process_time() - clock), encoding="utf-8")


def _write_model(
    assessment: Assessment, repaired: Rectified, models: Path
) -> tuple[Path, Path | None]:
    """Write the cleaned model into `models`, in place of an earlier round's.

    Returns its path and that of its learned prompts, None where these did not change.
    """
    for kind in ("model", "prompts"):
        shutil.rmtree(models / kind, ignore_errors=True)
    root, prompts = assessment.request.model, assessment.request.prompts
    cleaned = models / "model" if root.is_dir() else models / "model" / root.name
    cleaned.parent.mkdir(parents=True, exist_ok=True)
    write_like(assessment.opened, repaired.state, root, cleaned)
    if prompts is None or not repaired.prompts:
        return cleaned, None
    made = models / "prompts" / prompts.name
    write_prompts_like(prompts, repaired.prompts, made)
    return cleaned, made


def _rescan(
    request: ScanRequest, number: int, work: Work, runtime: Runtime
) -> tuple[Assessment, Path]:
    """Scan the cleaned model like any other, with other draws and a budget of its own.

    A re-scan that was finished before is read back. Returns its stage's folder too.
    """
    seed = runtime.seed + number * FRESH_SEED
    fresh = replace(runtime, seed=seed, meter=Meter(limit=runtime.meter.limit))
    name = f"{number}-rescan"
    if work.has(name):
        folder = work.folder / name
        return recall(request, folder / BUNDLE / "report.json", fresh), folder
    made = assess(request, fresh)

    def keep(folder: Path) -> None:
        write(made, folder / BUNDLE)
        told = json.dumps(made.outcome.compact.affected)
        (folder / "affected.json").write_text(told, encoding="utf-8")

    return made, work.stage(name, keep)
