"""What does each part of our reading of EftCLIP's Algorithm 1 do? Suspect folders, part by part.

    python tests/measure/algorithm1.py ZOO [--only GLOB]… [--seed N]

Folders as in `suspects.py`: of planted models 64 judge images, every second one triggered; of clean
models three honest ones. Of every variant: precision and recall over the triggered images that the
model sends to the target, precision and recall of the labels that images were flagged for, clean
images flagged in honest folders, and passes. No anchor.
"""

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
from suspects import folders, told_apart

from gatekeeper.oracle.spec import build_segmenter
from gatekeeper.scan import occlusion, suspect_images
from gatekeeper.scan.folder import read_folder
from gatekeeper.scan.suspect_images import SuspectImages

SCALES = ("COARSE", "COARSE_STRIDE", "MIDDLE", "MIDDLE_STRIDE", "FINE", "FINE_STRIDE")


@dataclass(frozen=True)
class Variant:
    """Fields of the detector, and names of `suspect_images` and `occlusion` to be replaced."""

    fields: dict = field(default_factory=dict)
    names: dict = field(default_factory=dict)
    scales: tuple = ()  # of 224 px

    def detect(self, case, runtime):
        with ExitStack() as stack:
            for name, value in self.names.items():
                stack.enter_context(patch.object(suspect_images, name, value))
            for name, share in zip(SCALES, self.scales, strict=False):
                stack.enter_context(patch.object(occlusion, name, share / 224))
            return SuspectImages(**self.fields).detect(case, runtime)


def nothing(*_, **__):
    """Return no proof."""
    return


def no_readings(*_, **__):
    """Return no account of a doubt."""
    return ()


def not_occluded(pair, image, claim, before, runtime):
    """Return the coarse windows as if nothing were left of the claim under the best."""
    first, *rest = occlusion.coarse(pair, image, claim, before, runtime)
    other = first.answer if first.answer != claim else -1
    return [replace(first, drop=1.0, answer=other), *rest]


def segments(pair, image, claim, before, runtime):
    """Return the segmenter's regions, as boxes, in the place of windows."""
    drawn = (image.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    found = build_segmenter("regions").regions(drawn, runtime)
    boxes = [r.box for r in found if r.area_fraction <= 0.5] or [(0, 0, 1, 1)]
    return occlusion.occlude(pair, image, claim, before, boxes, runtime)


def as_found(pair, image, claim, before, start, runtime):
    """Return the region itself: nothing finer."""
    return [start]


def second(case, images, runtime):
    """Return the folder with what each image says second as its claim (k = 2)."""
    folder = read_folder(case, images, runtime)
    claims = folder.answers.topk(2, dim=1).indices[:, 1]
    return replace(folder, claims=tuple(claims.tolist()))


A_ALONE = {"whole_image": no_readings, "fixed_patch": nothing}
VARIANTS = {
    "as it ships": Variant(),
    "A alone: regions": Variant(names=A_ALONE),
    "B to E alone": Variant(fields={"drop": 2.0}, names={"fixed_patch": nothing}),
    "shared pixels alone": Variant(fields={"drop": 2.0}, names={"whole_image": no_readings}),
    "A, occlusion proof alone": Variant(
        fields={"carried": -1.0, "alone": -1.0, "common": 0.0}, names=A_ALONE
    ),
    "A, transfer proof alone": Variant(
        fields={"drop": -9.0}, names={**A_ALONE, "coarse": not_occluded}
    ),
    "A, without the test of what is left": Variant(fields={"unsure": 0.0}, names=A_ALONE),
    "A, half as many hosts": Variant(fields={"hosts": 3}, names=A_ALONE),
    "A, windows half as wide": Variant(scales=(40, 24, 24, 8, 16, 4), names=A_ALONE),
    "A, windows half as wide again": Variant(scales=(120, 52, 72, 24, 48, 12), names=A_ALONE),
    "A, one scale": Variant(names={**A_ALONE, "refine": as_found}),
    "A, the segmenter's regions": Variant(
        names={**A_ALONE, "coarse": segments, "refine": as_found}
    ),
    "second answers (k = 2)": Variant(names={"read_folder": second}),
}


@click.command()
@click.argument("zoo", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", multiple=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(zoo, only, seed):
    """Print a line a variant, over all models."""
    torch.set_num_threads(1)
    told = {name: defaultdict(int) for name in VARIANTS}
    for subject, kind, case, marks, runtime in folders(zoo, only, anchor=False, seed=seed):
        for name, variant in VARIANTS.items():
            count(told[name], variant, case, subject, marks, runtime)
        click.echo(f"  {subject.name}, {kind}", err=True)
    click.echo(f"{'variant':<38} images P   R     labels P  R     honest flagged  passes")
    for name, sums in told.items():
        click.echo(line(name, sums))


def count(sums, variant, case, subject, marks, runtime):
    """Add what `variant` makes of one folder."""
    before = runtime.meter.image_passes
    found = variant.detect(case, runtime)
    sums["passes"] += runtime.meter.image_passes - before
    sums["folders"] += 1
    flagged, every, fooled = told_apart(subject, found, marks)
    if not marks:
        sums["honest"] += len(flagged)
        return
    goals = {goal.label for goal in subject.goals}
    labels = {found.suspects[i].claimed for i in flagged}
    sums["right"] += len(flagged & fooled)
    sums["wrong"] += len(flagged - every)
    sums["fooled"] += len(fooled)
    sums["labels right"] += len(labels & goals)
    sums["labels"] += len(labels)
    sums["goals"] += len(goals)


def line(name, sums):
    """Return one variant's figures."""
    flagged = max(1, sums["right"] + sums["wrong"])
    precision, recall = sums["right"] / flagged, sums["right"] / max(1, sums["fooled"])
    named = sums["labels right"] / max(1, sums["labels"])
    met = sums["labels right"] / max(1, sums["goals"])
    passes = sums["passes"] / max(1, sums["folders"])
    return (
        f"{name:<38} {precision:>6.3f} {recall:>6.3f} {named:>8.3f} {met:>6.3f} "
        f"{sums['honest']:>12} {passes:>12.0f}"
    )


if __name__ == "__main__":
    main()
