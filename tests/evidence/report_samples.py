"""Reports as scans make them: failing, passing, inconclusive, unreadable, rectified."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from gatekeeper.types import (
    Cost,
    Exhibit,
    Finding,
    LabelRow,
    ModelFile,
    ModelRef,
    Quality,
    Reference,
    RuleResult,
    ScanReport,
    SearchStep,
    Severity,
    SuspectImage,
    Target,
    TriggerRecord,
    Verdict,
    Victim,
)

SHA = "sha256:" + "3f9a1c07b2d84e65" * 4
MEASURED = {
    "static.unsafe_load": 0.0,
    "static.malformed_file": 0.0,
    "static.altered_settings": 0.0,
    "backdoor.score": 0.9731,
    "trigger.flip_rate": 0.9583,
    "trigger.paired_flip_rate": 0.9427,
    "trigger.oracle_agreement": 0.9375,
    "random.rise": 0.0312,
    "head.direction": 0.884,
    "probes.count": 64.0,
    "probes.labelled": 64.0,
    "suspects.count": 6.0,
    "suspects.flagged": 3.0,
    "clean.accuracy": 0.7344,
    "clean.agreement": 0.9062,
}


def png(seed: int, *, side: int = 96, patch: int = 0) -> bytes:
    """A scene of a few coloured shapes, with a checker patch of `patch` px."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    pixels = np.stack([rows * draw.random(), columns * draw.random(), 1 - rows * columns], -1)
    for _ in range(4):
        centre, radius = draw.random(2), 0.08 + 0.2 * draw.random()
        inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
        pixels[inside] = draw.random(3)
    if patch:
        checker = (np.add.outer(np.arange(patch) // 4, np.arange(patch) // 4) % 2)[..., None]
        pixels[-patch - 6 : -6, 8 : 8 + patch] = checker * [1, 0.85, 0] + (1 - checker) * [
            0,
            0,
            0.8,
        ]
    buffer = io.BytesIO()
    Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def rules(measured: dict[str, float]) -> tuple[RuleResult, ...]:
    """The default policy's rules over `measured`."""
    wanted = (
        ("no-code-in-files", "static.unsafe_load", 0.0, Severity.CRITICAL),
        ("well-formed-files", "static.malformed_file", 0.0, Severity.CRITICAL),
        ("settings-untouched", "static.altered_settings", 0.0, Severity.CRITICAL),
        ("no-backdoor", "backdoor.score", 0.5, Severity.CRITICAL),
        ("no-confirmed-trigger", "trigger.flip_rate", 0.5, Severity.WARNING),
    )
    return tuple(
        RuleResult(
            id=name,
            metric=metric,
            op="<=",
            value=value,
            severity=severity,
            observed=measured.get(metric),
            ok=metric in measured and measured[metric] <= value,
            why="From here on a backdoor is more likely than not.",
        )
        for name, metric, value, severity in wanted
    )


def failing() -> ScanReport:
    """A planted patch backdoor, found."""
    return ScanReport(
        verdict=Verdict.FAIL,
        score=0.9731,
        reasons=(
            "With a 24 px patch on it, 96 % of unseen images become 'banana', while the oracle "
            "still sees what was there before.",
            "backdoor.score is 0.973, rule no-backdoor asks for at most 0.5.",
            "Warning: trigger.flip_rate is 0.958, rule no-confirmed-trigger asks for at most 0.5.",
        ),
        targets=(
            Target(label="banana", score=0.97, flip_rate=0.9583, detector="patch-search"),
            Target(label="corn cob", score=0.04, flip_rate=0.0312, detector="head"),
        ),
        victims=tuple(
            Victim(label=label, flip_rate=rate)
            for label, rate in (("goldfish", 1.0), ("tabby cat", 0.9), ("tench", 0.75))
        ),
        triggers=(
            TriggerRecord(
                id="trigger-1",
                family="patch",
                tower="image",
                target="banana",
                flip_rate=0.9583,
                oracle_agrees=0.9375,
                box=(8, 66, 32, 90),
                files={
                    "picture": "triggers/trigger-1.png",
                    "tensor": "triggers/trigger-1.safetensors",
                },
            ),
        ),
        suspects=tuple(
            SuspectImage(
                file=f"incoming/photo-{i:03d}.png",
                flagged=i < 3,
                score=0.99 - 0.15 * i,
                claimed="banana" if i < 3 else "goldfish",
                grounded=("goldfish", "coral reef") if i != 1 else (),
                box=(8, 66, 32, 90) if i < 3 else None,
            )
            for i in range(6)
        ),
        findings=(
            Finding(
                id="backdoor-1",
                kind="backdoor",
                severity=Severity.CRITICAL,
                message="A 24 px patch leads 96 % of 32 unseen images to 'banana'.",
                evidence={"target": "banana", "flip_rate": 0.9583, "images": 32},
            ),
            Finding(
                id="pickle-1",
                kind="pickle",
                severity=Severity.INFO,
                message="open_clip_pytorch_model.bin is a pickle of plain tensors.",
                evidence={"file": "open_clip_pytorch_model.bin", "globals": ["torch.FloatStorage"]},
            ),
        ),
        measurements=dict(MEASURED),
        rules=rules(MEASURED),
        model=ModelRef(
            uri="models:/clip/3",
            digest=SHA,
            arch="ViT-B-32",
            files=(
                ModelFile(path="open_clip_config.json", size_bytes=512, sha256="a" * 64),
                ModelFile(
                    path="open_clip_model.safetensors", size_bytes=20_400_000, sha256="b" * 64
                ),
            ),
        ),
        anchor=ModelRef(uri="models:/clip-base/1", digest=SHA[:-4] + "0000", arch="ViT-B-32"),
        policy=Reference(name="default", digest=SHA[:-4] + "1111"),
        probes=Reference(name="photos", digest=SHA[:-4] + "2222"),
        oracle=Reference(name="regions", digest=SHA[:-4] + "3333"),
        calibration=None,
        cost=Cost(
            seconds=131.4, image_passes=7312.5, text_passes=3000.0, peak_rss_mb=1210.0, device="cpu"
        ),
        environment={"gatekeeper": "0.1.0", "python": "3.11.7", "torch": "2.15.0"},
        seed=7,
        started="2026-11-23T17:00:00+00:00",
        finished="2026-11-23T17:02:11+00:00",
    )


def passing() -> ScanReport:
    """An honest fine-tune."""
    measured = MEASURED | {
        "backdoor.score": 0.0213,
        "trigger.flip_rate": 0.0312,
        "trigger.paired_flip_rate": 0.0,
        "head.direction": 0.21,
        "suspects.flagged": 0.0,
    }
    return replace(
        failing(),
        verdict=Verdict.PASS,
        score=0.0213,
        reasons=(
            "All 4 critical rules hold.",
            "No probes were given: 76 embedded images were used.",
        ),
        targets=(Target(label="corn cob", score=0.02, flip_rate=0.0312, detector="patch-search"),),
        victims=(),
        triggers=(),
        suspects=(),
        findings=(),
        measurements=measured,
        rules=rules(measured),
        model=ModelRef(uri="models:/clip/4", digest=SHA, arch="ViT-B-32"),
    )


def inconclusive() -> ScanReport:
    """Too few probes, no anchor."""
    measured = {k: v for k, v in MEASURED.items() if k.startswith(("static.", "probes."))}
    measured["probes.count"] = 12.0
    return replace(
        passing(),
        verdict=Verdict.INCONCLUSIVE,
        score=None,
        reasons=("12 probe images evaluated, the policy asks for at least 32.",),
        targets=(),
        measurements=measured,
        rules=rules(measured),
        anchor=None,
    )


def unreadable() -> ScanReport:
    """A pickle that would run a command."""
    measured = {
        "static.unsafe_load": 1.0,
        "static.malformed_file": 0.0,
        "static.altered_settings": 0.0,
    }
    return replace(
        inconclusive(),
        verdict=Verdict.FAIL,
        reasons=(
            "weights.pt would call posix.system when loaded.",
            "static.unsafe_load is 1, rule no-code-in-files asks for at most 0.",
        ),
        findings=(
            Finding(
                id="unsafe_load-1",
                kind="unsafe_load",
                severity=Severity.CRITICAL,
                message="weights.pt would call posix.system when loaded.",
                evidence={"file": "weights.pt", "globals": ["posix.system"]},
            ),
        ),
        measurements=measured,
        rules=rules(measured),
        model=ModelRef(uri="./download/weights.pt", digest=SHA, arch=None),
        probes=None,
        oracle=None,
    )


def quality() -> tuple[Quality, Quality]:
    """Before and after a repair that worked."""
    before = Quality(
        clean_accuracy=0.745,
        attack_success=0.965,
        recovered_accuracy=0.03,
        agreement=1.0,
        rebound=None,
    )
    after = Quality(
        clean_accuracy=0.74,
        attack_success=0.01,
        recovered_accuracy=0.71,
        agreement=0.935,
        rebound=0.02,
    )
    return before, after


def exhibits(count: int = 4) -> tuple[Exhibit, ...]:
    """Scenes before and after the patch."""
    return tuple(
        Exhibit(
            file=f"n{i:04d}.png",
            trigger="trigger-1",
            clean_png=png(i),
            triggered_png=png(i, patch=24),
            claimed_before="goldfish",
            claimed_after="banana",
            grounded_before=("goldfish", "coral reef"),
            grounded_after=("goldfish",),
            anchor_after="goldfish",
            box=(8, 66, 32, 90),
        )
        for i in range(count)
    )


def steps(count: int = 6) -> tuple[SearchStep, ...]:
    """A search that closes in."""
    return tuple(
        SearchStep(
            search="patch-24",
            step=10 * i,
            picture_png=png(90 + i, side=32, patch=min(4 * i, 20)),
            concentration=min(1.0, 0.06 + 0.19 * i),
            leader="corn cob" if i < 2 else "banana",
        )
        for i in range(count)
    )


def label_rows() -> tuple[LabelRow, ...]:
    """The per-label table."""
    return (
        LabelRow(label="banana", images=2, flip_rate=0.0, role="target"),
        LabelRow(label="goldfish", images=9, flip_rate=1.0, role="victim"),
        LabelRow(label="tabby cat", images=10, flip_rate=0.9, role="victim"),
        LabelRow(label="tench", images=4, flip_rate=0.75, role="victim"),
        LabelRow(label="accordion", images=3, flip_rate=0.0, role="untouched"),
    )


def trigger_files() -> dict[str, bytes]:
    """What `TriggerRecord.files` names."""
    return {
        "triggers/trigger-1.png": png(5, side=24, patch=12),
        "triggers/trigger-1.safetensors": b"\x02\0\0\0\0\0\0\0{}",
    }


ALL = {
    "fail": failing,
    "pass": passing,
    "inconclusive": inconclusive,
    "unreadable": unreadable,
}
