"""Our own scanner and repair, as one more row: handed what the others are, and nothing else."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from gatekeeper.bench.baselines.base import Doubts, Mended, Opinion, Work
from gatekeeper.errors import DetectorError, RectifyError
from gatekeeper.pipeline.prepare import calibrated
from gatekeeper.pipeline.rounds import prescription_of
from gatekeeper.policy.evaluate import evaluate
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.limits import Limits
from gatekeeper.rectify.run import AUTO, attempt
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import ScanOutcome
from gatekeeper.scan.run import scan
from gatekeeper.scan.suspect_images import SuspectImages
from gatekeeper.types import Verdict

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
    """`gatekeeper rectify`: scan, then repair what was found; what passes stays as it is."""

    name: ClassVar[str] = "gatekeeper"
    source: ClassVar[str] = "this package"

    def mend(self, work: Work, runtime: Runtime) -> Mended:
        """Return the new weights, also those that missed a limit; the note says so.

        Raises:
            RectifyError: Nothing could be made at all.
        """
        prescription = prescription_of(_scanned(work, runtime))
        if not prescription.ailments:
            return Mended(state={}, images=0, steps=0, note="nothing found, nothing changed")
        note, offered = f"{len(prescription.ailments)} found", True
        try:
            made = _repaired(work, prescription, runtime)
        except RectifyError as error:
            if not isinstance(error.rejected, Rectified):
                raise
            made, offered = error.rejected, False
            note = f"{note}; refused by its own limits: {error.message}"
        return Mended(
            state=made.state, images=made.images_used, steps=made.steps, note=note, offered=offered
        )


def _repaired(work: Work, prescription: Prescription, runtime: Runtime) -> Rectified:
    """Do what `rectify.run.rectify` does, on the bench's meter: there a repair has its own."""
    return attempt(work.case, prescription, AUTO, runtime, Limits())


def _scanned(work: Work, runtime: Runtime) -> ScanOutcome:
    return scan(calibrated(work.case, runtime), (), runtime)


def _seen(outcome: ScanOutcome) -> str:
    return f"; {outcome.reasons[0]}" if outcome.reasons else ""
