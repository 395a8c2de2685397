"""`gatekeeper bench`: judge detectors, repairs and oracles over a zoo."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatekeeper.cli import options

if TYPE_CHECKING:
    from gatekeeper.bench.detect import Plan
    from gatekeeper.bench.rows import Row

_OPTIONS = (
    click.option("--anchor/--no-anchor", default=True, show_default=True, help="For every method."),
    click.option("--only", multiple=True, metavar="GLOB", help="Only models of this name."),
    click.option(
        "--output",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where results go; an unfinished run there goes on.  [default: gatekeeper-bench-…]",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option(
        "--jobs",
        type=click.IntRange(min=0),
        default=1,
        show_default=True,
        help="Processes, one a result; 0: all in this one.",
    ),
    options.device,
    options.output_format,
    click.option("--no-mlflow", is_flag=True, help="Log no MLflow run."),
)
_baselines = click.option(
    "--baselines",
    default="all",
    show_default=True,
    metavar="NAMES",
    help="Beside ours: all, none, or NAME[:FIELD=VALUE+…],…",
)
_budget = click.option(
    "--budget",
    type=click.IntRange(min=1),
    help="Image passes a baseline may make of a model.  [default: as many as ours made]",
)
_oracle = click.option("--oracle", default="regions", show_default=True, metavar="SPEC")


@click.group()
def command() -> None:
    """Judge detectors, repairs and oracles over a ZOO beside what others published.

    ZOO is a folder that `gatekeeper lab zoo` made, or your own with models.csv (docs/bench.md).
    """


def _shared(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        function = option(function)
    zoo = click.argument("zoo", type=click.Path(exists=True, file_okay=False, path_type=Path))
    return zoo(function)


@command.command()
@_shared
@_baselines
@_budget
@_oracle
def detect(baselines: str, **typed: Any) -> None:
    """Say which planted models each detector finds, and which clean ones it accuses."""
    _run("detect", baselines, typed)


@command.command()
@_shared
@_baselines
@_budget
@_oracle
@click.option(
    "--post-steps",
    type=click.IntRange(min=0),
    default=300,
    show_default=True,
    help="Clean fine-tuning steps after a repair, while the backdoor's return is watched.",
)
def rectify(baselines: str, **typed: Any) -> None:
    """Say which repair takes the backdoor away, at what price, and whether it stays away."""
    _run("rectify", baselines, typed)


@command.command()
@_shared
@click.option(
    "--oracle", "specs", multiple=True, default=("regions",), show_default=True, metavar="SPEC"
)
def oracle(specs: tuple[str, ...], **typed: Any) -> None:
    """Say what an oracle finds and misses on clean and on triggered images; repeat --oracle.

    Beside the SPECs of a scan, `influencer`: a poisoned segmenter and a clean one, trained here.
    """
    _run("oracle", "", typed, specs)


def _run(bench: str, baselines: str, typed: dict[str, Any], specs: tuple[str, ...] = ()) -> None:
    from gatekeeper.cli.extras import require_scan
    from gatekeeper.runtime import Runtime, tune_allocator

    require_scan(f"bench {bench}")
    tune_allocator()  # before torch is imported
    from gatekeeper.bench.baselines import catalogue
    from gatekeeper.bench.detect import Plan
    from gatekeeper.bench.report import now, write_report
    from gatekeeper.bench.subjects import read_zoo
    from gatekeeper.bench.task import Terms

    groups = {
        "detect": (catalogue.MODELS, catalogue.SAMPLES),
        "rectify": (catalogue.REPAIRS,),
    }
    plan = Plan(
        zoo=read_zoo(typed["zoo"]).only(typed["only"]),
        methods=specs or catalogue.chosen(baselines, *groups[bench]),
        terms=Terms(
            anchor=typed["anchor"],
            seed=typed["seed"],
            device=Runtime.on(typed["device"]).device,
            oracle=typed.get("oracle", "regions"),
            budget=typed.get("budget"),
            in_process=typed["jobs"] == 0,
            post_steps=typed.get("post_steps", 0),
        ),
        jobs=typed["jobs"],
        out=typed["output"] or Path(f"gatekeeper-bench-{bench}"),
    )
    started = now()
    document = write_report(bench, plan, _rows(bench, plan), started)
    if typed["output_format"] == "json":
        click.echo(json.dumps(document, indent=2))
    else:
        _tell(document)
    _say(f"Report: {plan.out / 'bench.html'}")
    _log(plan, document, wanted=not typed["no_mlflow"])


def _rows(bench: str, plan: "Plan") -> "tuple[Row, ...]":
    if bench == "rectify":
        from gatekeeper.bench.rectify import bench_rectify

        return bench_rectify(plan, _say)
    if bench == "oracle":
        from gatekeeper.bench.oracle import bench_oracle

        return bench_oracle(plan, _say)
    from gatekeeper.bench.detect import detect as bench_detect

    return bench_detect(plan, _say)


def _log(plan: "Plan", document: dict[str, Any], *, wanted: bool) -> None:
    if not wanted:
        return
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        _say("No MLflow run was logged: MLFLOW_TRACKING_URI is not set.")
        return
    from gatekeeper.bench.tracking import log_bench

    _say(f"MLflow run: {log_bench(plan, document).url}")


def _tell(document: dict[str, Any]) -> None:
    from gatekeeper.bench.page import lead_of
    from gatekeeper.bench.terminal import table_of
    from gatekeeper.cli.options import echo_table

    heads, rows = table_of(document)
    echo_table(heads, rows, "nothing was measured")
    click.echo(lead_of(document))


def _say(line: str) -> None:
    click.echo(line, err=True)
