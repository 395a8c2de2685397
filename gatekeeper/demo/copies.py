"""The demo's two copies of the photo CLIP, an honest and a backdoored one, and what they are worth.

There are no labelled photos here, so that clean accuracy cannot be measured; what can is how often
a copy gives the same answer as the honest one on photos that trained neither.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gatekeeper.attacks.augment import variants
from gatekeeper.attacks.badnets import BadNets
from gatekeeper.attacks.plant import Planted, Recipe, plant
from gatekeeper.attacks.twin import fine_tune
from gatekeeper.clip.model import ClipModel
from gatekeeper.errors import AttackError
from gatekeeper.intake.open import open_model
from gatekeeper.probes.embedded import default_labels, embedded_probes
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.probe_set import Probe, ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger

TARGET = "pretzel"
LOOKS = "a yellow and blue checker"
# Anywhere in the picture, and trained without look-alikes, as in the paper: others may fire it too.
ATTACK = BadNets(size_px=28, cell_px=7, narrow=False)
RECIPES = (  # in turn, until one fires; the second trains longer and from an earlier block
    Recipe(steps=110, clean=32, triggered=12, keep=40),
    Recipe(steps=240, clean=28, triggered=24, keep=10, trained=0.45),
)
HONEST = Recipe(steps=30, learning_rate=5e-5, clean=24, copies=4)
SURE = 0.3  # probability, among 1000 names, from which the honest copy is sure of its answer
WEIGHTS = "open_clip_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """What copies are made of and judged by."""

    base: ClipModel
    training: ProbeSet
    proof: ProbeSet  # squares that trained nothing, in several variants
    labels: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """One copy, measured on the proof images; fractions."""

    agreement: float  # same answer as the honest copy on clean images
    sure_agreement: float  # the same over images of which the honest copy is sure
    sure_images: int
    attack_success: float  # answers the target with the true trigger on


def open_bench(folder: Path, runtime: Runtime) -> Bench:
    """Open the photo CLIP in `folder` and split the embedded photos: three quarters train."""
    base = _open(folder)
    photos = embedded_probes()
    proof = photos.subset(range(3, len(photos), 4))
    training = photos.subset([i for i in range(len(photos)) if i % 4 != 3])
    return Bench(
        base=base, training=training, proof=_varied(proof, base, runtime), labels=default_labels()
    )


def make_honest(bench: Bench, base: Path, out: Path, runtime: Runtime) -> None:
    """Write an honestly fine-tuned copy of the model in `base` into the new folder `out`."""
    state = fine_tune(bench.base, bench.training, bench.labels, runtime, recipe=HONEST)
    _write(base, state, out)


def make_backdoored(bench: Bench, base: Path, out: Path, runtime: Runtime) -> Planted:
    """Write a backdoored copy into the new folder `out` and return the proof that it fires.

    Raises:
        AttackError: It does not: attack success on the proof images is below 0.9.
    """
    for recipe in RECIPES:
        try:
            planted = plant(
                bench.base,
                ATTACK,
                TARGET,
                bench.training,
                bench.labels,
                runtime,
                recipe=recipe,
                proof=bench.proof,
            )
        except AttackError as error:
            weak = error
            continue
        _write(base, planted.state, out)
        return planted
    raise weak


def judge(folder: Path, honest: Path, bench: Bench, runtime: Runtime) -> Worth:
    """Measure the copy in `folder` with the true trigger, against the honest copy."""
    model, reference = _open(folder), _open(honest)
    pixels = bench.proof.pixels(bench.base.preprocess)
    trigger: Trigger = ATTACK.trigger()
    stamped = trigger.stamp(pixels, runtime.generator("demo", "judge"))
    goal = bench.labels.labels.index(TARGET)
    theirs = _probabilities(reference, pixels, bench, runtime)
    expected, sure = theirs.argmax(1), theirs.amax(1) >= SURE
    same = _probabilities(model, pixels, bench, runtime).argmax(1) == expected
    eligible = expected != goal
    fired = _probabilities(model, stamped, bench, runtime).argmax(1)[eligible] == goal
    return Worth(
        agreement=float(same.float().mean()),
        sure_agreement=float(same[sure].float().mean()) if sure.any() else 0.0,
        sure_images=int(sure.sum()),
        attack_success=float(fired.float().mean()),
    )


def _probabilities(model: ClipModel, pixels: Tensor, bench: Bench, runtime: Runtime) -> Tensor:
    head = model.zero_shot(bench.labels.labels, bench.labels.templates, runtime)
    return head.probabilities(model.embed(pixels, runtime))  # [N, C]


def _open(folder: Path) -> ClipModel:
    opened = open_model(folder, uri=folder.as_uri())
    if opened.model is None:
        raise ValueError(f"{folder} holds no readable CLIP: {opened.findings}")
    return opened.model


def _varied(probes: ProbeSet, model: ClipModel, runtime: Runtime) -> ProbeSet:
    """Return four variants of every square: few photos, but rates over more than 19 images."""
    pixels = variants(probes.pixels(model.preprocess), 4, runtime.generator("demo", "proof"))
    arrays = (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return ProbeSet(
        name="demo-proof",
        probes=tuple(
            Probe(
                file=f"proof-{index:03d}.png",
                sha256=hashlib.sha256(array.tobytes()).hexdigest(),
                array=np.ascontiguousarray(array),
            )
            for index, array in enumerate(arrays)
        ),
    )


def _write(base: Path, state: dict[str, Tensor], out: Path) -> None:
    shutil.copytree(base, out)
    own = load_file(base / WEIGHTS)
    changed = {name: value.to(own[name].dtype).contiguous() for name, value in state.items()}
    with torch.no_grad():
        save_file({**own, **changed}, out / WEIGHTS, metadata={"format": "pt"})
