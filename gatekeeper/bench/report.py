"""One run as one document: what was measured on what, all digests, every row."""

import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gatekeeper.bench import oracle, rectify, tally
from gatekeeper.bench.baselines import catalogue
from gatekeeper.bench.cliptrace import write_submission
from gatekeeper.bench.detect import Plan
from gatekeeper.bench.page import bench_page
from gatekeeper.bench.rows import Row
from gatekeeper.lab.manifest import write_whole
from gatekeeper.pipeline.assess import environment

SCHEMA = "gatekeeper.bench/1"


def write_report(bench: str, plan: Plan, rows: Sequence[Row], started: str) -> dict[str, Any]:
    """Write `bench.json`, `bench.html` and, for detection, `cliptrace/METHOD/`; return the JSON.

    Raises:
        OSError: A file cannot be written.
    """
    document = document_of(bench, plan, rows, started)
    plan.out.mkdir(parents=True, exist_ok=True)
    if bench == "detect":
        for method in dict.fromkeys(row.method for row in rows):
            if method.partition(":")[0] in catalogue.MODELS:
                folder = plan.out / "cliptrace" / method.replace(":", "-").replace("=", "-")
                write_submission([row for row in rows if row.method == method], folder)
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_whole(plan.out / "bench.json", text)
    write_whole(plan.out / "bench.html", bench_page(document))
    return document


def files_of(out: Path) -> dict[str, Path]:
    """Return what a run leaves behind, by the name it is logged under."""
    named = ("bench.json", "bench.html")
    files = {name: out / name for name in named if (out / name).is_file()}
    for path in sorted((out / "cliptrace").rglob("*.zip")):
        files[path.relative_to(out).as_posix()] = path
    return files


def document_of(bench: str, plan: Plan, rows: Sequence[Row], started: str) -> dict[str, Any]:
    """Return the whole run, plain; embeddings stay in the rows' own files."""
    zoo, terms = plan.zoo, plan.terms
    return {
        "schema": SCHEMA,
        "bench": bench,
        "zoo": {"name": zoo.name, "digest": zoo.digest},
        "terms": dataclasses.asdict(terms),
        "methods": [_method(bench, spec) for spec in plan.methods],
        "models": [
            {
                "name": s.name, "kind": s.kind, "digest": s.digest, "base": s.base,
                "architecture": s.architecture, "attack": s.attack, "family": s.family,
                "anchor": s.anchor_digest if terms.anchor else None,
                "images": s.images.digest, "targets": [goal.label for goal in s.goals],
            }
            for s in zoo.subjects
        ],
        **_summary(bench, rows, terms.seed),
        "costs": [dataclasses.asdict(cost) for cost in tally.costs(rows)],
        "rows": [_row(row) for row in rows],
        "environment": environment(),
        "started": started,
        "finished": now(),
    }  # fmt: skip


def now() -> str:
    """Return the time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _summary(bench: str, rows: Sequence[Row], seed: int) -> dict[str, Any]:
    if bench == "rectify":
        return {
            "tallies": [dataclasses.asdict(t) for t in rectify.repair_tallies(rows, seed)],
            "compared": {
                method: {key: dataclasses.asdict(gap) for key, gap in gaps.items()}
                for method, gaps in rectify.repair_compared(rows, seed).items()
            },
        }
    if bench == "oracle":
        return {"tallies": [dataclasses.asdict(t) for t in oracle.oracle_tallies(rows, seed)]}
    return {
        "tallies": [dataclasses.asdict(t) for t in tally.tallies(rows, seed)],
        "compared": {k: dataclasses.asdict(v) for k, v in tally.compared(rows, seed).items()},
        "curves": {k: dataclasses.asdict(v) for k, v in tally.curves(rows).items()},
        "images": [dataclasses.asdict(t) for t in tally.image_tallies(rows, seed)],
        "adversarial": {k: dataclasses.asdict(v) for k, v in tally.called_backdoors(rows).items()},
    }


def _method(bench: str, spec: str) -> dict[str, Any]:
    if bench == "oracle":
        return {"name": spec, "source": "", "parameters": {}}
    groups = (catalogue.REPAIRS,) if bench == "rectify" else (catalogue.MODELS, catalogue.SAMPLES)
    method = catalogue.build(spec, *groups)
    return {"name": spec, "source": method.source, "parameters": catalogue.parameters(method)}


def _row(row: Row) -> dict[str, Any]:
    plain = dataclasses.asdict(row)
    for key in ("embedding", "scores", "triggered", "image_flags", "clean_hits", "attack_hits"):
        plain["result"].pop(key, None)
    return plain
