"""`gatekeeper rectify`: make a cleaned version of a failed model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatekeeper.cli.scan_options import ScanArguments, scan_options
from gatekeeper.cli.terminal import colour, width
from gatekeeper.types import Verdict

if TYPE_CHECKING:
    from gatekeeper.pipeline import Rectification


@click.command()
@click.argument("model")
@click.option(
    "--report",
    "report_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="report.json of an earlier scan; without it, MODEL is scanned first.",
)
@click.option("--method", default="auto", show_default=True, help="auto, or a rectifier's name.")
@click.option("--register", metavar="NAME", help="Register the cleaned model under NAME.")
@click.option("--force", is_flag=True, help="Rectify though the scan passes.")
@scan_options
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("gatekeeper-rectified"),
    show_default=True,
    help="Where the cleaned model and its evidence go.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    report_file: Path | None,
    method: str,
    register: str | None,
    force: bool,
    output_format: str,
    no_mlflow: bool,
    output: Path,
    **typed: Any,
) -> None:
    """Make a cleaned version of MODEL; the original is never touched."""
    from gatekeeper.cli.extras import require_scan

    require_scan("rectify")
    arguments = ScanArguments(**typed)
    policy = arguments.policy()
    runtime = arguments.runtime(policy)

    from gatekeeper.evidence.formats import render
    from gatekeeper.gate.tracking import log_local_rectification, register_cleaned
    from gatekeeper.pipeline import assess, recall, rectify

    with arguments.request(policy) as request:
        earlier = report_file is not None
        found = recall(request, report_file, runtime) if report_file else assess(request, runtime)
        if found.verdict is not Verdict.FAIL and not force:
            click.echo(render(found.report, output_format, colour=colour(), width=width()))
            _say(_nothing_to_do(found.verdict, earlier))
            ctx.exit(0 if found.verdict is Verdict.PASS else 3)
        result = rectify(found, runtime, output, method=method)
        if not no_mlflow:
            log_local_rectification(result, model=arguments.model, say=_say)
        if register and result.passed:
            version = register_cleaned(result, name=register, rectified_from=found.report.model)
            _say(f"Registered {register} version {version}.")
    click.echo(render(result.report, output_format, colour=colour(), width=width()))
    _say(_summary(result))
    if result.prompts is not None:
        _say(f"Cleaned prompts: {result.prompts}")
    _say(f"Cleaned model: {result.model}\nReport: {output / 'report.html'}")
    if not result.passed:
        _say(f"Kept as evidence, not registered: {result.why_not}")
    ctx.exit(0 if result.passed else 1)


def _nothing_to_do(verdict: Verdict, earlier: bool) -> str:
    source = "the report" if earlier else "the scan"
    if verdict is Verdict.PASS:
        return f"Nothing to rectify: {source} passes. Use --force to rectify all the same."
    return f"Nothing rectified: {source} is inconclusive, so it is not known what to remove."


def _summary(result: "Rectification") -> str:
    """Return what the repair came to, as three lines."""
    before, after = result.before, result.after
    figures = (
        f"found trigger's attack success {_change(before.attack_success, after.attack_success)}",
        f"clean accuracy {_change(before.clean_accuracy, after.clean_accuracy)}",
    )
    rounds = f" in {result.rounds} rounds" if result.rounds > 1 else ""
    return (
        f"Repair: {', '.join(figures)} (on images kept aside)\n"
        f"{_proof(result)}\n"
        f"{result.images_used} images, {result.cpu_seconds:.0f} s of processor time{rounds}"
    )


def _proof(result: "Rectification") -> str:
    checks, failed = result.proof.checks, result.proof.failed
    held = f"Proof: {len(checks) - len(failed)} of {len(checks)} checks held"
    if result.after.rebound is None:
        return held
    steps = result.proof.rebound[-1].at
    return f"{held}, attack success at most {result.after.rebound:.1%} in {steps:.0f} clean steps"


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "unknown"
    return f"{before:.1%} -> {after:.1%}"


def _say(line: str) -> None:
    click.echo(line, err=True)
