"""What does a reviewer see? `report.html` and `validation.html`, self-contained pages."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from gatekeeper.types import Exhibit, Json, LabelRow, Quality, ScanReport, SearchStep


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPage:
    """Everything that `report.html` shows."""

    report: ScanReport
    exhibits: tuple[Exhibit, ...] = ()
    steps: tuple[SearchStep, ...] = ()
    label_rows: tuple[LabelRow, ...] = ()
    trigger_files: Mapping[str, bytes] = field(default_factory=dict)
    before: Quality | None = None
    after: Quality | None = None
    rescan: ScanReport | None = None


def report_page(page: ReportPage) -> str:
    """Return `report.html`."""
    return _environment().get_template("report.html.j2").render(page=page, report=page.report)


def validation_page(report: ScanReport, validation: Mapping[str, Json]) -> str:
    """Return `validation.html`: what Great Expectations answered, rule by rule."""
    return (
        _environment()
        .get_template("validation.html.j2")
        .render(report=report, validation=validation)
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gatekeeper.evidence"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"data_uri": _data_uri}
    environment.filters.update(filters)
    return environment


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
