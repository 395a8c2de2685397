"""Run the authors' own code beside our baselines, on the same models and images: both figures.

    python tests/measure/published.py --code CHECKOUTS --zoo ZOO --only NAME --only 'badnets-*'

CHECKOUTS is a folder with checkouts of the published code, under the names of their repositories:
DECREE, InverTune (needs the package pytorch-msssim), CleanCLIP, PerturbAndRecover,
BDetCLIP_badCLIP. One that is missing is left out. Their code is run: read it first. What it wants
and a small model on a CPU cannot give (a graphics card, checkpoints, data sets) is stood in for;
the losses, loops and scores are theirs. InverTune's code names the layers of a ResNet: it runs on
those alone. Prints a table.
"""

import sys
import time
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent))

from authors import beside

from gatekeeper.bench.subjects import read_zoo
from gatekeeper.bench.task import Task, Terms, runtime_of, work_of

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
METHODS = {
    "decree": ("DECREE", beside.decree),
    "bdetclip": ("BDetCLIP_badCLIP", beside.bdetclip),
    "cleanclip": ("CleanCLIP", beside.cleanclip),
    "par": ("PerturbAndRecover", beside.par),
    "invertune": ("InverTune", beside.invertune),
}


@click.command()
@click.option("--code", type=FOLDER, required=True, help="Holds checkouts of the published code.")
@click.option("--zoo", type=FOLDER, required=True, help="A zoo of `gatekeeper lab zoo`.")
@click.option("--only", multiple=True, help="Names of models, * allowed; default: all.")
@click.option("--method", "wanted", multiple=True, type=click.Choice(sorted(METHODS)))
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--epochs", type=int, default=1000, show_default=True, help="DECREE's, at most.")
@click.option("--steps", type=int, default=100, show_default=True, help="InverTune's, each stage.")
def main(code, zoo, only, wanted, seed, epochs, steps):
    """Print both figures of every method and model."""
    torch.set_num_threads(1)
    click.echo("| model | figure | authors' code | ours |\n|---|---|---|---|")
    limits = beside.Limits(seed=seed, epochs=epochs, steps=steps)
    for subject in read_zoo(zoo).only(only).subjects:
        terms = Terms(seed=seed)
        task = Task(bench="detect", method="decree", subject=subject, terms=terms, budget=1e12)
        runtime = runtime_of(task)
        work = work_of(task, runtime)
        for name in wanted or METHODS:
            folder, compare = METHODS[name]
            if not (code / folder).is_dir():
                click.echo(f"{folder} is not in {code}: left out", err=True)
                continue
            started = time.perf_counter()
            given = beside.Given(subject=subject, work=work, runtime=runtime, limits=limits)
            for figure, theirs, ours in compare(code / folder, given):
                click.echo(f"| {subject.name} | {name}: {figure} | {theirs} | {ours} |")
            click.echo(f"{name}: {time.perf_counter() - started:.0f} s", err=True)


if __name__ == "__main__":
    main()
