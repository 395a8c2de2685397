"""`gatekeeper doctor`: what is installed, reachable and safe, and what to do about the rest."""

import json
from dataclasses import asdict

import click

from gatekeeper.cli import options

MARKS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@options.output_format
@click.pass_context
def command(ctx: click.Context, output_format: str) -> None:
    """Look at this installation, the server, the database, the policy and the evidence store."""
    from gatekeeper.cli.scan_options import home
    from gatekeeper.gate.doctor import State, examine

    checks = []
    for check in examine(home()):
        checks.append(check)
        if output_format == "table":
            mark = click.style(f"{check.state.value:<4}", fg=MARKS[check.state.value])
            click.echo(f"{mark}  {check.name:<14} {check.message}")
            if check.hint:
                click.echo(f"      {'':<14} → {check.hint}")
    if output_format == "json":
        click.echo(json.dumps({"checks": [asdict(check) for check in checks]}, indent=2))
    failed = [check for check in checks if check.state is State.FAIL]
    if any(check.service for check in failed):
        ctx.exit(4)
    ctx.exit(2 if failed else 0)
