"""What does a reviewer see? `report.html` and `validation.html`, self-contained pages."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from gatekeeper.evidence import wording
from gatekeeper.evidence.charts import bar, gauge, icon
from gatekeeper.evidence.pictures import Album, box_style
from gatekeeper.evidence.records import dumps, to_plain
from gatekeeper.evidence.report_json import to_json
from gatekeeper.evidence.text import printable
from gatekeeper.types import (
    Exhibit,
    Json,
    LabelRow,
    Proof,
    Quality,
    Reply,
    RuleResult,
    ScanReport,
    SearchStep,
    SuspectImage,
    TriggerRecord,
)

ROWS = 150  # of long tables; the rest is in report.json
FRAMES = 12  # of one search's film strip, evenly spaced, the last among them
RAW_CHARS = 200_000  # a longer report.json lies beside the page only


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
    proof: Proof | None = None
    replies: tuple[Reply, ...] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pictured:
    """A record with its pictures as `data:` URIs; None: it lies beside the page alone."""

    record: Any
    pictures: tuple[Markup | None, ...]
    frames: tuple[str | None, ...] = ()  # CSS of the box, by picture


def report_page(page: ReportPage) -> str:
    """Return `report.html`: one file, below 3 MB, that asks the network for nothing.

    Every string of the report is escaped, and invisible characters in it are spelled out.
    """
    album = Album()
    report = page.report
    raw = to_json(report, before=page.before, after=page.after, proof=page.proof)
    rows = sorted(page.label_rows, key=_label_order)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=page,
            report=report,
            triggers=[_trigger(record, page, album) for record in report.triggers],
            exhibits=[_exhibit(exhibit, album) for exhibit in page.exhibits],
            films=_films(page.steps, album),
            label_rows=rows[:ROWS],
            more_labels=max(len(rows) - ROWS, 0),
            suspects=sorted(report.suspects, key=_suspect_order)[:ROWS],
            more_suspects=max(len(report.suspects) - ROWS, 0),
            decisive=_score_rule(report),
            compared=_compared(report),
            changes=_changes(page),
            replies=[_reply(reply, album) for reply in page.replies],
            repeat=wording.repeat_command(report),
            next=wording.next_step(report, page.rescan, page.refused),
            raw=_embedded(raw) if len(raw) <= RAW_CHARS else None,
        )
    )


def validation_page(report: ScanReport, validation: Mapping[str, Json]) -> str:
    """Return `validation.html`: what Great Expectations answered, expectation by expectation."""
    results = validation.get("results")
    items = (
        [item for item in results if isinstance(item, dict)] if isinstance(results, list) else []
    )
    return (
        _environment()
        .get_template("validation.html.j2")
        .render(
            report=report,
            validation=validation,
            items=sorted((_answer(item) for item in items), key=lambda row: row["order"]),
            raw=_embedded(dumps(to_plain(validation, "validation"))),
        )
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gatekeeper.evidence"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_final,
    )
    environment.filters.update(
        percent=wording.percent,
        number=wording.number,
        bound=wording.bound,
        state=wording.rule_state,
        size=wording.size,
        duration=wording.duration,
        pretty=_pretty,
    )
    environment.globals.update(gauge=gauge, bar=bar, icon=icon, headline=wording.headline)
    return environment


def _final(value: Any) -> Any:
    """Spell out what is invisible in every string that a template prints (then it is escaped)."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _trigger(record: TriggerRecord, page: ReportPage, album: Album) -> _Pictured:
    png = page.trigger_files.get(record.files.get("picture", ""), b"")
    return _Pictured(record=record, pictures=(album.exact(png),))


def _exhibit(exhibit: Exhibit, album: Album) -> _Pictured:
    pair = (exhibit.clean_png, exhibit.triggered_png)
    return _Pictured(
        record=exhibit,
        pictures=tuple(album.photo(png) for png in pair),
        frames=(None, box_style(exhibit.box, exhibit.triggered_png)),
    )


def _reply(reply: Reply, album: Album) -> _Pictured:
    pair = (reply.clean_png, reply.triggered_png)
    return _Pictured(record=reply, pictures=tuple(album.photo(png) for png in pair))


def _films(steps: tuple[SearchStep, ...], album: Album) -> dict[str, list[_Pictured]]:
    searches: dict[str, list[SearchStep]] = {}
    for step in steps:
        searches.setdefault(step.search, []).append(step)
    films: dict[str, list[_Pictured]] = {}
    for search, taken in searches.items():
        count = min(len(taken), FRAMES)
        chosen = {round(i * (len(taken) - 1) / max(count - 1, 1)) for i in range(count)}
        films[search] = [
            _Pictured(record=taken[i], pictures=(album.photo(taken[i].picture_png, 112),))
            for i in sorted(chosen)
        ]
    return films


def _label_order(row: LabelRow) -> tuple[int, float, str]:
    return ({"target": 0, "victim": 1}.get(row.role, 2), -row.flip_rate, row.label)


def _suspect_order(image: SuspectImage) -> tuple[bool, float, str]:
    return (not image.flagged, -image.score, image.file)


def _score_rule(report: ScanReport) -> RuleResult | None:
    """Return the rule that bounds the score from above, for the gauge's mark."""
    for rule in report.rules:
        if rule.metric == "backdoor.score" and rule.op in {"<=", "<"} and 0 <= rule.value <= 1:
            return rule
    return None


def _compared(report: ScanReport) -> tuple[float, float] | None:
    """Return the flip rate of this model and of the anchor, where they were paired."""
    rate = report.measurements.get("trigger.flip_rate")
    paired = report.measurements.get("trigger.paired_flip_rate")
    if report.anchor is None or rate is None or paired is None:
        return None
    return rate, min(max(rate - paired, 0.0), 1.0)


def _changes(page: ReportPage) -> list[tuple[str, float | None, float | None, bool]]:
    """Return (what, before, after, whether more is better) for the table of a repair."""
    if page.before is None or page.after is None:
        return []
    told = (
        ("Attack success", "attack_success", False),
        ("Clean accuracy", "clean_accuracy", True),
        ("Triggered images that get their true label back", "recovered_accuracy", True),
        ("Same answer as the suspect on clean images", "agreement", True),
        ("Attack success after clean fine-tuning of the result", "rebound", False),
    )
    rows = [(w, getattr(page.before, f), getattr(page.after, f), good) for w, f, good in told]
    return [row for row in rows if row[1] is not None or row[2] is not None]


def _embedded(raw: str) -> Markup:
    """Return JSON that no browser can take for markup."""
    return Markup(raw.replace("<", "\\u003c").replace("&", "\\u0026"))  # noqa: S704


def _pretty(value: Any) -> Markup:
    text = json.dumps(to_plain(value, "evidence"), indent=1, ensure_ascii=False)
    return escape("\n".join(printable(line) for line in text.split("\n")))


def _answer(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return one expectation as a row: what was asked, of what, the answer."""
    config = item.get("expectation_config") or {}
    meta = config.get("meta") or {}
    observed = (item.get("result") or {}).get("observed_value")
    parts = ("present", "not null")
    part = str(meta.get("part", ""))
    return {
        "order": (str(meta.get("rules")), parts.index(part) if part in parts else len(parts)),
        "ok": item.get("success") is True,
        "type": str(config.get("type", "")),
        "metric": str(meta.get("metric", "")),
        "part": part,
        "bound": meta.get("bound"),
        "rules": ", ".join(str(rule) for rule in meta.get("rules") or ()),
        "observed": observed if isinstance(observed, int | float) else None,
        "result": item.get("result") or {},
    }
