"""Our own scanner and repair, as one more row: handed what the others are, and nothing else."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch

from gatekeeper.bench.baselines.base import Doubts, Mended, Opinion, Work
from gatekeeper.errors import DetectorError, RectifyError
from gatekeeper.pipeline import Assessment, assess, recall, write
from gatekeeper.pipeline.checkpoint import Work as Stages
from gatekeeper.pipeline.prepare import calibrated
from gatekeeper.pipeline.rounds import prescription_of, rounds
from gatekeeper.policy.evaluate import evaluate
from gatekeeper.rectify.run import AUTO
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import ScanOutcome
from gatekeeper.scan.run import scan
from gatekeeper.scan.suspect_images import SuspectImages
from gatekeeper.types import Target, Verdict

EVIDENCE = "evidence."  # measurements that a curve turned into the score


@dataclass(frozen=True, slots=True, kw_only=True)
class Gatekeeper:
    """`gatekeeper scan` with all its detectors; flagged where the policy says fail."""

    name: ClassVar[str] = "gatekeeper"
    source: ClassVar[str] = "this package"

    def judge(self, work: Work, runtime: Runtime) -> Opinion:
        """Return the scan's calibrated score."""
        outcome = _scanned(work, runtime)
        evaluation = evaluate(
            work.request.policy,
            {m.name: m.value for m in outcome.measurements} | work.ready.opened.counts(),
            probes=len(work.case.probes),
            evaluated=outcome.score is not None,
        )
        head = work.head(runtime)
        first = next((t.label for t in outcome.targets if t.label in head.labels), None)
        decided = evaluation.verdict is not Verdict.INCONCLUSIVE
        return Opinion(
            score=outcome.score,
            probability=True,
            flagged=evaluation.verdict is Verdict.FAIL if decided else None,
            ranking=tuple(target.label for target in outcome.targets),
            embedding=None if first is None else head.weights[head.labels.index(first)],
            box=next((t.box for t in outcome.triggers if t.box), None),
            note=f"verdict {evaluation.verdict.value}" + _seen(outcome),
            evidence={
                m.name.removeprefix(EVIDENCE): m.value
                for m in outcome.measurements
                if m.name.startswith(EVIDENCE)
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatekeeperImages:
    """`gatekeeper scan --suspect`: which of the images carry a trigger, and where."""

    name: ClassVar[str] = "gatekeeper_images"
    source: ClassVar[str] = "this package, after EftCLIP, arXiv:2511.13545"

    def doubt(self, work: Work, runtime: Runtime) -> Doubts:
        """Return what the detector of suspect images says of each."""
        found = SuspectImages().detect(calibrated(work.case, runtime), runtime)
        if found.skipped or work.case.suspects is None:
            raise DetectorError(f"it did not run: {found.skipped}", hint="give more probes")
        by_file = {suspect.file: suspect for suspect in found.suspects}
        rows = [by_file.get(probe.file) for probe in work.case.suspects.probes]
        return Doubts(
            scores=torch.tensor([row.score if row else 0.0 for row in rows]),
            flagged=torch.tensor([bool(row and row.flagged) for row in rows]),
            boxes=tuple(row.box if row and row.flagged else None for row in rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatekeeperRepair:
    """`gatekeeper rectify` as a user runs it: scan, repair, re-scan, proof, a second round.

    What passes its scan stays as it is. `mistaken` says instead that so many labels, by lot, are
    targets, as a false alarm would: what does a repair cost a model that needs none?
    """

    name: ClassVar[str] = "gatekeeper"
    source: ClassVar[str] = "this package"
    mistaken: int = 0

    def mend(self, work: Work, runtime: Runtime) -> Mended:
        """Return the new weights, also those that missed a limit; the note says so."""
        found, scan_seconds = _assessed(work, runtime)
        if self.mistaken:
            found = replace(found, outcome=_accused(work, self.mistaken, runtime))
        ailments = prescription_of(found.outcome).ailments
        verdict = found.verdict.value
        if not ailments:
            note = f"verdict {verdict}; nothing found, nothing changed"
            return Mended(state={}, images=0, steps=0, note=note)
        with TemporaryDirectory() as folder:
            kept = Stages(folder=Path(folder) / "work")
            try:
                last = rounds(found, AUTO, kept, Path(folder) / "models", runtime)
            except RectifyError as error:  # nothing could be made at all
                return Mended(state={}, images=0, steps=0, offered=False, note=error.message)
        runtime.meter.images(last.image_passes)
        return Mended(
            state=last.repaired.state,
            prompts=last.repaired.prompts,
            images=last.repaired.images_used,
            steps=last.repaired.steps,
            offered=last.passed,
            note=f"verdict {verdict}; {len(ailments)} found; {last.told}",
            told={
                "method_taken": last.repaired.method,
                "rounds": last.number,
                "rescan": last.rescan.verdict.value,
                "scan_seconds": scan_seconds,
                "repair_seconds": round(last.repair_seconds, 1),  # processor time
                "proof_seconds": round(last.cpu_seconds - last.repair_seconds, 1),
                "checks": {
                    check.id: [check.after, check.limit, check.ok]
                    for check in last.proved.record.checks
                },
                "notes": list(last.repaired.notes),
            },
        )


def _assessed(work: Work, runtime: Runtime) -> tuple[Assessment, float]:
    """Return the scan and its seconds: a kept one, or a new one that is then kept.

    A new one is read back too, so that what follows is the same whichever it is.
    """
    if work.scan is None:
        found = assess(work.request, runtime)
        return found, found.report.cost.seconds
    file = work.scan / "report.json"
    there = file.is_file()
    if not there:
        write(assess(work.request, runtime), work.scan)
    found = recall(work.request, file, runtime)
    if there:
        runtime.meter.images(found.report.cost.image_passes)
    return found, found.report.cost.seconds


def _accused(work: Work, count: int, runtime: Runtime) -> ScanOutcome:
    draw = runtime.generator("bench", "mistaken")
    names = [work.case.labels[i] for i in torch.randperm(len(work.case.labels), generator=draw)]
    targets = tuple(
        Target(label=name, score=1.0, flip_rate=0.0, detector="mistaken") for name in names[:count]
    )
    return ScanOutcome(score=1.0, targets=targets)


def _scanned(work: Work, runtime: Runtime) -> ScanOutcome:
    return scan(calibrated(work.case, runtime), (), runtime)


def _seen(outcome: ScanOutcome) -> str:
    return f"; {outcome.reasons[0]}" if outcome.reasons else ""
