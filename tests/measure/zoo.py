"""Measure scan and rectify on a zoo of planted models, as a user would run them.

    python tests/measure/zoo.py scan     --zoo MODELS --anchor MODELS/base --photos PHOTOS
    python tests/measure/zoo.py suspects --zoo MODELS --anchor MODELS/base --photos PHOTOS \
                                         --suspects SUSPECTS
    python tests/measure/zoo.py rectify  --zoo MODELS --anchor MODELS/base --photos PHOTOS \
                                         --triggers TRIGGERS --targets name=label,…

MODELS: folders that `gatekeeper scan` reads. PHOTOS: images with labels.csv (`file,label`) and
labels.txt; even rows are the probes, odd rows judge. SUSPECTS/NAME and SUSPECTS/NAME.truth.json:
triggered and clean images and which is which. TRIGGERS/NAME/trigger.pt: the true triggers, used
for judging alone. Every figure comes from the `gatekeeper` command run in a process of its own.
"""

import csv
import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def gatekeeper(*arguments):
    """Run the command; return (exit code, stdout, seconds)."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | ALLOCATOR
    started = time.monotonic()
    done = subprocess.run(
        [Path(sys.executable).parent / "gatekeeper", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode not in (0, 1, 3):
        sys.stderr.write(done.stderr[-2000:])
    return done.returncode, done.stdout, time.monotonic() - started


def split(photos, into, *, parity, limit=None, ood=None):
    """Link every second photo into `into` with its own labels.csv."""
    rows = list(csv.DictReader((photos / "labels.csv").open()))[parity::2][:limit]
    into.mkdir(parents=True)
    with (into / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label"])
        writer.writeheader()
        for row in rows:
            (into / row["file"]).symlink_to((photos / row["file"]).resolve())
            writer.writerow({"file": row["file"], "label": row["label"]})
    return rows


def options(command):
    for option in (
        click.option("--zoo", type=click.Path(exists=True, path_type=Path), required=True),
        click.option("--anchor", type=click.Path(exists=True, path_type=Path)),
        click.option("--photos", type=click.Path(exists=True, path_type=Path), required=True),
        click.option("--only", default="", help="Names, by comma; default: all."),
        click.option("--limit", type=int, help="Probes used; default: every even row."),
        click.option("--seed", default=0),
    ):
        command = option(command)
    return command


def names(zoo, only):
    wanted = only.split(",") if only else []
    return [
        p.name for p in sorted(zoo.iterdir()) if p.is_dir() and (not wanted or p.name in wanted)
    ]


@click.group()
def main():
    """Measure on a zoo."""


@main.command()
@options
@click.option("--labels", type=click.Path(exists=True, path_type=Path))
@click.option("--without-anchor/--with-anchor-only", default=True)
@click.option("--odd", is_flag=True, help="Probe with the odd rows.")
def scan(zoo, anchor, photos, only, limit, seed, labels, without_anchor, odd):
    """Verdict, score, first target, passes and seconds of every model, with and without anchor."""
    with tempfile.TemporaryDirectory() as folder:
        probes = Path(folder) / "probes"
        split(photos, probes, parity=int(odd), limit=limit)
        base = ["--probes", probes, "--labels", labels or photos / "labels.txt", "--seed", seed]
        ways = [("none", [])] * without_anchor + [("base", ["--anchor", anchor])] * bool(anchor)
        click.echo(
            "model            anchor verdict       score target               passes seconds"
        )
        for name in names(zoo, only):
            for way, extra in ways:
                out = Path(folder) / "out"
                code, text, seconds = gatekeeper(
                    "scan", zoo / name, *base, *extra, "--format", "json", "--output", out
                )
                if code not in (0, 1, 3):
                    click.echo(f"{name:<16} {way:<6} exit {code}")
                    continue
                report = json.loads(text)
                score = "-" if report["score"] is None else f"{report['score']:.3f}"
                target = (report["targets"] or [{"label": "-"}])[0]["label"]
                click.echo(
                    f"{name:<16} {way:<6} {report['verdict']:<12} {score:>6} {target:<20} "
                    f"{report['cost']['image_passes']:>6.0f} {seconds:>7.0f}"
                )


@main.command()
@options
@click.option("--suspects", type=click.Path(exists=True, path_type=Path), required=True)
def suspects(zoo, anchor, photos, only, limit, seed, suspects):
    """Precision, recall and F1 of flagged images, against NAME.truth.json."""
    with tempfile.TemporaryDirectory() as folder:
        probes = Path(folder) / "probes"
        split(photos, probes, parity=0, limit=limit)
        click.echo(
            "model            anchor target               P     R     F1    F1-all  passes secs"
        )
        for truth_file in sorted(suspects.glob("*.truth.json")):
            name = truth_file.name.removesuffix(".truth.json")
            truth = json.loads(truth_file.read_text())
            for way, extra in (("none", []), ("base", ["--anchor", anchor])):
                out = Path(folder) / "out"
                code, text, seconds = gatekeeper(
                    *("scan", zoo / name, "--probes", probes, "--labels", photos / "labels.txt"),
                    *("--suspect", suspects / name, "--seed", seed, *extra),
                    *("--format", "json", "--output", out),
                )
                if code not in (0, 1, 3):
                    click.echo(f"{name:<16} {way:<6} exit {code}")
                    continue
                report = json.loads(text)
                flagged = {Path(s["file"]).name for s in report["suspects"] if s["flagged"]}
                fooled, every = set(), set()
                for file, fact in truth["images"].items():
                    if fact["triggered"]:
                        every.add(file)
                        if fact["predicted"] == truth["target"]:
                            fooled.add(file)
                right = len(flagged & fooled)
                # a triggered image that did not fool the model is neither a hit nor a false alarm
                wrong = len(flagged - every)
                precision = right / max(1, right + wrong)
                recall = right / max(1, len(fooled))
                f1 = 2 * precision * recall / max(1e-9, precision + recall)
                p_all = len(flagged & every) / max(1, len(flagged))
                r_all = len(flagged & every) / max(1, len(every))
                f1_all = 2 * p_all * r_all / max(1e-9, p_all + r_all)
                target = (report["targets"] or [{"label": "-"}])[0]["label"]
                click.echo(
                    f"{name:<16} {way:<6} {target:<20} {precision:.3f} {recall:.3f} {f1:.3f} "
                    f"{f1_all:.3f} {report['cost']['image_passes']:>8.0f} {seconds:>5.0f}"
                )


def stamp(state, pixels, seed=77):
    """Put a true trigger (its saved state) on pixels [N, 3, H, W]."""
    import torch

    from gatekeeper.triggers import Additive, Blend, Colour, Patch, Warp

    generator = torch.Generator().manual_seed(seed)
    if "where" in state:
        place = None if state["where"] == "rand" else corner(state, pixels)
        return Patch(pixels=state["pattern"], place=place).stamp(pixels, generator)
    if "alpha" in state and "pattern" in state:
        return Blend(pattern=state["pattern"], alpha=state["alpha"]).stamp(pixels)
    if "delta" in state:
        wave = torch.sin(2 * math.pi * torch.arange(224) * state["f"] / 224) * state["delta"]
        return Additive(delta=wave.expand(3, 224, 224).clone()).stamp(pixels)
    if "amp" in state:
        return Additive(delta=state["amp"] * state["pattern"]).stamp(pixels)
    if "matrix" in state:
        mixed = (1 - state["a"]) * torch.eye(3) + state["a"] * state["matrix"]
        return Colour(matrix=torch.cat([mixed, torch.zeros(3, 1)], dim=1)).stamp(pixels)
    if "grid" in state:
        grid = state["grid"][0]
        return Warp(field=grid / grid.abs().mean() * state["k"]).stamp(pixels)
    raise click.ClickException(f"unknown trigger state: {sorted(state)}")


def corner(state, pixels, margin=6):
    side, height, width = state["pattern"].shape[-1], *pixels.shape[-2:]
    places = {
        "bl": [margin, height - side - margin],
        "tl": [margin, margin],
        "tr": [width - side - margin, margin],
        "br": [width - side - margin, height - side - margin],
        "c": [(width - side) // 2, (height - side) // 2],
    }
    return places[state["where"]]


def judge(model_dir, photos, labels, state, target):
    """Return (right on clean [N] bool, attack success, true label kept under the trigger)."""
    import torch
    from PIL import Image

    from gatekeeper.intake.open import open_model
    from gatekeeper.runtime import Runtime

    runtime = Runtime()
    model = open_model(model_dir, uri=str(model_dir)).model
    rows = list(csv.DictReader((photos / "labels.csv").open()))[1::2]
    head = model.zero_shot(labels, ("a photo of a {}.", "{}", "a photo of the {}."), runtime)
    pixels = model.preprocess.batch([Image.open(photos / r["file"]) for r in rows])
    truth = [r["label"] for r in rows]

    def answers(x):
        return [labels[i] for i in (head.logits(model.embed(x, runtime))).argmax(1).tolist()]

    clean = torch.tensor([a == t for a, t in zip(answers(pixels), truth, strict=True)])
    if state is None:
        return clean, None, None
    keep = [i for i, t in enumerate(truth) if t != target]
    triggered = answers(stamp(state, pixels[keep]))
    success = sum(a == target for a in triggered) / len(keep)
    kept = sum(a == truth[i] for a, i in zip(triggered, keep, strict=True)) / len(keep)
    return clean, success, kept


def paired(before, after):
    """Return the mean difference and its 95 % interval, in points."""
    difference = (after.float() - before.float()) * 100
    half = 1.96 * difference.std().item() / math.sqrt(len(difference))
    return difference.mean().item(), half


def timed(*arguments):
    """Run the command; return (exit code, stderr, processor seconds, seconds)."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | ALLOCATOR
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [Path(sys.executable).parent / "gatekeeper", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, done.stderr, processor, time.monotonic() - started


@main.command()
@options
@click.option("--triggers", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--without-anchor/--with-anchor-only", default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the cleaned models here.")
@click.option(
    "--reports",
    type=click.Path(exists=True, path_type=Path),
    help="Earlier scans, NAME-none and NAME-base, or NAME for both; default: scan first.",
)
def rectify(zoo, anchor, photos, only, limit, seed, triggers, without_anchor, keep, reports):
    """Attack success and clean accuracy before and after, by the true trigger on odd rows."""
    import torch

    labels = list(dict.fromkeys((photos / "labels.txt").read_text().splitlines()))
    targets = json.loads((triggers / "manifest.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        probes = Path(folder) / "probes"
        split(photos, probes, parity=0, limit=limit)
        ways = [("none", [])] * without_anchor + [("base", ["--anchor", anchor])] * bool(anchor)
        click.echo(
            "model          anchor exit  attack success  true label kept  accuracy"
            "  change (95 %)  images  repair cpu s  all cpu s  wall s"
        )
        for name in names(zoo, only):
            file = triggers / name / "trigger.pt"
            if not file.exists():
                continue
            state = torch.load(file, weights_only=True)["trigger"][0]
            target = targets[name]["targets"][0]
            before, success, kept = judge(zoo / name, photos, labels, state, target)
            for way, extra in ways:
                out = (keep or Path(folder)) / f"{name}-{way}"
                code, told, processor, seconds = timed(
                    *("rectify", zoo / name, "--probes", probes, "--seed", seed, *extra),
                    *("--labels", photos / "labels.txt", "--format", "json", "--output", out),
                    *earlier(reports, name, way),
                )
                head = f"{name:<14} {way:<6} {code:>4}"
                if not (out / "model").exists():
                    click.echo(f"{head}  {success:.3f}  nothing written: {told[-300:]}")
                    continue
                used = re.search(r"(\d+) images, (\d+) s of processor time(.*)", told)
                images, repair, rounds = used.groups() if used else ("?", "?", "")
                after, left, right = judge(out / "model", photos, labels, state, target)
                change, half = paired(before, after)
                click.echo(
                    f"{head}  {success:.3f} -> {left:.3f}  {kept:.3f} -> {right:.3f}"
                    f"  {before.float().mean():.3f}  {change:+.1f} ± {half:.1f}"
                    f"  {images}  {repair}{rounds}  {processor:.0f}  {seconds:.0f}"
                )


def earlier(reports, name, way):
    """Return the --report option for a scan made before; empty where there is none."""
    for folder in (f"{name}-{way}", name) if reports else ():
        file = reports / folder / "report.json"
        if file.exists():
            return ("--report", file)
    return ()


if __name__ == "__main__":
    main()
