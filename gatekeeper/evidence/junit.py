"""How does a report become a test report? One case per rule, one for the verdict.

Valid under both schemas in use: Apache Ant's JUnit.xsd (strict order, system-out and -err
required) and the Jenkins xUnit plug-in's junit-10.xsd.
"""

from dataclasses import dataclass
from typing import ClassVar
from xml.etree import ElementTree as Xml

from gatekeeper.evidence.text import printable, xml_text
from gatekeeper.evidence.wording import headline, rule_sentence, weight
from gatekeeper.types import RuleResult, ScanReport, Severity, Verdict

_NO_TIME = "1970-01-01T00:00:00"


@dataclass(frozen=True, slots=True, kw_only=True)
class JUnit:
    """A broken critical rule is a failure, an inconclusive verdict an error, a warning skipped."""

    name: ClassVar[str] = "junit"

    def render(self, report: ScanReport) -> str:
        """Return the XML document."""
        suite = Xml.Element("testsuite")
        _properties(suite, report)
        cases = [_verdict_case(suite, report)]
        cases += [_rule_case(suite, rule, report) for rule in report.rules]
        out = "\n".join(printable(reason) for reason in report.reasons)
        Xml.SubElement(suite, "system-out").text = xml_text(out)
        Xml.SubElement(suite, "system-err").text = ""
        seconds = f"{max(report.cost.seconds, 0):.3f}"
        attributes = {
            "name": "gatekeeper",
            "package": "gatekeeper",
            "id": "0",
            "timestamp": _local(report.started),
            "hostname": "localhost",
            "tests": str(len(cases)),
            "failures": str(cases.count("failure")),
            "errors": str(cases.count("error")),
            "skipped": str(cases.count("skipped")),
            "time": seconds,
        }
        suite.attrib.update(attributes)
        root = Xml.Element("testsuites")
        root.append(suite)
        Xml.indent(root)
        body = Xml.tostring(root, encoding="unicode")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _properties(suite: Xml.Element, report: ScanReport) -> None:
    properties = Xml.SubElement(suite, "properties")
    told = {
        "verdict": report.verdict.value,
        "score": "" if report.score is None else f"{report.score:.6g}",
        "model": report.model.uri,
        "model.digest": report.model.digest,
        "policy": report.policy.name,
        "policy.digest": report.policy.digest,
        "seed": str(report.seed),
        **{f"measurement.{k}": f"{v:.6g}" for k, v in sorted(report.measurements.items())},
    }
    for name, value in told.items():
        Xml.SubElement(properties, "property", name=_text(name), value=_text(value))


def _verdict_case(suite: Xml.Element, report: ScanReport) -> str:
    case = _case(suite, "verdict")
    if report.verdict is Verdict.PASS:
        return "passed"
    kind = "failure" if report.verdict is Verdict.FAIL else "error"
    told = Xml.SubElement(case, kind, message=_text(headline(report)), type=report.verdict.value)
    told.text = xml_text("\n".join(printable(reason) for reason in report.reasons))
    return kind


def _rule_case(suite: Xml.Element, rule: RuleResult, report: ScanReport) -> str:
    case = _case(suite, f"rule {rule.id}")
    if rule.ok:
        return "passed"
    message = _text(rule_sentence(rule))
    if weight(rule, report) is not Severity.CRITICAL:
        lead = "not measured" if rule.observed is None else rule.severity.value
        Xml.SubElement(case, "skipped", message=f"{lead}: {message}")
        return "skipped"
    Xml.SubElement(case, "failure", message=message, type=rule.severity.value)
    return "failure"


def _case(suite: Xml.Element, name: str) -> Xml.Element:
    return Xml.SubElement(suite, "testcase", classname="gatekeeper", name=_text(name), time="0.000")


def _text(value: str) -> str:
    return xml_text(printable(value))


def _local(instant: str) -> str:
    """Return an instant as the schema wants it: seconds, no zone (ours are UTC)."""
    head = instant[:19]
    shape = "".join("0" if char.isdigit() and char.isascii() else char for char in head)
    return head if shape == "0000-00-00T00:00:00" else _NO_TIME
