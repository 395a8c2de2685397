"""How does a report read in a terminal, in a code-scanning page, in a test report, in a CI log?"""

from typing import ClassVar, Protocol, runtime_checkable

from gatekeeper.errors import GatekeeperError
from gatekeeper.evidence.github import GitHub
from gatekeeper.evidence.junit import JUnit
from gatekeeper.evidence.report_json import to_json
from gatekeeper.evidence.sarif import Sarif
from gatekeeper.evidence.table import Table
from gatekeeper.registry import Registry
from gatekeeper.types import ScanReport


@runtime_checkable
class Reporter(Protocol):
    """A plug-in of group `gatekeeper.reporters`: frozen dataclass, one method, no I/O.

    Labels and file names in a report come from outside: what a reader of the format would obey
    (escape sequences, markup, line breaks) must be escaped.
    """

    name: ClassVar[str]

    def render(self, report: ScanReport) -> str:
        """Return the report as text."""
        ...


class Json:
    """`report.json` itself: exactly one document."""

    name: ClassVar[str] = "json"

    def render(self, report: ScanReport) -> str:
        """Return the report as `gatekeeper.report/1`."""
        return to_json(report)


_BUILT_IN: dict[str, type[Reporter]] = {
    "table": Table,
    "json": Json,
    "sarif": Sarif,
    "junit": JUnit,
    "github": GitHub,
}
FORMATS = tuple(_BUILT_IN)
"""The formats that come with the package."""


def render(report: ScanReport, format: str, *, colour: bool = False, width: int = 80) -> str:
    """Return `report` in `format`, without a last newline: one of `FORMATS` or a plug-in's name.

    Args:
        report: The scan.
        format: `table`, `json`, `sarif` (2.1.0), `junit`, `github` (workflow commands), …
        colour: Whether `table` may use terminal colours.
        width: Columns of `table`, at least 40.

    Raises:
        GatekeeperError: No such format.
    """
    if format == Table.name:
        return Table(colour=colour, width=max(width, 40)).render(report).rstrip("\n")
    if format in _BUILT_IN:
        return _BUILT_IN[format]().render(report).rstrip("\n")
    plugins: Registry[Reporter] = Registry("gatekeeper.reporters")
    if format not in plugins.names():
        known = ", ".join((*FORMATS, *plugins.names()))
        raise GatekeeperError(f"no report format '{format}'", hint=f"choose one of: {known}")
    return plugins.load(format)().render(report).rstrip("\n")
