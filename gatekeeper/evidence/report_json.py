"""What is in `report.json`, and how is it read back? Schema `gatekeeper.report/1`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gatekeeper.errors import GatekeeperError
from gatekeeper.evidence.records import dumps, from_plain, loads, schema_of, to_plain
from gatekeeper.types import Json, Proof, Quality, ScanReport

NAME = "gatekeeper.report/1"
MAX_CHARS = 64 * 1024 * 1024  # a report of 10,000 suspects takes 3 MB
_EXTRA = {"before": Quality, "after": Quality, "proof": Proof}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReport:
    """One `report.json`: the scan, and for `rectify` the model before and after."""

    report: ScanReport
    before: Quality | None = None
    after: Quality | None = None
    proof: Proof | None = None


def to_json(
    report: ScanReport,
    *,
    before: Quality | None = None,
    after: Quality | None = None,
    proof: Proof | None = None,
) -> str:
    """Return `report.json`: fields in contract order, mappings by key, one newline at the end.

    Equal reports give equal text. It holds no control character, whatever file names held.

    Raises:
        EvidenceError: A number is not finite.
    """
    plain = to_plain(report)
    if not isinstance(plain, dict):  # a dataclass is an object; said for the type checker
        raise TypeError("a report is an object")
    document: dict[str, Json] = {"schema": plain.pop("schema"), **plain}
    for name, record in zip(_EXTRA, (before, after, proof), strict=True):
        if record is not None:
            document[name] = to_plain(record, name)
    return dumps(document) + "\n"


def from_json(text: str, *, origin: str = "report") -> ScanReport:
    """Return the scan of a `report.json`, read to the letter; `origin` names it in errors.

    Raises:
        GatekeeperError: It is no report of this schema.
    """
    return read_report(text, origin=origin).report


def read_report(text: str, *, origin: str = "report") -> StoredReport:
    """Return all that a `report.json` holds, read to the letter.

    Raises:
        GatekeeperError: It is no report of this schema.
    """
    if len(text) > MAX_CHARS:
        raise GatekeeperError(
            f"{origin} has {len(text)} characters, at most {MAX_CHARS} are read",
            hint="give a report.json that `gatekeeper scan` wrote",
        )
    document = loads(text, origin=origin)
    if not isinstance(document, dict) or document.get("schema") != NAME:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise GatekeeperError(
            f"{origin} is of schema {str(found)[:80]!r}, expected {NAME!r}",
            hint="give a report.json that this release of `gatekeeper scan` wrote",
        )
    extra = {name: document.pop(name) for name in _EXTRA if name in document}
    records: dict[str, Any] = {
        name: from_plain(_EXTRA[name], value, f"{origin}.{name}") for name, value in extra.items()
    }
    return StoredReport(report=from_plain(ScanReport, document, origin), **records)


def report_schema() -> Mapping[str, Any]:
    """Return the JSON Schema of `report.json`, as published in `report.schema.json`."""
    body = schema_of(ScanReport)
    properties = {"schema": {"const": NAME}, **body["properties"]}
    properties["schema"] = {"const": NAME}
    properties["score"]["anyOf"][0] |= {"minimum": 0, "maximum": 1}
    properties |= {name: schema_of(kind) for name, kind in _EXTRA.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:gatekeeper:report:1",
        "title": "gatekeeper report",
        **body,
        "required": ["schema", *body["required"]],
        "properties": properties,
    }


SCHEMA: Mapping[str, Any] = report_schema()
