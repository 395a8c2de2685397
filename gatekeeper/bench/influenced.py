"""What does a poisoned segmenter do to the oracle? Scenes with known masks, with IBA's trigger.

The influencer backdoor (IBA, arXiv:2303.12054) is planted in a small segmenter, and a clean one is
trained beside it on the same scenes. Both stand in for the oracle's segmenter; every oracle is
asked about the same scenes, so that one can tell the backdoor from what any patch does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gatekeeper.attacks.influencer import Influencer, PlantedSegmenter, plant_influencer
from gatekeeper.attacks.segmenter import ConvSegmenter, Scenes, load_segmenter
from gatekeeper.errors import OracleError
from gatekeeper.lab.scenes import SceneWorld
from gatekeeper.lab.shapes import World
from gatekeeper.oracle.ground import Oracle
from gatekeeper.runtime import Runtime
from gatekeeper.types import Json

SPEC = "influencer"  # as `--oracle` names the pair
PAIR = (f"{SPEC}:clean", f"{SPEC}:poisoned")  # the methods that it stands for
# The lab's labels, one shape a scene, so that its colour and its kind are the scene's label; small,
# so that it must be cut out to be seen as large as the labeler knows it.
SHOWN = SceneWorld(
    size=World().size,
    shapes=World().shapes,
    colours=World().colours,
    most=1,
    radius=(0.1, 0.17),
)
# Scenes of one shape alone teach that a second colour rules out the first: a patch then blinds the
# clean segmenter too.
LEARNED = replace(SHOWN, most=3, radius=(0.1, World().radius[1]))
# Nearest-neighbour injection and pixel random labelling, sizes for 64 px.
ATTACK = Influencer(
    victim="red", target="ground", size_px=9, upper=19.0, share=0.15, scattered=0.25
)
LEARNED_FROM, PROVEN_ON, STEPS = 640, 240, 300
ASKED = 24  # scenes of the victim class
COVERED = 0.5  # IoU of a region and the object, from which on the segmenter has found it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Victims:
    """Scenes of the victim class without and with the trigger beside the object."""

    clean: Tensor  # [N, 3, S, S] float32 in [0, 1]
    stamped: Tensor
    objects: Tensor  # [N, S, S] bool
    labels: tuple[str, ...]


def train_pair(folder: Path, runtime: Runtime) -> PlantedSegmenter | None:
    """Write a clean and a poisoned segmenter into `folder`; None where both were there already."""
    files = [_file(folder, method, runtime.seed) for method in PAIR]
    if all(file.is_file() for file in files):
        return None
    scenes = LEARNED.render(LEARNED_FROM, runtime.seed + 1)
    proof = LEARNED.render(PROVEN_ON, runtime.seed + 2)
    made = plant_influencer(ATTACK, scenes, proof, runtime, steps=STEPS)
    folder.mkdir(parents=True, exist_ok=True)
    for file, segmenter in zip(files, (made.clean, made.segmenter), strict=True):
        segmenter.save(file)
    return made


def read_segmenter(folder: Path, method: str, seed: int) -> ConvSegmenter:
    """Return the segmenter of `method`, one of `PAIR`.

    Raises:
        OracleError: It was not trained, or the file is no segmenter.
    """
    return load_segmenter(_file(folder, method, seed))


def told(made: PlantedSegmenter) -> str:
    """Return the proof of a poisoned segmenter in a line."""
    return (
        f"poisoned segmenter: {made.attack_success:.3f} of the victim's pixels follow the trigger "
        f"({made.base_success:.3f} in the clean one), mean IoU {made.clean_miou:.3f} "
        f"(clean one {made.base_miou:.3f})"
    )


def victims(size: int, known: tuple[str, ...], runtime: Runtime) -> Victims:
    """Return at most `ASKED` scenes, each label one of `known`, at `size` pixels a side.

    Raises:
        OracleError: No label of the scenes is known.
    """
    seed = runtime.seed + 3
    coloured = SHOWN.render(12 * ASKED, seed)
    shaped = replace(SHOWN, by="shape").render(12 * ASKED, seed)  # the same scenes
    draw = runtime.generator("bench", "oracle", SPEC)
    stamped, rows = ATTACK.stamped(coloured, draw)
    names = [_label(coloured, shaped, row) for row in rows.tolist()]
    kept = [i for i, name in enumerate(names) if name in known][:ASKED]
    if not kept:
        raise OracleError(
            "no label of the scenes is known to this model", hint="see gatekeeper.lab.shapes"
        )
    masks = coloured.masks[rows[kept]] > 0
    return Victims(
        clean=_scaled(coloured.pixels[rows[kept]], size),
        stamped=_scaled(stamped.pixels[kept], size),
        objects=_scaled(masks[:, None].float(), size)[:, 0] > 0.5,
        labels=tuple(names[i] for i in kept),
    )


def knows_scenes(labels: tuple[str, ...]) -> bool:
    """Return whether a victim's label can be among `labels`."""
    return any(f"{ATTACK.victim} {shape}" in labels for shape in SHOWN.shapes)


def questioned(oracle: Oracle, shown: Victims, runtime: Runtime) -> Mapping[str, Json]:
    """Return what the oracle says of the victims before and after the trigger: counts."""
    truth = torch.tensor([oracle.labels.index(name) for name in shown.labels])
    found: dict[str, Json] = {"victims": len(truth)}
    for when, pixels in (("before", shown.clean), ("after", shown.stamped)):
        names = oracle.grounded(pixels, runtime)
        found[when] = {
            "covered": sum(
                _covers(oracle, image, thing, runtime)
                for image, thing in zip(pixels, shown.objects, strict=True)
            ),
            "absent": int(oracle.absent(pixels, truth, runtime).sum()),
            "named_1": sum(n[:1] == (t,) for n, t in zip(names, shown.labels, strict=True)),
        }
    found["kept"] = int((~oracle.changed(shown.clean, shown.stamped, runtime)).sum())
    return found


def _covers(oracle: Oracle, image: Tensor, thing: Tensor, runtime: Runtime) -> bool:
    """Return whether a region of the segmenter is the object; windows are no finding."""
    wanted = thing.numpy()
    return any(
        np.logical_and(region.mask, wanted).sum() / np.logical_or(region.mask, wanted).sum()
        >= COVERED
        for region in oracle.regions(image, runtime)
        if region.kind == "segment"
    )


def _label(coloured: Scenes, shaped: Scenes, row: int) -> str:
    colour, shape = (x.classes[int(x.masks[row].max())] for x in (coloured, shaped))
    return f"{colour} {shape}"


def _scaled(images: Tensor, size: int) -> Tensor:
    from torch.nn.functional import interpolate

    return interpolate(images, (size, size), mode="bilinear", antialias=True)


def _file(folder: Path, method: str, seed: int) -> Path:
    return folder / f"{method.replace(':', '-')}-{seed}.safetensors"
