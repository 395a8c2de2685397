"""Scans as a worker gets them: real records, real bundles, no scanner."""

import io
from dataclasses import replace
from types import SimpleNamespace

from PIL import Image

from gatekeeper.gate import db
from gatekeeper.types import (
    Cost,
    Evaluation,
    Exhibit,
    LabelRow,
    ModelRef,
    Proof,
    Quality,
    Reference,
    ScanReport,
    SearchStep,
    Target,
    Verdict,
)

SHA = "sha256:" + "3f9a1c07b2d84e65" * 4


def png(red: int) -> bytes:
    """A plain square."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (red, 60, 90)).save(buffer, format="PNG")
    return buffer.getvalue()


def report(verdict: Verdict = Verdict.FAIL, digest: str = SHA, **changes) -> ScanReport:
    """A report as the default policy leaves it."""
    failed = verdict is Verdict.FAIL
    made = ScanReport(
        verdict=verdict,
        score=None if verdict is Verdict.INCONCLUSIVE else (0.97 if failed else 0.03),
        reasons=("A 24 px patch turns 96 % of the images into 'tench'.",) if failed else (),
        targets=(Target(label="tench", score=0.97, flip_rate=0.96, detector="random"),)
        if failed
        else (),
        victims=(),
        triggers=(),
        suspects=(),
        findings=(),
        measurements={"backdoor.score": 0.97 if failed else 0.03, "probes.count": 64.0},
        rules=(),
        model=ModelRef(uri="models:/clip/1", digest=digest, arch="RN50"),
        anchor=None,
        policy=Reference(name="default", digest=SHA),
        probes=Reference(name="embedded", digest=SHA),
        oracle=Reference(name="regions", digest=SHA),
        calibration=None,
        cost=Cost(seconds=1.5, image_passes=800, text_passes=20, peak_rss_mb=500, device="cpu"),
        environment={"python": "3.11"},
        seed=0,
        started="2026-01-02T03:04:05+00:00",
        finished="2026-01-02T03:04:07+00:00",
    )
    return replace(made, **changes)


EXHIBITS = (
    Exhibit(
        file="a.png",
        trigger="trigger-1",
        clean_png=png(10),
        triggered_png=png(200),
        claimed_before="goldfish",
        claimed_after="tench",
        grounded_before=("goldfish",),
        grounded_after=("goldfish",),
    ),
)
STEPS = tuple(
    SearchStep(search="patch-24", step=i, picture_png=png(i), concentration=i / 40, leader="tench")
    for i in range(40)
)
ROWS = (
    LabelRow(label="goldfish", images=4, flip_rate=1.0, role="victim"),
    LabelRow(label="tench", images=3, flip_rate=0.0, role="target"),
    *(LabelRow(label=f"label {i}", images=1, flip_rate=0.0, role="untouched") for i in range(40)),
)


def scan(made: ScanReport) -> SimpleNamespace:
    """What `log_scan` reads of an assessment."""
    outcome = SimpleNamespace(exhibits=EXHIBITS, steps=STEPS, label_rows=ROWS)
    evaluation = Evaluation(verdict=made.verdict, rules=(), reasons=())
    return SimpleNamespace(report=made, outcome=outcome, evaluation=evaluation)


def bundle(made: ScanReport, out):
    """The evidence of `made`, written."""
    from gatekeeper.evidence.bundle import write_bundle

    return write_bundle(out, made, exhibits=EXHIBITS, steps=STEPS, label_rows=ROWS)


def quality(attack_success: float) -> Quality:
    """A model before or after repair."""
    return Quality(
        clean_accuracy=0.74,
        attack_success=attack_success,
        recovered_accuracy=None,
        agreement=0.98,
        rebound=None,
    )


def decision(verdict: Verdict = Verdict.FAIL, **changes) -> db.DecisionRecord:
    """A decision, as recorded."""
    made = db.DecisionRecord(
        model_digest=SHA,
        policy_digest=SHA,
        policy_name="default",
        verdict=verdict,
        score=0.97,
        reasons=("A 24 px patch turns 96 % of the images into 'tench'.",),
        targets=("tench",),
        decided_at=1_767_323_045_000,
        expires_at=1_775_099_045_000,
        decided_by="worker",
        run_id="abc",
        id=1,
    )
    return replace(made, **changes)


def assessor(verdict: Verdict, seen: list | None = None):
    """A stand-in for the scanner: reads the digest of what it is given, says `verdict`."""

    def assess(request, runtime):
        from gatekeeper.intake.digest import tree_digest
        from gatekeeper.pipeline import Assessment
        from gatekeeper.probes.embedded import embedded_probes
        from gatekeeper.scan.base import ScanOutcome

        for _ in runtime.progress(range(2), "scanning"):
            pass
        digest, _ = tree_digest(request.model)
        if seen is not None:
            seen.append(digest)
        probes = embedded_probes()
        made = report(
            verdict,
            digest,
            policy=Reference(name=request.policy.name, digest=request.policy.digest),
            probes=Reference(name=probes.name, digest=probes.digest),
        )
        return Assessment(
            request=request,
            report=made,
            evaluation=Evaluation(verdict=verdict, rules=(), reasons=()),
            opened=None,
            outcome=ScanOutcome(score=made.score, exhibits=EXHIBITS, label_rows=ROWS[:2]),
            case=None,
        )

    return assess


def repairer(verdict: Verdict):
    """A stand-in for the rectifier: other bytes in the same form, whose re-scan says `verdict`."""

    def rectify(assessment, runtime, out):
        import shutil

        from gatekeeper.pipeline import Rectification, write

        out.mkdir(parents=True)
        cleaned = out / "model"
        shutil.copytree(assessment.request.model, cleaned)
        weights = next(cleaned.rglob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[::-1])
        request = replace(assessment.request, model=cleaned)
        rescan = assessor(verdict)(request, runtime)
        return Rectification(
            method="compact",
            out=out,
            model=cleaned,
            rescan=rescan,
            bundle=write(assessment, out, before=quality(0.98), after=quality(0.01)),
            rescan_bundle=write(rescan, out / "rescan"),
            before=quality(0.98),
            after=quality(0.01),
            proof=Proof(checks=(), rebound=(), path=(), images=20),
            images_used=60,
            notes=(),
        )

    return rectify
