"""What the bytes alone tell: one finding per file and kind, with the evidence."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gatekeeper.types import Finding, Json, Severity

_SHOWN = 20  # names in a message; the evidence has all
_MAX_LISTED = 500


def of_files(reports: Mapping[str, Mapping[str, Any]]) -> tuple[Finding, ...]:
    """Return what the reader process found in each file, worst first."""
    found = [finding for name, report in reports.items() for finding in _of_file(name, report)]
    order = [Severity.CRITICAL, Severity.WARNING, Severity.INFO]
    return tuple(sorted(found, key=lambda f: order.index(f.severity)))


def make(
    kind: str, severity: Severity, message: str, subject: str = "", **evidence: Json
) -> Finding:
    """Return one finding of intake; `subject` makes its id unique and stable."""
    identity = f"intake.{kind}" + (f":{subject}" if subject else "")
    return Finding(id=identity, kind=kind, severity=severity, message=message, evidence=evidence)


def _of_file(name: str, report: Mapping[str, Any]) -> Iterator[Finding]:
    unsafe = list(dict.fromkeys(report["unsafe"]))
    if unsafe:
        yield make(
            "unsafe_load",
            Severity.CRITICAL,
            f"Loading {name} would call {listed(unsafe)}; nothing of it was run here.",
            name,
            file=name,
            globals=_json(unsafe),
        )
    broken = list(dict.fromkeys(report["broken"]))
    if broken:
        yield make(
            "malformed_file",
            Severity.CRITICAL,
            f"{name} is not what it claims to be: {listed(broken)}.",
            name,
            file=name,
            container=str(report["container"]),
            problems=_json(broken),
        )
    if report["classes"]:
        yield make(
            "pickle",
            Severity.INFO,
            f"{name} is a pickle of whole objects; its weights were read without it. Whoever "
            f"loads it imports {listed(report['classes'])}, whose code was not scanned.",
            name,
            file=name,
            classes=_json(report["classes"]),
        )


def listed(names: Sequence[str]) -> str:
    """Return names as one text, cut where there are many."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _json(names: Sequence[str]) -> list[Json]:
    return [str(name)[:200] for name in names[:_MAX_LISTED]]
