"""`gatekeeper promote`: scan a registered version, rectify it if need be, and move the alias."""

from typing import TYPE_CHECKING

import click

from gatekeeper.cli import options

if TYPE_CHECKING:
    from gatekeeper.gate.job_run import Workshop
    from gatekeeper.gate.promote import Promotion


@click.command()
@click.argument("model")
@click.option("--alias", metavar="A", help="Alias that the version is to carry.")
@click.option("--stage", metavar="S", help="Stage that the version is to move to.")
@click.option("--to", "copy_to", metavar="NAME", help="Copy the version into this model first.")
@click.option("--wait", is_flag=True, help="Scan here or wait for a worker, then promote.")
@click.option(
    "--accept-rectified", is_flag=True, help="If it is refused, promote its cleaned version."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=3600.0,
    show_default=True,
    help="Seconds to wait for a worker.",
)
@options.device
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    alias: str | None,
    stage: str | None,
    copy_to: str | None,
    wait: bool,
    accept_rectified: bool,
    timeout_s: float,
    device: str,
) -> None:
    """Promote MODEL (models:/NAME/VERSION) through the gate.

    With --wait it is scanned in this process where the scanner is installed, the registry's
    database is within reach and no worker has the job; else a worker is waited for.
    """
    if not (alias or stage or copy_to):
        raise click.UsageError("say what to promote to: --alias, --stage or --to")

    from gatekeeper.gate.client import connect
    from gatekeeper.gate.moves import Names
    from gatekeeper.gate.promote import Asked, promote
    from gatekeeper.gate.settings import Settings
    from gatekeeper.gate.state import find_source

    client = connect()
    asked = Asked(
        uri=model,
        names=Names(alias=alias, stage=stage, copy_to=copy_to),
        wait=wait,
        accept_rectified=accept_rectified,
        timeout_s=timeout_s,
        shop=_shop(device) if wait else None,
    )
    source = find_source(Settings.from_environment().policy.digest)
    result = promote(asked, source, client=client, say=_say)
    _tell(result)
    ctx.exit(result.exit_code)


def _shop(device: str) -> "Workshop | None":
    """Return what scans in this process, None where the scanner or the database is not at hand."""
    from dataclasses import replace

    from gatekeeper.cli.extras import SCAN, missing
    from gatekeeper.cli.progress import progress
    from gatekeeper.errors import GatekeeperError
    from gatekeeper.gate.worker import open_workshop
    from gatekeeper.runtime import tune_allocator

    if missing(SCAN):
        return None
    tune_allocator()  # before torch is imported
    try:
        return replace(open_workshop(device=device, say=_say), progress=progress)
    except GatekeeperError:
        return None


def _tell(result: "Promotion") -> None:
    state = result.state
    if state.verdict:
        score = "" if state.score is None else f", backdoor score {state.score:.2f}"
        click.echo(f"Verdict: {state.verdict}{score}")
        for reason in state.reasons[:5]:
            click.echo(f"  - {reason}")
    if state.cleaned:
        click.echo(f"Cleaned version: {state.cleaned}")
    if result.run_url:
        click.echo(f"Evidence: {result.run_url}")
    click.echo(result.message)


def _say(line: str) -> None:
    click.echo(line, err=True)
