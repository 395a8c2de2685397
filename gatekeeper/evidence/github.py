"""How does a report become annotations in a GitHub Actions log?"""

from dataclasses import dataclass
from typing import ClassVar

from gatekeeper.evidence.text import printable
from gatekeeper.evidence.wording import headline, rule_sentence, weight
from gatekeeper.types import ScanReport, Severity, Verdict

_LEVEL = {Verdict.PASS: "notice", Verdict.FAIL: "error", Verdict.INCONCLUSIVE: "error"}
_SEVERITY = {Severity.CRITICAL: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GitHub:
    """Workflow commands: the verdict first, since a step shows ten annotations of a level."""

    name: ClassVar[str] = "github"

    def render(self, report: ScanReport) -> str:
        """Return one `::level title=…::message` line per statement."""
        lines = [
            _command(
                _LEVEL[report.verdict],
                f"gatekeeper: {report.verdict.value}",
                f"{report.model.uri}: {headline(report)}",
            )
        ]
        lines += [
            _command(_SEVERITY[weight(rule, report)], f"rule {rule.id}", rule_sentence(rule))
            for rule in report.rules
            if not rule.ok
        ]
        lines += [
            _command(_SEVERITY[finding.severity], f"finding {finding.kind}", finding.message)
            for finding in report.findings
        ]
        return "\n".join(lines) + "\n"


def _command(level: str, title: str, message: str) -> str:
    """Return one workflow command; a line break in it would start another one."""
    head = _escaped(printable(title, at_most=120)).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={head}::{_escaped(printable(message))}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
