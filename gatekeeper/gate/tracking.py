"""What does a scan leave behind in MLflow? One run in experiment `gatekeeper`, checked.

Metrics are the scan's measurements, params say what it rested on, artifacts are the evidence
bundle; a per-label table and the steps of the trigger search carry pictures. Logged by run ID, not
by MLflow's fluent state, so that several scans of one process do not mix.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from gatekeeper.gate.evidence_store import bundle_files, files_in, store_evidence
from gatekeeper.gate.pictures import log_label_table, log_search
from gatekeeper.gate.register import register_cleaned
from gatekeeper.gate.runs import EvidenceRun, evidence_run, log_files
from gatekeeper.types import Quality, ScanReport

if TYPE_CHECKING:
    from gatekeeper.evidence.bundle import Bundle
    from gatekeeper.pipeline import Assessment, Rectification

__all__ = [
    "EvidenceRun",
    "evidence_key",
    "log_local_rectification",
    "log_local_scan",
    "log_rectification",
    "log_scan",
    "rectification_files",
    "register_cleaned",
]

Say = Callable[[str], None]


def log_scan(
    assessment: "Assessment",
    files: Mapping[str, Path],
    *,
    model: str,
    client: Any = None,
    tags: Mapping[str, str] | None = None,
) -> EvidenceRun:
    """Log one scan and its bundle; return the run once every file was read back.

    Args:
        assessment: The scan.
        files: What `pipeline.write` wrote, as `evidence_store.bundle_files` names it.
        model: The MODEL as people know it, e.g. `models:/clip/3`.
        client: MLflow client; by default the environment's.
        tags: More tags for the run.

    Raises:
        EvidenceError: A part of it could not be stored, so nothing may be announced.
    """
    report, outcome = assessment.report, assessment.outcome
    name = f"scan {model.removeprefix('models:/')}: {report.verdict}"
    with evidence_run(name, {**_tags(report, model), **(tags or {})}, client) as (mlflow, run):
        _log_numbers(mlflow, run.run_id, report, model)
        log_files(mlflow, run, files)
        log_label_table(mlflow, run.run_id, outcome.label_rows, outcome.exhibits)
        log_search(mlflow, run.run_id, outcome.steps)
    return run


def log_rectification(
    result: "Rectification",
    files: Mapping[str, Path],
    *,
    model: str,
    client: Any = None,
    tags: Mapping[str, str] | None = None,
) -> EvidenceRun:
    """Log a repair: before and after, the re-scan, and the files given.

    A cleaned model that fails its re-scan is kept here and nowhere else.

    Raises:
        EvidenceError: A part of it could not be stored.
    """
    report, outcome = result.report, result.rescan.outcome
    name = f"rectify {model.removeprefix('models:/')}: {report.verdict}"
    own = {**_tags(report, model), "gatekeeper.rectified_from": model, **(tags or {})}
    with evidence_run(name, own, client) as (mlflow, run):
        _log_numbers(mlflow, run.run_id, report, model)
        _log_quality(mlflow, run.run_id, result)
        log_files(mlflow, run, files)
        log_label_table(mlflow, run.run_id, outcome.label_rows, outcome.exhibits)
        log_search(mlflow, run.run_id, outcome.steps)
    return run


def log_local_scan(assessment: "Assessment", bundle: "Bundle", *, model: str, say: Say) -> None:
    """Log what `gatekeeper scan` found where the environment says; tell with `say` where.

    Raises:
        EvidenceError: It could not be stored; the report in the output folder stays.
    """
    files = bundle_files(bundle)
    stored = store_evidence(files, evidence_key(assessment.report))
    if stored:
        say(f"Evidence: {stored}")
    if _wanted(model, say):
        say(f"MLflow run: {log_scan(assessment, files, model=model).url}")


def log_local_rectification(result: "Rectification", *, model: str, say: Say) -> None:
    """Log what `gatekeeper rectify` made where the environment says; tell with `say` where.

    Raises:
        EvidenceError: It could not be stored; the output folder stays.
    """
    files = rectification_files(result)
    stored = store_evidence(files, evidence_key(result.report))
    if stored:
        say(f"Evidence: {stored}")
    if _wanted(model, say):
        say(f"MLflow run: {log_rectification(result, files, model=model).url}")


def rectification_files(result: "Rectification", *, with_model: bool = False) -> dict[str, Path]:
    """Return the evidence of a repair: its bundle, the re-scan's, and the model if wanted."""
    files = bundle_files(result.bundle)
    folders = ("rescan", "model") if with_model else ("rescan",)
    for folder in folders:
        inside = files_in(result.out / folder)
        files |= {f"{folder}/{name}": path for name, path in inside.items()}
    return files


def evidence_key(report: ScanReport) -> str:
    """Return one path component that names this scan: when, of which bytes."""
    moment = "".join(letter for letter in report.started if letter.isdigit())[:14]
    return f"{moment}-{report.model.digest.removeprefix('sha256:')[:16]}-{report.seed}"


def _wanted(model: str, say: Say) -> bool:
    if os.environ.get("MLFLOW_TRACKING_URI") or urlparse(model).scheme in {"models", "runs"}:
        return True
    say("No MLflow run was logged: MLFLOW_TRACKING_URI is not set and the model is local.")
    return False


def _tags(report: ScanReport, model: str) -> dict[str, str]:
    lines = [f"**{str(report.verdict).upper()}** · {model}", ""]
    lines += [f"- {reason}" for reason in report.reasons[:10]]
    lines += ["", "The whole report: artifact `report.html`."]
    return {
        "gatekeeper.verdict": str(report.verdict),
        "gatekeeper.score": "" if report.score is None else f"{report.score:.4f}",
        "gatekeeper.policy": f"{report.policy.name} {report.policy.digest}",
        "gatekeeper.digest": report.model.digest,
        "gatekeeper.model": model[:500],
        "mlflow.note.content": "\n".join(lines)[:4000],
    }


def _log_numbers(client: Any, run_id: str, report: ScanReport, model: str) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    numbers = dict(report.measurements)
    if report.score is not None:
        numbers["score"] = report.score
    cost = asdict(report.cost)
    numbers |= {f"cost.{key}": value for key, value in cost.items() if key != "device"}
    params = {
        "model": model,
        "digest": report.model.digest,
        "arch": report.model.arch or "unknown",
        "policy": f"{report.policy.name} {report.policy.digest}",
        "seed": str(report.seed),
        "device": report.cost.device,
        "anchor": report.anchor.digest if report.anchor else "none",
        "probes": f"{report.probes.name} {report.probes.digest}" if report.probes else "none",
        "oracle": f"{report.oracle.name} {report.oracle.digest}" if report.oracle else "none",
        **{f"environment.{key}": value for key, value in report.environment.items()},
    }
    client.log_batch(
        run_id,
        metrics=[Metric(key, float(value), now, 0) for key, value in numbers.items()],
        params=[Param(key, str(value)[:5000]) for key, value in params.items()],
    )


def _log_quality(client: Any, run_id: str, result: "Rectification") -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    metrics = [
        Metric(f"{when}.{key}", float(value), now, 0)
        for when, quality in (("before", result.before), ("after", result.after))
        for key, value in _measured(quality).items()
    ]
    metrics += [Metric(f"proof.{c.id}", c.after, now, 0) for c in result.proof.checks]
    metrics.append(Metric("rectify.images_used", float(result.images_used), now, 0))
    client.log_batch(run_id, metrics=metrics, params=[Param("rectify.method", result.method)])


def _measured(quality: Quality) -> dict[str, float]:
    return {key: value for key, value in asdict(quality).items() if value is not None}
