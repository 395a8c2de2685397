"""Is this model directory fit for production? Intake, probes, oracle, scan, policy, evidence."""

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gatekeeper import __version__
from gatekeeper.case import Case
from gatekeeper.errors import BudgetExhaustedError, DigestMismatchError, ScanError
from gatekeeper.evidence.report_json import from_json
from gatekeeper.intake.open import Opened
from gatekeeper.pipeline.prepare import ScanRequest, calibrated, prepare
from gatekeeper.policy.evaluate import evaluate
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import CompactSet, Confirmed, ScanOutcome
from gatekeeper.scan.run import scan
from gatekeeper.triggers import TextTrigger, load_trigger
from gatekeeper.types import (
    Cost,
    Evaluation,
    Json,
    Reference,
    ScanReport,
    Severity,
    TriggerRecord,
    Verdict,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assessment:
    """A finished scan: the report, and the live objects that repair and evidence need."""

    request: ScanRequest
    report: ScanReport
    evaluation: Evaluation
    opened: Opened
    outcome: ScanOutcome
    case: Case | None  # None: the model could not be read without running code
    probe_checks: Mapping[str, Json] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The verdict, as the policy gave it."""
        return self.report.verdict


def assess(request: ScanRequest, runtime: Runtime) -> Assessment:
    """Scan `request.model` and judge it by `request.policy`. Writes nothing.

    Raises:
        GatekeeperError: Bad input; the message says what, where and what to do.
    """
    started, clock = _now(), time.monotonic()
    ready = prepare(request, runtime)
    opened, case, probes = ready.opened, ready.case, ready.probes
    outcome = ScanOutcome(score=None)
    if case is not None:
        try:
            case = calibrated(case, runtime)
            outcome = scan(case, request.detectors, runtime)
        except BudgetExhaustedError as error:  # before a detector ran: inconclusive, not an error
            outcome = ScanOutcome(score=None, skipped=(f"the whole scan: {error.message}",))
    measurements = {m.name: m.value for m in outcome.measurements} | opened.counts()
    evaluation = evaluate(
        request.policy,
        measurements,
        probes=len(probes),
        evaluated=outcome.score is not None,
        static_only=case is None,
        embedded=probes.embedded,
    )
    report = ScanReport(
        verdict=evaluation.verdict,
        score=outcome.score,
        reasons=_reasons(evaluation, opened, outcome, probes, _warnings(ready.checks)),
        targets=outcome.targets,
        victims=outcome.victims,
        triggers=_trigger_records(outcome),
        suspects=outcome.suspects,
        findings=opened.findings + outcome.findings,
        measurements=measurements,
        rules=evaluation.rules,
        model=opened.ref,
        anchor=ready.anchor.ref if ready.anchor else None,
        policy=Reference(name=request.policy.name, digest=request.policy.digest),
        probes=Reference(name=probes.name, digest=probes.digest),
        oracle=Reference(name=request.oracle, digest=case.oracle.digest) if case else None,
        calibration=outcome.calibration,
        cost=_cost(runtime, clock),
        environment=environment(),
        seed=runtime.seed,
        started=started,
        finished=_now(),
    )
    return Assessment(
        request=request,
        report=report,
        evaluation=evaluation,
        opened=opened,
        outcome=outcome,
        case=case,
        probe_checks=ready.checks,
    )


def recall(request: ScanRequest, report_file: Path, runtime: Runtime) -> Assessment:
    """Take up an earlier scan: its `report.json` and the triggers beside it, nothing scanned again.

    Raises:
        DigestMismatchError: The report speaks of other bytes than `request.model`.
        ScanError: The report or a trigger file cannot be read.
    """
    try:
        report = from_json(report_file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScanError(
            f"{report_file} cannot be read: {error}", hint="name the report.json of a scan"
        ) from error
    ready = prepare(request, runtime)
    if report.model.digest != ready.opened.ref.digest:
        raise DigestMismatchError(
            f"{report_file} is of {report.model.digest}, the model is {ready.opened.ref.digest}",
            hint="scan this model first, or name the report that belongs to it",
        )
    evaluation = evaluate(
        request.policy,
        report.measurements,
        probes=int(report.measurements.get("probes.count", 0)),
        evaluated=report.score is not None,
        embedded=ready.probes.embedded,
    )
    return Assessment(
        request=request,
        report=replace(report, verdict=evaluation.verdict, rules=evaluation.rules),
        evaluation=evaluation,
        opened=ready.opened,
        outcome=_recalled(report, report_file.parent),
        case=ready.case,  # its oracle is not calibrated: a repair asks it nothing
        probe_checks=ready.checks,
    )


def _warnings(checks: Mapping[str, Json]) -> tuple[str, ...]:
    found = checks.get("warnings")
    return tuple(str(warning) for warning in found) if isinstance(found, list | tuple) else ()


def _recalled(report: ScanReport, folder: Path) -> ScanOutcome:
    triggers = []
    for record in report.triggers:
        kept = record.files.get("tensor")
        triggers.append(
            Confirmed(
                id=record.id,
                trigger=load_trigger(folder / kept) if kept else None,
                target=record.target,
                detector="report",
                flip_rate=record.flip_rate,
                anchor_flip_rate=None,
                oracle_agrees=record.oracle_agrees,
                box=record.box,
            )
        )
    affected = (*(v.label for v in report.victims), *(t.label for t in report.targets[:1]))
    return ScanOutcome(
        score=report.score,
        targets=report.targets,
        victims=report.victims,
        triggers=tuple(triggers),
        suspects=report.suspects,
        findings=report.findings,
        compact=CompactSet(
            affected=tuple(dict.fromkeys(affected)),
            victims=tuple(
                (s.file, s.grounded[0]) for s in report.suspects if s.flagged and s.grounded
            ),
            probes=(),
        ),
    )


def _reasons(
    evaluation: Evaluation,
    opened: Opened,
    outcome: ScanOutcome,
    probes: ProbeSet,
    warnings: Sequence[str],
) -> tuple[str, ...]:
    """Worst first: what was found, then which rule it broke, then what the scan rested on."""
    static = tuple(f.message for f in opened.findings if f.severity is Severity.CRITICAL)
    rest = []
    if probes.embedded:
        rest.append(
            f"No probes were given: {len(probes)} embedded images were used ({probes.name}), "
            "which finds less than images of your own domain."
        )
    rest += [f"Probes: {warning}" for warning in warnings]
    rest += [f"Not run: {why}" for why in outcome.skipped]
    told = (*outcome.reasons, *evaluation.reasons)
    if evaluation.verdict is Verdict.INCONCLUSIVE:  # why nothing was decided is the headline
        told = (*evaluation.reasons, *outcome.reasons)
    return tuple(dict.fromkeys((*static, *told, *rest)))


def _cost(runtime: Runtime, clock: float) -> Cost:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Cost(
        seconds=round(time.monotonic() - clock, 3),
        image_passes=round(runtime.meter.image_passes, 1),
        text_passes=round(runtime.meter.text_passes, 1),
        peak_rss_mb=round(peak / (1024 if sys.platform.startswith("linux") else 1024**2), 1),
        device=runtime.device,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, str]:
    """Return the versions that a figure may depend on."""
    names = (
        "torch",
        "torchvision",
        "open_clip_torch",
        "timm",
        "transformers",
        "great_expectations",
    )
    found = {"gatekeeper": __version__, "python": sys.version.split()[0], "platform": sys.platform}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _trigger_records(outcome: ScanOutcome) -> tuple[TriggerRecord, ...]:
    records = []
    for found in outcome.triggers:
        files = {}
        if found.trigger is not None:
            files = {
                "picture": f"triggers/{found.id}.png",
                "tensor": f"triggers/{found.id}.safetensors",
            }
        records.append(
            TriggerRecord(
                id=found.id,
                family=found.trigger.family if found.trigger is not None else "direction",
                tower="text" if isinstance(found.trigger, TextTrigger) else "image",
                target=found.target,
                flip_rate=found.flip_rate,
                oracle_agrees=found.oracle_agrees,
                box=found.box,
                files=files,
            )
        )
    return tuple(records)
