"""`gatekeeper worker`: take scans off the queue."""

import click

from gatekeeper.cli import options


@click.command()
@click.option("--once", is_flag=True, help="End when no job is waiting.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Scans at a time, each in a process of its own.",
)
@click.option(
    "--executor",
    type=click.Choice(["local"]),
    default="local",
    show_default=True,
    help="Where scans run.",
)
@click.option(
    "--poll",
    "poll_s",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    help="Seconds between looks at an empty queue.",
)
@options.device
@click.pass_context
def command(
    ctx: click.Context, once: bool, concurrency: int, executor: str, poll_s: float, device: str
) -> None:
    """Scan what waits for a decision, rectify what the policy says, record what was found.

    Needs the registry's database (GATEKEEPER_DATABASE_URI) and the MLflow server
    (MLFLOW_TRACKING_URI). Ctrl-C or SIGTERM hands the job at hand back to the queue.
    """
    from gatekeeper.cli.extras import require_scan

    require_scan("worker")

    from gatekeeper.cli.progress import progress
    from gatekeeper.gate.crew import Orders, run_crew, serve, threads_for

    orders = Orders(
        once=once,
        poll_s=poll_s,
        device=device,
        say=say,
        progress=progress,
        threads=threads_for(concurrency),
    )
    ctx.exit(serve(orders) if concurrency == 1 else run_crew(orders, concurrency))


def say(line: str) -> None:
    """Tell people on stderr."""
    click.echo(line, err=True)
