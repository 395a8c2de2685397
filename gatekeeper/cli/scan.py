"""`gatekeeper scan`: judge a model, no server needed."""

from pathlib import Path
from typing import Any

import click

from gatekeeper.cli.scan_options import EXIT_STATUS, ScanArguments, scan_options
from gatekeeper.cli.terminal import colour, width


@click.command()
@click.argument("model")
@scan_options
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("gatekeeper-report"),
    show_default=True,
    help="Where the report goes.",
)
@click.pass_context
def command(
    ctx: click.Context, /, output_format: str, no_mlflow: bool, output: Path, **typed: Any
) -> None:
    """Scan MODEL (folder, file or MLflow URI) and say whether policy lets it through."""
    from gatekeeper.cli.extras import require_scan

    require_scan("scan")
    arguments = ScanArguments(**typed)
    policy = arguments.policy()
    runtime = arguments.runtime(policy)

    from gatekeeper.evidence.formats import render
    from gatekeeper.gate.tracking import log_local_scan
    from gatekeeper.pipeline import assess, write

    with arguments.request(policy) as request:
        assessment = assess(request, runtime)
        bundle = write(assessment, output)
        if not no_mlflow:
            log_local_scan(assessment, bundle, model=arguments.model, say=_say)
    click.echo(render(assessment.report, output_format, colour=colour(), width=width()))
    _say(f"Report: {output / 'report.html'}")
    ctx.exit(EXIT_STATUS[assessment.verdict])


def _say(line: str) -> None:
    click.echo(line, err=True)
