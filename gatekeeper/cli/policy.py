"""`gatekeeper policy`: the policy as the gate sees it, checked, and tried on stored reports."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gatekeeper.evidence.text import printable
from gatekeeper.types import Verdict

if TYPE_CHECKING:
    from gatekeeper.pipeline.replay import Replay
    from gatekeeper.policy.schema import Policy

_VARIABLE = "GATEKEEPER_POLICY"
_EXIT_STATUS = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}
_WORST_FIRST = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
_policy_option = click.option(
    "--policy", "source", metavar="FILE", help="Policy file or name; default: the shipped one."
)


@click.group()
def command() -> None:
    """Show, check and try out policies."""


@command.command()
@click.argument("source", metavar="[POLICY]", required=False)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of policy files instead.")
@click.option("--format", "style", type=click.Choice(["yaml", "json"]), default="yaml")
def show(source: str | None, schema: bool, style: str) -> None:
    """Print POLICY (file or shipped name) with every default written out."""
    from gatekeeper.policy.schema import Policy

    if schema:
        click.echo(json.dumps(Policy.json_schema(), indent=2, ensure_ascii=False))
        return
    policy = _load(source)
    plain = policy.model_dump(mode="json")
    if style == "json":
        click.echo(json.dumps({"digest": policy.digest, "policy": plain}, indent=2))
        return
    import yaml

    click.echo(f"# digest {policy.digest}")
    click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100), nl=False)


@command.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate(files: tuple[Path, ...]) -> None:
    """Check policy FILES; exit 2 at the first that is not valid."""
    from gatekeeper.policy.schema import load_policy

    for file in files:
        policy = load_policy(file)
        click.echo(f"{file}: valid, {len(policy.rules)} rules, {policy.mode}, {policy.digest}")


@command.command()
@click.argument("reports", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@_policy_option
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table")
@click.pass_context
def test(ctx: click.Context, reports: tuple[Path, ...], source: str | None, style: str) -> None:
    """Evaluate a policy over stored REPORTS: report.json files, or folders of them.

    The exit code is that of the worst verdict.
    """
    from gatekeeper.cli.extras import require_scan

    require_scan("policy test")
    from gatekeeper.pipeline.replay import replay

    told = replay(_load(source), reports)
    if style == "json":
        click.echo(json.dumps([_row(one) for one in told], indent=2))
    else:
        for one in told:
            row = _row(one)
            was = f" (was {row['was']})" if one.flipped else ""
            click.echo(f"{row['verdict']:<13}{row['file']}{was}")
            click.echo(f"{'':13}{row['reason']}")
    worst = min((one.verdict for one in told), key=_WORST_FIRST.index)
    ctx.exit(_EXIT_STATUS[worst])


def _row(one: "Replay") -> dict[str, str]:
    """Return what is told of one report; its strings are escaped, they come from a file."""
    return {
        "file": printable(str(one.file)),
        "verdict": one.verdict.value,
        "was": one.report.verdict.value,
        "reason": printable(one.evaluation.reasons[0]),
    }


def _load(source: str | None) -> "Policy":
    from gatekeeper.policy.schema import load_policy

    return load_policy(source or os.environ.get(_VARIABLE))
