"""Is this model directory fit for production? Intake, probes, oracle, scan, policy, evidence."""

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from gatekeeper import __version__
from gatekeeper.case import Case
from gatekeeper.errors import DigestMismatchError, IntakeError, ProbeError, ScanError
from gatekeeper.evidence.bundle import Bundle, write_bundle
from gatekeeper.evidence.report_json import from_json
from gatekeeper.intake.open import Opened, open_model
from gatekeeper.oracle.cache import OracleCache
from gatekeeper.oracle.ground import Oracle
from gatekeeper.oracle.spec import build_segmenter
from gatekeeper.policy.evaluate import evaluate
from gatekeeper.policy.probe_checks import check_probes
from gatekeeper.policy.schema import Policy
from gatekeeper.probes.embedded import default_labels, embedded_probes
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.load import load_labels, load_probes
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import CompactSet, Confirmed, ScanOutcome
from gatekeeper.scan.run import scan
from gatekeeper.triggers import load_trigger, save_trigger
from gatekeeper.types import (
    Cost,
    Evaluation,
    Quality,
    Reference,
    ScanReport,
    Severity,
    TriggerRecord,
    Verdict,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRequest:
    """What to scan and with what; paths are local."""

    model: Path
    uri: str  # as the user named it, for the report
    policy: Policy
    anchor: Path | None = None
    anchor_uri: str = ""
    probes: Path | None = None  # None: the embedded set
    suspects: Path | None = None
    labels: Path | None = None  # None: labels.csv of the probes, else the embedded list
    oracle: str = "regions"
    arch: str | None = None
    prompts: Path | None = None
    detectors: tuple[str, ...] = ()  # empty: all that are installed
    cache: Path | None = None  # where oracle output is kept; None: in memory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assessment:
    """A finished scan: the report, and the live objects that repair and evidence need."""

    request: ScanRequest
    report: ScanReport
    evaluation: Evaluation
    opened: Opened
    outcome: ScanOutcome
    case: Case | None  # None: the model could not be read without running code
    probe_checks: Mapping[str, object] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The verdict, as the policy gave it."""
        return self.report.verdict


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """Everything a scan needs, read and checked; nothing has been scanned yet."""

    opened: Opened
    anchor: Opened | None
    probes: ProbeSet
    case: Case | None  # None: the model could not be read without running code
    checks: Mapping[str, object]


def prepare(request: ScanRequest, runtime: Runtime) -> Prepared:
    """Read the model, the anchor, the images and the labels; calibrate the oracle.

    Raises:
        GatekeeperError: Bad input; the message says what, where and what to do.
    """
    probes = load_probes(request.probes) if request.probes else embedded_probes()
    labels = _labels(request, probes)
    suspects = load_probes(request.suspects, name="suspects") if request.suspects else None
    checks = check_probes(probes, labels)
    anchor = _open_anchor(request)
    opened = open_model(
        request.model,
        uri=request.uri,
        arch=request.arch,
        anchor=anchor,
        prompts=request.prompts,
    )
    case: Case | None = None
    if opened.model is not None:
        case = _case(request, opened, anchor, probes, suspects, labels, runtime)
    return Prepared(opened=opened, anchor=anchor, probes=probes, case=case, checks=checks)


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
        outcome = scan(case, request.detectors, runtime)
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
        reasons=_reasons(evaluation, opened, outcome, probes),
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
        calibration=None,
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
        case=ready.case,
        probe_checks=ready.checks,
    )


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
            victims=tuple((s.file, s.grounded[0]) for s in report.suspects if s.flagged and s.grounded),
            probes=(),
        ),
    )


def write(
    assessment: Assessment,
    out: Path,
    *,
    before: Quality | None = None,
    after: Quality | None = None,
    rescan: ScanReport | None = None,
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
    )


def environment() -> dict[str, str]:
    """Return the versions that a figure may depend on."""
    from importlib.metadata import PackageNotFoundError, version

    names = ("torch", "torchvision", "open_clip_torch", "timm", "transformers", "great_expectations")
    found = {"gatekeeper": __version__, "python": sys.version.split()[0], "platform": sys.platform}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _open_anchor(request: ScanRequest) -> Opened | None:
    if request.anchor is None:
        return None
    anchor = open_model(request.anchor, uri=request.anchor_uri or str(request.anchor), arch=request.arch)
    alarming = [f for f in anchor.findings if f.severity is Severity.CRITICAL]
    if anchor.model is None or alarming:
        why = alarming[0].message if alarming else "no CLIP could be read from it"
        raise IntakeError(
            f"anchor {anchor.ref.uri} cannot be trusted: {why}",
            hint="name the public base model that the suspect was fine-tuned from",
        )
    return anchor


def _labels(request: ScanRequest, probes: ProbeSet) -> Labels:
    if request.labels is not None:
        return load_labels(request.labels)
    names = tuple(dict.fromkeys(label for label in probes.labels() if label))
    if len(names) > 1:
        return Labels(labels=names, source="labels.csv")
    return default_labels()


def _case(
    request: ScanRequest,
    opened: Opened,
    anchor: Opened | None,
    probes: ProbeSet,
    suspects: ProbeSet | None,
    labels: Labels,
    runtime: Runtime,
) -> Case:
    if opened.model is None:
        raise ProbeError("no model to build a case of", hint="report this as a defect")
    model = opened.model.to(runtime.device)
    trusted = anchor.model.to(runtime.device) if anchor and anchor.model else None
    oracle = Oracle(
        segmenter=build_segmenter(request.oracle),
        labeler=trusted or model,
        independent=trusted is not None,
        labels=labels.labels,
        templates=labels.templates,
        cache=OracleCache(root=request.cache),
    ).calibrate(probes, runtime)
    return Case(
        model=model,
        anchor=trusted,
        probes=probes,
        suspects=suspects,
        oracle=oracle,
        labels=labels.labels,
        templates=labels.templates,
    )


def _reasons(
    evaluation: Evaluation, opened: Opened, outcome: ScanOutcome, probes: ProbeSet
) -> tuple[str, ...]:
    """Worst first: what was found, then which rule it broke, then what the scan rested on."""
    static = tuple(f.message for f in opened.findings if f.severity is Severity.CRITICAL)
    rest = []
    if probes.embedded:
        rest.append(
            f"No probes were given: {len(probes)} embedded images were used ({probes.name}), "
            "which finds less than images of your own domain."
        )
    rest += [f"Not run: {why}" for why in outcome.skipped]
    told = (*outcome.reasons, *evaluation.reasons)
    if evaluation.verdict is Verdict.INCONCLUSIVE:  # why nothing was decided is the headline
        told = (*evaluation.reasons, *outcome.reasons)
    return tuple(dict.fromkeys((*static, *told, *rest)))


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
                tower="image",
                target=found.target,
                flip_rate=found.flip_rate,
                oracle_agrees=found.oracle_agrees,
                box=found.box,
                files=files,
            )
        )
    return tuple(records)


def _trigger_files(outcome: ScanOutcome) -> dict[str, bytes]:
    """Return the picture and the tensor of every trigger, by path relative to the report."""
    import io
    import tempfile

    from PIL import Image

    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for found in outcome.triggers:
            if found.trigger is None:
                continue
            kept = Path(folder) / "trigger.safetensors"
            save_trigger(found.trigger, kept)
            files[f"triggers/{found.id}.safetensors"] = kept.read_bytes()
            array = (found.trigger.picture().clamp(0, 1) * 255).round().byte()
            buffer = io.BytesIO()
            Image.fromarray(array.permute(1, 2, 0).cpu().numpy()).save(buffer, format="PNG")
            files[f"triggers/{found.id}.png"] = buffer.getvalue()
    return files


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
