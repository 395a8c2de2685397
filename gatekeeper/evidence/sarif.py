"""How does a report become code-scanning results? SARIF 2.1.0 (OASIS standard)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar
from urllib.parse import quote

from gatekeeper import __version__
from gatekeeper.evidence.records import dumps, to_plain
from gatekeeper.evidence.text import printable
from gatekeeper.evidence.wording import headline, rule_sentence, weight
from gatekeeper.types import Finding, Json, ScanReport, Severity, Verdict

_LEVEL = {Severity.CRITICAL: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"  # a name; nothing is fetched
_INCONCLUSIVE = "verdict/inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sarif:
    """Broken rules and all findings as results; an inconclusive verdict is one of its own."""

    name: ClassVar[str] = "sarif"

    def render(self, report: ScanReport) -> str:
        """Return the SARIF log."""
        results = _results(report)
        driver: dict[str, Json] = {
            "name": "gatekeeper",
            "version": __version__,
            "semanticVersion": __version__,
            "rules": _rules(report),
        }
        run: dict[str, Json] = {
            "tool": {"driver": driver},
            "invocations": [_invocation(report)],
            "artifacts": [_artifact(report)],
            "results": results,
            "columnKind": "unicodeCodePoints",
            "properties": {
                "verdict": report.verdict.value,
                "score": report.score,
                "policy": to_plain(report.policy),
                "model": {"uri": report.model.uri, "digest": report.model.digest},
                "measurements": to_plain(report.measurements),
                "seed": report.seed,
            },
        }
        return dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}) + "\n"


def _results(report: ScanReport) -> list[Json]:
    told: list[Json] = []
    if report.verdict is Verdict.INCONCLUSIVE:
        told.append(_result(report, _INCONCLUSIVE, "error", headline(report), None))
    for rule in report.rules:
        if not rule.ok:
            level = _LEVEL[weight(rule, report)]
            told.append(_result(report, f"rule/{rule.id}", level, rule_sentence(rule), None))
    for finding in report.findings:
        level = _LEVEL[finding.severity]
        told.append(_result(report, f"finding/{finding.kind}", level, finding.message, finding))
    return told


def _result(
    report: ScanReport, rule_id: str, level: str, message: str, finding: Finding | None
) -> Json:
    name = printable(rule_id, at_most=200)
    key = "\0".join([report.model.digest, rule_id, finding.id if finding else ""])
    fingerprint = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return {
        "ruleId": name,
        "level": level,
        "message": {"text": printable(message, at_most=1000)},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(report, finding)}}}],
        "partialFingerprints": {"gatekeeper/v1": fingerprint},
        "properties": {"evidence": to_plain(finding.evidence)} if finding else {},
    }


def _rules(report: ScanReport) -> list[Json]:
    """Return a descriptor for every rule id that `_results` can use, once."""
    told: dict[str, Mapping[str, Json]] = {}
    for rule in report.rules:
        told[f"rule/{rule.id}"] = _descriptor(
            f"rule/{rule.id}",
            f"{rule.metric} {rule.op} {rule.value:g}",
            rule.why or "A rule of the policy.",
            _LEVEL[rule.severity],
        )
    for finding in report.findings:
        name = f"finding/{finding.kind}"
        about = f"What the scan found of kind {finding.kind}."
        told.setdefault(name, _descriptor(name, finding.kind, about, _LEVEL[finding.severity]))
    if report.verdict is Verdict.INCONCLUSIVE:
        told[_INCONCLUSIVE] = _descriptor(
            _INCONCLUSIVE,
            "The scan could not decide",
            "Too little was evaluated: no verdict is never a pass.",
            "error",
        )
    return [dict(item) for item in told.values()]


def _descriptor(name: str, short: str, full: str, level: str) -> dict[str, Json]:
    return {
        "id": printable(name, at_most=200),
        "shortDescription": {"text": printable(short)},
        "fullDescription": {"text": printable(full)},
        "defaultConfiguration": {"level": level},
    }


def _invocation(report: ScanReport) -> Json:
    told: dict[str, Json] = {"executionSuccessful": report.verdict is not Verdict.INCONCLUSIVE}
    for name, instant in (("startTimeUtc", report.started), ("endTimeUtc", report.finished)):
        utc = _utc(instant)
        if utc:
            told[name] = utc
    return told


def _artifact(report: ScanReport) -> Json:
    told: dict[str, Json] = {"location": {"uri": _uri(report, None)}}
    scheme, _, digest = report.model.digest.partition(":")
    if scheme == "sha256" and digest:
        told["hashes"] = {"sha-256": digest}
    return told


def _uri(report: ScanReport, finding: Finding | None) -> str:
    """Return a valid URI reference: the model's, with the file a finding speaks of."""
    name = report.model.uri
    file = finding.evidence.get("file") if finding else None
    if isinstance(file, str) and file:
        name = f"{name.rstrip('/')}/{file}"
    return quote(name.encode("utf-8", "surrogatepass"), safe="/:@") or "model"


def _utc(instant: str) -> str | None:
    try:
        moment = datetime.fromisoformat(instant)
    except ValueError:
        return None
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
