"""What does a bench leave behind in MLflow? One run with its numbers and its files, read back."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from gatekeeper.bench.detect import Plan
from gatekeeper.bench.report import files_of
from gatekeeper.gate.runs import EvidenceRun, evidence_run, log_files

MOST = 1000  # metrics a call


def log_bench(plan: Plan, document: Mapping[str, Any]) -> EvidenceRun:
    """Log one run of a bench; return it once every file was read back.

    Raises:
        EvidenceError: A part of it could not be stored.
    """
    from mlflow.entities import Metric, Param

    bench, zoo = document["bench"], document["zoo"]
    tags = {
        "gatekeeper.bench": str(bench),
        "gatekeeper.zoo": str(zoo["digest"]),
        "mlflow.note.content": f"`gatekeeper bench {bench}` over zoo {zoo['name']}: `bench.html`.",
    }
    with evidence_run(f"bench {bench}: {zoo['name']}", tags) as (mlflow, run):
        stamp = int(time.time() * 1000)
        metrics = [Metric(key, value, stamp, 0) for key, value in _numbers(document)]
        params = {
            "zoo": f"{zoo['name']} {zoo['digest']}",
            "models": len(document["models"]),
            "methods": ", ".join(method["name"] for method in document["methods"]),
            **{f"terms.{key}": value for key, value in document["terms"].items()},
            **{f"environment.{key}": value for key, value in document["environment"].items()},
        }
        plain = [Param(key, str(value)[:5000]) for key, value in params.items()]
        mlflow.log_batch(run.run_id, params=plain)
        for start in range(0, len(metrics), MOST):
            mlflow.log_batch(run.run_id, metrics=metrics[start : start + MOST])
        log_files(mlflow, run, files_of(plan.out))
    return run


def _numbers(document: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield (`METHOD.figure`, value) of everything over all models."""
    for row in document["tallies"]:
        if row.get("group", "all") == "all":
            yield from _flat(_name(str(row.get("method", row.get("oracle")))), row)
    for row in document.get("images", ()):
        yield from _flat(_name(str(row["method"])), row)
    for row in document["costs"]:
        yield from _flat(f"{_name(str(row['method']))}.cost", row)


def _flat(prefix: str, row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in row.items():
        if isinstance(value, dict):
            if "value" in value:
                yield f"{prefix}.{key}", float(value["value"])
            else:
                yield from _flat(f"{prefix}.{key}", value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}.{key}", float(value)


def _name(method: str) -> str:
    """Return the method as MLflow takes it in a metric's name."""
    return "".join(c if c.isalnum() or c in "_-. /" else "-" for c in method)
