"""Which images of a suspect folder are flagged, over every model of a lab's zoo?

    python tests/measure/suspects.py ZOO [--anchor] [--only GLOB]… [--seed N]

Planted models: folders of 64 judge images, every second one triggered; precision, recall and F1
over those that the model sends to the target (a triggered image that fools nobody counts for
neither), and F1 over all triggered ones. Clean models: three honest folders, of which anything
flagged is wrong: judge images as they are, half of them of one label, and half of them of one label
that no probe shows. `detect` alone runs, not the searches that need no suspect image.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import click
import torch

from gatekeeper.bench.subjects import read_zoo
from gatekeeper.bench.task import Task, Terms, runtime_of, work_of
from gatekeeper.bench.truth import has_image_trigger, judged, suspects
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.scan.suspect_images import SuspectImages

IMAGES = 64


class Silent:
    """In the place of the oracle, which names what flagged images show and flags none itself."""

    independent = True

    def grounded(self, pixels, runtime):
        return [()] * len(pixels)


@click.command()
@click.argument("zoo", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--anchor/--no-anchor", default=False)
@click.option("--only", multiple=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(zoo, anchor, only, seed):
    """Print a line a folder."""
    torch.set_num_threads(1)
    click.echo(f"{'model':<28} {'folder':<10} flagged  P     R     F1    F1 all  passes  proofs")
    for subject, name, case, marks, runtime in folders(zoo, only, anchor=anchor, seed=seed):
        tell(subject, case, name, marks, runtime)


def folders(zoo, only, *, anchor, seed):
    """Yield each folder: subject, kind, case with the folder, which images are triggered, runtime.

    An honest folder has no marks.
    """
    for subject in read_zoo(zoo).only(only).subjects:
        if subject.kind == "planted" and not has_image_trigger(subject):
            continue
        task = Task(
            bench="detect", method="gatekeeper", subject=subject,
            terms=Terms(anchor=anchor, seed=seed), budget=0,
        )  # fmt: skip
        runtime = runtime_of(task)
        case = replace(work_of(task, runtime).case, oracle=Silent())
        planted = triggered(subject, case, runtime) if has_image_trigger(subject) else ()
        for name, images, marks in planted or honest(subject, case, runtime):
            folder = replace(case, suspects=images)
            if name == "new label":
                kept = [i for i, label in enumerate(case.probes.labels()) if label not in marks]
                folder, marks = replace(folder, probes=case.probes.subset(kept)), ()
            yield subject, name, folder, marks, runtime


def triggered(subject, case, runtime):
    """Return the folder of a planted model."""
    hidden = suspects(subject, case, runtime)
    return (("triggered", hidden.images, hidden.triggered),)


def honest(subject, case, runtime):
    """Yield honest folders of a clean model; the last of a label that no probe shows."""
    judge = judged(subject, case.model, case.labels)
    draw = runtime.generator("measure", "honest", subject.name)
    order = torch.randperm(len(judge.truth), generator=draw)
    yield "as is", of(judge, order[:IMAGES].tolist()), ()
    commonest = Counter(t for t in judge.truth.tolist() if t >= 0).most_common(1)[0][0]
    mine = [i for i in order.tolist() if judge.truth[i] == commonest][: IMAGES // 2]
    rest = [i for i in order.tolist() if judge.truth[i] != commonest][: IMAGES // 2]
    images = of(judge, mine + rest)
    yield "one label", images, ()
    yield "new label", images, (case.labels[commonest],)


def of(judge, rows):
    probes = tuple(
        replace(judge.images.probes[row], file=f"{place:03d}-{judge.images.probes[row].file}")
        for place, row in enumerate(rows)
    )
    return ProbeSet(name="suspects", probes=probes)


def tell(subject, case, name, marks, runtime):
    """Scan one folder and print what was flagged."""
    before = runtime.meter.image_passes
    found = SuspectImages().detect(case, runtime)
    passes = runtime.meter.image_passes - before
    flagged, every, fooled = told_apart(subject, found, marks)
    proofs = "; ".join(f.message.removeprefix("images flagged for ") for f in found.findings)
    best = max((c.score for c in found.candidates), default=0.0)
    figures = " " * 26
    if marks:
        wrong = len(flagged - every)
        figures = " ".join(
            f"{x:.3f}" for x in (*scored(len(flagged & fooled), wrong, len(fooled)),
                                 scored(len(flagged & every), wrong, len(every))[2])
        )  # fmt: skip
    click.echo(
        f"{subject.name:<28} {name:<10} {len(flagged):>7}  {figures}  {passes:>6.0f}  "
        f"score {best:.2f} {proofs}"
    )


def told_apart(subject, found, marks):
    """Return which images are flagged, which triggered, and which of these fooled the model."""
    goals = {goal.label for goal in subject.goals}
    flagged = {i for i, s in enumerate(found.suspects) if s.flagged}
    every = {i for i, mark in enumerate(marks) if mark}
    return flagged, every, {i for i in every if found.suspects[i].claimed in goals}


def scored(right, wrong, wanted):
    """Return precision, recall and F1."""
    precision, recall = right / max(1, right + wrong), right / max(1, wanted)
    return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)


if __name__ == "__main__":
    main()
