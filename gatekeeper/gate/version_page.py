"""What a model version's page in the MLflow UI says of it: tags and one block of the description.

For display alone; nothing here is ever read back as truth. Links, not pictures: the UI drops
`data:` images. The block stands between two marks, the rest of the description is its owner's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from gatekeeper.gate.db.records import Attempt, DecisionRecord
from gatekeeper.types import Verdict

MAX_BLOCK = 3500  # the column holds 5,000 on PostgreSQL; the owner's text needs room too
MAX_ATTEMPTS = 8
_HEADLINE = {
    Verdict.PASS: "passed",
    Verdict.FAIL: "failed",
    Verdict.INCONCLUSIVE: "inconclusive",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything the block tells."""

    decision: DecisionRecord
    run_path: str | None  # "#/experiments/…/runs/…" inside any MLflow server
    attempts: Sequence[Attempt] = ()  # newest first
    cleaned: str | None = None  # models:/NAME/VERSION of the cleaned version
    rectified_from: str | None = None  # the MODEL that this one was cleaned from
    note: str = ""  # e.g. why there is no cleaned version


def display_tags(page: Page) -> dict[str, str]:
    """Return the `gatekeeper.*` tags of the version."""
    decision = page.decision
    tags = {
        "gatekeeper.verdict": str(decision.verdict),
        "gatekeeper.score": "" if decision.score is None else f"{decision.score:.4f}",
        "gatekeeper.scan_run": decision.run_id or "",
        "gatekeeper.policy": f"{decision.policy_name} {decision.policy_digest}",
        "gatekeeper.digest": decision.model_digest,
    }
    if page.rectified_from:
        tags["gatekeeper.rectified_from"] = page.rectified_from
    return tags


def display_block(page: Page) -> str:
    """Return the block in Markdown, at most 3,500 characters; the trail is cut before the rest."""
    head = _head(page)
    for shown in range(min(len(page.attempts), MAX_ATTEMPTS), 0, -1):
        block = "\n".join([*head, *_trail(page.attempts[:shown])])
        if len(block) <= MAX_BLOCK:
            return block
    return "\n".join(head)[:MAX_BLOCK]


def _head(page: Page) -> list[str]:
    decision = page.decision
    score = "" if decision.score is None else f", backdoor score {decision.score:.2f}"
    lines = [f"### Gatekeeper: {_HEADLINE[decision.verdict]}{score}", ""]
    lines += [f"- {escape(reason, 240)}" for reason in decision.reasons[:5]]
    if decision.targets:
        lines.append(f"- Target: **{escape(decision.targets[0], 80)}**")
    if page.cleaned:
        lines.append(f"- Cleaned version: {version_link(page.cleaned)}")
    if page.rectified_from:
        lines.append(f"- Cleaned from {version_link(page.rectified_from)}")
    if page.note:
        lines.append(f"- {escape(page.note, 240)}")
    lines.append("")
    if page.run_path:
        report = f"{page.run_path}/artifacts/report.html"
        lines += [f"[Report]({report}) · [evidence run]({page.run_path})", ""]
    until = "never" if decision.expires_at is None else _day(decision.expires_at)
    lines += [
        f"Policy `{decision.policy_name}` `{decision.policy_digest[:19]}` · "
        f"bytes `{decision.model_digest[:19]}` · decided {_minute(decision.decided_at)} · "
        f"expires {until}",
        "",
    ]
    return lines


def _trail(attempts: Sequence[Attempt]) -> list[str]:
    lines = [
        "#### Attempts at protected names",
        "",
        "| when (UTC) | who | what | version | answer |",
        "|---|---|---|---|---|",
    ]
    for attempt in attempts:
        what = f"{attempt.action} {attempt.alias_or_stage or ''}".strip()
        cells = (
            _minute(attempt.at),
            escape(attempt.who or "anonymous", 40),
            escape(what, 60),
            str(attempt.version or ""),
            attempt.decision,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def version_link(uri: str) -> str:
    """Return a Markdown link to the page of `models:/NAME/VERSION` in the same UI."""
    name, _, version = uri.removeprefix("models:/").rpartition("/")
    if not name or not version.isdigit():
        return f"`{escape(uri, 200)}`"
    address = f"#/models/{quote(name, safe='')}/versions/{version}"
    return f"[{escape(name, 80)} version {version}]({address})"


def escape(text: str, most: int) -> str:
    """Return `text` as one plain line of Markdown: labels and names come from outside."""
    line = " ".join(text.split())
    if len(line) > most:
        line = line[: most - 1] + "…"
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>|#!" else letter for letter in line)


def _minute(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _day(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%d")
