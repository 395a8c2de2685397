"""How well does the oracle ground labels on photos? The tables of docs/oracle.md.

    python tests/oracle/measure.py --model MODEL --photos DIR [--labels FILE] [--count 80]

MODEL is any folder that a scan reads; DIR holds images and labels.csv. Even images calibrate, odd
ones judge, clean and with stamps drawn here.
"""

# ruff: noqa: T201 - a script that answers on the terminal

import argparse
from pathlib import Path

import torch

from gatekeeper.intake.open import open_model
from gatekeeper.oracle.cache import OracleCache
from gatekeeper.oracle.ground import Oracle
from gatekeeper.oracle.spec import build_segmenter
from gatekeeper.probes.load import load_labels, load_probes
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Blend, Patch


def report(oracle, pixels, truth, what, runtime):
    """Print how often true and other labels are present."""
    present = oracle.present(pixels, runtime).float()
    true = present[range(len(pixels)), truth]
    others = (present.sum() - true.sum()) / (present.numel() - len(true))
    print(f"{what:20} true present {true.mean():.3f}, others {others:.4f}", flush=True)


def main():
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="default: those of the photos")
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--oracle", default="regions")
    parser.add_argument("--alone", action="store_true", help="the labeler is the suspect itself")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runtime, photos = Runtime(), load_probes(options.photos)
    names = options.labels and load_labels(options.labels).labels
    labels = names or tuple(dict.fromkeys(x for x in photos.labels() if x))
    order = torch.randperm(len(photos) // 2, generator=torch.Generator().manual_seed(0)).tolist()
    clean = photos.subset([2 * i for i in order[: options.count]])
    judged = photos.subset([2 * i + 1 for i in order[: options.count]])
    model = open_model(options.model, uri=str(options.model)).model
    oracle = Oracle(
        segmenter=build_segmenter(options.oracle),
        labeler=model,
        independent=not options.alone,
        labels=labels,
        templates=("a photo of a {}.",),
        cache=OracleCache(options.cache),
    ).calibrate(clean, runtime)
    pixels = judged.pixels(model.preprocess)
    truth = torch.tensor([labels.index(x) for x in judged.labels()])
    report(oracle, pixels, truth, "clean", runtime)
    generator = torch.Generator().manual_seed(0)
    stamps = {
        "noise patch 20 px": Patch(pixels=torch.rand(3, 20, 20, generator=generator)),
        "noise blended 0.2": Blend(pattern=torch.rand(3, 28, 28, generator=generator)),
    }
    for name, stamp in stamps.items():
        triggered = stamp.stamp(pixels, generator)
        report(oracle, triggered, truth, name, runtime)
        changed = oracle.changed(pixels, triggered, runtime).float().mean()
        print(f"{name:20} changed {changed:.3f}", flush=True)
    other = oracle.changed(pixels, pixels.roll(1, 0), runtime).float().mean()
    print(
        f"another photo        changed {other:.3f}; {runtime.meter.image_passes:.0f} image passes"
    )


if __name__ == "__main__":
    main()
