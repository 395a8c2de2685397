"""How does a report read in a terminal? Verdict and why first; no meaning lies in colour alone."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table as Grid
from rich.text import Text

from gatekeeper.evidence.text import printable
from gatekeeper.evidence.wording import (
    bound,
    duration,
    headline,
    next_step,
    number,
    percent,
    rule_state,
    short,
)
from gatekeeper.types import RuleResult, ScanReport, Verdict

_STYLE = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.INCONCLUSIVE: "yellow"}
_RULE_WORDS = {
    "ok": ("ok", "green"),
    "broken": ("BROKEN", "bold red"),
    "warning": ("warns", "yellow"),
    "missing": ("missing", "yellow"),
}
_SHOWN = 8  # rows of long lists; the rest is counted and lies in report.html


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The terminal format; `width` in columns."""

    colour: bool = False
    width: int = 80

    name: ClassVar[str] = "table"

    def render(self, report: ScanReport) -> str:
        """Return the report as text, with colour codes if asked."""
        buffer = io.StringIO()
        console = Console(
            file=buffer,
            width=self.width,
            force_terminal=self.colour,
            color_system="standard" if self.colour else None,
            highlight=False,
            emoji=False,
            markup=False,
            legacy_windows=False,
        )
        for block in _blocks(report):
            console.print(block)
        return "\n".join(line.rstrip() for line in buffer.getvalue().split("\n")).rstrip("\n")


def _blocks(report: ScanReport) -> Iterable[RenderableType]:
    yield _banner(report)
    yield from _why(report)
    yield from _triggers(report)
    yield from _victims(report)
    yield from _suspects(report)
    yield _heading("Policy rules")
    yield _rules(report.rules)
    yield from _findings(report)
    yield _heading("Rests on")
    yield _provenance(report)
    step = next_step(report)
    yield Padding(Text(f"Next: {step.sentence}"), (1, 0, 0, 0))
    if step.command:
        yield Text(f"  {step.command}", style="bold")


def _banner(report: ScanReport) -> RenderableType:
    style = _STYLE[report.verdict]
    grid = Grid.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    score = "no score" if report.score is None else f"backdoor score {number(report.score)}"
    left = Text.assemble(
        (f" {report.verdict.value.upper()} ", f"bold {style} reverse"),
        ("  " + printable(report.model.uri, at_most=60), "bold"),
    )
    grid.add_row(left, Text(score, style=style))
    return grid


def _why(report: ScanReport) -> Iterable[RenderableType]:
    yield Padding(Text(printable(headline(report)), style="bold"), (1, 0, 0, 2))
    for reason in report.reasons[1:]:
        yield _item(printable(reason))


def _item(text: str) -> RenderableType:
    grid = Grid.grid(padding=(0, 1))
    grid.add_column(width=3, justify="right")
    grid.add_column(ratio=1)
    grid.add_row("-", Text(text))
    return grid


def _triggers(report: ScanReport) -> Iterable[RenderableType]:
    if not report.triggers:
        return
    yield _heading("Triggers")
    grid = _grid("trigger", "kind", "leads to", "flips:r", "oracle agrees:r")
    for record in report.triggers[:_SHOWN]:
        grid.add_row(
            _cell(record.id),
            _cell(f"{record.family}, {record.tower}"),
            _cell(record.target),
            percent(record.flip_rate),
            percent(record.oracle_agrees),
        )
    yield grid
    yield from _more(len(report.triggers))


def _victims(report: ScanReport) -> Iterable[RenderableType]:
    if not report.victims:
        return
    yield _heading("Labels led away")
    told = [f"{printable(v.label, at_most=40)} {percent(v.flip_rate)}" for v in report.victims]
    yield Padding(Text(", ".join(told[:_SHOWN])), (0, 0, 0, 2))
    yield from _more(len(report.victims))


def _suspects(report: ScanReport) -> Iterable[RenderableType]:
    if not report.suspects:
        return
    flagged = [s for s in report.suspects if s.flagged]
    yield _heading(f"Suspect images: {len(flagged)} of {len(report.suspects)} flagged")
    if not flagged:
        return
    grid = _grid("file", "model says", "oracle sees", "score:r")
    for image in sorted(flagged, key=lambda s: (-s.score, s.file))[:_SHOWN]:
        seen = ", ".join(image.grounded) or "nothing it knows"
        grid.add_row(_cell(image.file), _cell(image.claimed), _cell(seen), number(image.score))
    yield grid
    yield from _more(len(flagged))


def _rules(rules: Sequence[RuleResult]) -> RenderableType:
    grid = _grid("", "rule", "measurement", "observed:r", "asked")
    for rule in rules:
        state = rule_state(rule)
        word, style = _RULE_WORDS[state]
        observed = "-" if rule.observed is None else number(rule.observed)
        grid.add_row(
            Text(word, style=style),
            _cell(rule.id),
            _cell(rule.metric),
            Text(observed, style=style),
            bound(rule),
        )
    return grid


def _findings(report: ScanReport) -> Iterable[RenderableType]:
    if not report.findings:
        return
    yield _heading("Findings")
    for finding in report.findings[:_SHOWN]:
        yield _item(
            f"{finding.severity.value} {printable(finding.kind)}: {printable(finding.message)}"
        )
    yield from _more(len(report.findings))


def _provenance(report: ScanReport) -> RenderableType:
    cost = report.cost
    passes = f"{cost.image_passes:,.0f} image and {cost.text_passes:,.0f} text passes"
    memory = f"{cost.peak_rss_mb:,.0f} MB"
    rows = [
        ("model", f"{report.model.arch or 'architecture unknown'}, {short(report.model.digest)}"),
        (
            "anchor",
            f"{report.anchor.uri}, {short(report.anchor.digest)}" if report.anchor else "none",
        ),
        ("policy", f"{report.policy.name}, {short(report.policy.digest)}"),
        (
            "probes",
            f"{report.probes.name}, {short(report.probes.digest)}" if report.probes else "none",
        ),
        (
            "oracle",
            f"{report.oracle.name}, {short(report.oracle.digest)}" if report.oracle else "none",
        ),
        (
            "curves",
            f"{report.calibration.name}, {short(report.calibration.digest)}"
            if report.calibration
            else "none",
        ),
        ("seed", str(report.seed)),
        ("cost", f"{duration(cost.seconds)}, {passes}, {memory}, {cost.device}"),
    ]
    grid = Grid.grid(padding=(0, 2))
    grid.add_column(width=8, style="dim")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(f"  {name}", _cell(value, at_most=200))
    return grid


def _heading(text: str) -> RenderableType:
    return Padding(Rule(Text(text, style="bold"), align="left", style="dim"), (1, 0, 0, 0))


def _grid(*columns: str) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for column in columns:
        name, _, side = column.partition(":")
        grid.add_column(name, justify="right" if side else "left", header_style="dim")
    return grid


def _more(count: int) -> Iterable[RenderableType]:
    if count > _SHOWN:
        yield Text(f"  and {count - _SHOWN} more in report.html", style="dim")


def _cell(text: str, at_most: int = 60) -> Text:
    return Text(printable(text, at_most=at_most))
