"""`gatekeeper status`: the compliance trail on a terminal."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gatekeeper.cli import options

if TYPE_CHECKING:
    from gatekeeper.gate.overview import Overview


@click.command()
@click.option("--name", help="Only this registered model.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@options.database_option
@options.output_format
def command(name: str | None, limit: int, database_uri: str | None, output_format: str) -> None:
    """Show what carries a protected name, who tried to promote what, and what waits."""
    from gatekeeper.gate.overview import look
    from gatekeeper.gate.settings import Settings

    database = options.open_database(database_uri)
    found = look(database, Settings.from_environment(), name=name, limit=limit)
    if output_format == "json":
        options.echo_json(_document(found))
    else:
        _print(found)


def _print(found: "Overview") -> None:
    policy = found.settings.policy
    click.echo(f"Policy {policy.name} {policy.digest[:19]}, mode {found.settings.mode.value}\n")
    click.secho("Protected names", bold=True)
    options.echo_table(
        ("model", "name", "version", "verdict", "score", "decided"),
        [(h.name, f"{h.kind} {h.label}", h.version, *_verdict(h.decision)) for h in found.held],
        "none is in use",
    )
    click.secho("\nAttempts", bold=True)
    options.echo_table(
        ("when", "who", "action", "model", "name", "version", "decision", "reason"),
        [
            (
                options.when(a.at),
                a.who,
                a.action,
                a.name,
                a.alias_or_stage,
                a.version,
                a.decision,
                a.reason[:100],
            )
            for a in found.attempts
        ],
        "none yet",
    )
    waiting = [job for job in found.jobs if job.status in ("queued", "running", "failed")]
    click.secho("\nQueue", bold=True)
    click.echo(f"{len(waiting)} waiting, running or failed: see `gatekeeper queue list`")


def _verdict(decision: object) -> tuple[object, object, object]:
    from gatekeeper.gate.db import DecisionRecord

    if not isinstance(decision, DecisionRecord):
        return "unknown", None, None
    score = None if decision.score is None else f"{decision.score:.2f}"
    return decision.verdict.value, score, options.when(decision.decided_at)


def _document(found: "Overview") -> dict[str, object]:
    policy = found.settings.policy
    return {
        "policy": {"name": policy.name, "digest": policy.digest, "mode": found.settings.mode.value},
        "protected": [asdict(held) for held in found.held],
        "attempts": [asdict(attempt) for attempt in found.attempts],
        "decisions": [
            {"name": one.name, "version": one.version, **asdict(one.record)}
            for one in found.decisions
        ],
        "jobs": [asdict(job) for job in found.jobs],
    }
