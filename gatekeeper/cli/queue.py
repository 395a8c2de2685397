"""`gatekeeper queue`: scans that wait, run or failed."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gatekeeper.cli import options
from gatekeeper.errors import GateError

if TYPE_CHECKING:
    from gatekeeper.gate.db import Job


@click.group()
def command() -> None:
    """List scans that wait, try failed ones again, cancel them."""


@command.command("list")
@click.option("--all", "show_all", is_flag=True, help="Finished ones too.")
@click.option("--name", help="Only this registered model.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@options.database_option
@options.output_format
def list_jobs(
    show_all: bool, name: str | None, limit: int, database_uri: str | None, output_format: str
) -> None:
    """Show the queue, newest first."""
    from gatekeeper.gate import db

    with options.open_database(database_uri).reading() as connection:
        found = db.jobs(connection, limit, name=name)
    shown = [job for job in found if show_all or job.status not in ("done", "cancelled")]
    if output_format == "json":
        options.echo_json([asdict(job) for job in shown])
        return
    options.echo_table(
        ("job", "status", "model", "version", "wanted", "age", "tries", "worker", "error"),
        [_cells(job) for job in shown],
        "the queue is empty",
    )


@command.command()
@click.argument("job_id", type=int)
@options.database_option
def retry(job_id: int, database_uri: str | None) -> None:
    """Queue a failed or cancelled job again."""
    from gatekeeper.gate import db

    with options.open_database(database_uri).begin() as connection:
        number = db.retry_job(connection, job_id)
    if number is None:
        raise GateError(
            f"job {job_id} is neither failed nor cancelled",
            hint="see `gatekeeper queue list --all`",
        )
    click.echo(f"job {number} is queued")


@command.command()
@click.argument("job_id", type=int)
@options.database_option
def cancel(job_id: int, database_uri: str | None) -> None:
    """Take a job off the queue; a worker that runs it stops at its next heartbeat."""
    from gatekeeper.gate import db

    with options.open_database(database_uri).begin() as connection:
        cancelled = db.cancel_job(connection, job_id)
    if not cancelled:
        raise GateError(f"job {job_id} is not open", hint="see `gatekeeper queue list`")
    click.echo(f"job {job_id} is cancelled")


def _cells(job: "Job") -> tuple[object, ...]:
    from gatekeeper.gate.db import now_ms

    request = job.request
    wanted = request.want_alias or request.want_stage or request.want_name
    age = f"{(now_ms() - job.created_at) // 1000} s"
    tries = f"{job.attempts}/{job.max_attempts}"
    error = job.error and job.error.splitlines()[0][:80]
    version = (request.row.name, request.row.version)
    return (job.id, job.status, *version, wanted, age, tries, job.lease_owner, error)
