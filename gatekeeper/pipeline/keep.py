"""What does a finished scan leave behind? Its report, its triggers and its pictures, as files."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from gatekeeper.evidence.bundle import Bundle, write_bundle
from gatekeeper.pipeline.assess import Assessment
from gatekeeper.probes.picture import png
from gatekeeper.scan.base import ScanOutcome
from gatekeeper.triggers import save_trigger
from gatekeeper.types import Proof, Quality, Reply, ScanReport


def write(
    assessment: Assessment,
    out: Path,
    *,
    before: Quality | None = None,
    after: Quality | None = None,
    rescan: ScanReport | None = None,
    proof: Proof | None = None,
    replies: Sequence[Reply] = (),
    refused: str = "",
) -> Bundle:
    """Write the evidence of `assessment` into `out`, whole or not at all.

    Raises:
        EvidenceError: It could not be written.
    """
    outcome = assessment.outcome
    return write_bundle(
        out,
        assessment.report,
        exhibits=outcome.exhibits,
        steps=outcome.steps,
        label_rows=outcome.label_rows,
        validation=assessment.evaluation.validation,
        trigger_files=_trigger_files(outcome),
        before=before,
        after=after,
        rescan=rescan,
        proof=proof,
        replies=replies,
        refused=refused,
    )


def _trigger_files(outcome: ScanOutcome) -> dict[str, bytes]:
    """Return the picture and the tensor of every trigger, by path relative to the report."""
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for found in outcome.triggers:
            if found.trigger is None:
                continue
            kept = Path(folder) / "trigger.safetensors"
            save_trigger(found.trigger, kept)
            files[f"triggers/{found.id}.safetensors"] = kept.read_bytes()
            files[f"triggers/{found.id}.png"] = png(found.trigger.picture())
    return files
