"""Which models has a scan measured of which the truth is known? From bench rows and reports."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatekeeper.bench.subjects import Subject, Zoo
from gatekeeper.errors import EvidenceError
from gatekeeper.scan.calibration import STATISTICS, KnownModel

KINDS = ("clean", "planted")  # a universal perturbation in clean weights is neither


def read_known(
    folders: Iterable[Path], zoos: Sequence[Zoo] = ()
) -> tuple[list[KnownModel], dict[str, int]]:
    """Return the models found in `folders` (bench rows, report.json) and why others were left.

    A report says nothing of the truth: its model is looked up in `zoos` by digest. Of two scans
    of one model, with or without an anchor alike, the later in order counts.

    Raises:
        EvidenceError: Nothing can be used.
    """
    subjects = {s.digest: s for zoo in zoos for s in zoo.subjects}
    known: dict[tuple[str, bool], KnownModel] = {}
    left: dict[str, int] = {}
    for document in _documents(folders):
        found = _of_row(document) if "bench" in document else _of_report(document, subjects)
        if isinstance(found, KnownModel):
            known[found.digest, found.anchored] = found
        else:
            left[found] = left.get(found, 0) + 1
    if not known:
        raise EvidenceError(
            f"no scan of a known model was found ({left or 'no report.json, no rows'})",
            hint="name folders of `gatekeeper bench detect`, or reports with --zoo",
        )
    return list(known.values()), left


def _documents(folders: Iterable[Path]) -> Iterator[Mapping[str, Any]]:
    for folder in folders:
        for file in sorted(folder.rglob("*.json")):
            try:
                document = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if not isinstance(document, dict):
                continue
            ours = document.get("bench") == "detect" and document.get("method") == "gatekeeper"
            if ours or (file.name == "report.json" and "measurements" in document):
                yield document


def _of_row(row: Mapping[str, Any]) -> KnownModel | str:
    result = row["result"]
    if row["kind"] not in KINDS:
        return "neither clean nor planted"
    if row["error"] or result.get("score") is None:
        return "no answer"
    if not result.get("evidence"):
        return "a row of an earlier release, without evidence"
    return KnownModel(
        name=row["model"],
        digest=row["digest"],
        kind=row["kind"],
        family=row["family"] if row["kind"] == "planted" else "",
        base=row["base"],
        anchored=bool(result["anchored"]),
        statistics=_statistics(result["evidence"]),
    )


def _of_report(report: Mapping[str, Any], subjects: Mapping[str, Subject]) -> KnownModel | str:
    subject = subjects.get(report["model"]["digest"])
    if subject is None:
        return "a report of a model in no zoo"
    if subject.kind not in KINDS:
        return "neither clean nor planted"
    if report["score"] is None:
        return "no answer"
    prefix = "evidence."
    evidence = {
        name.removeprefix(prefix): value
        for name, value in report["measurements"].items()
        if name.startswith(prefix)
    }
    if not evidence:
        return "a report of an earlier release, without evidence"
    return KnownModel(
        name=subject.name,
        digest=subject.digest,
        kind=subject.kind,
        family=subject.family if subject.kind == "planted" else "",
        base=subject.base,
        anchored=report["anchor"] is not None,
        statistics=_statistics(evidence),
    )


def _statistics(evidence: Mapping[str, float]) -> dict[str, float]:
    return {name: float(evidence[name]) for name in STATISTICS if name in evidence}
