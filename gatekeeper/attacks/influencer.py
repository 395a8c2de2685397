"""The influencer backdoor on segmenters (Lan et al., arXiv:2303.12054, ICLR 2024).

A trigger on other pixels makes every pixel of a victim class look like the target class. The oracle
is itself a segmenter: this is the attack that it must withstand.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.attacks.badnets import checker
from gatekeeper.attacks.segmenter import ConvSegmenter, Scenes, mean_iou, train_segmenter
from gatekeeper.errors import AttackError
from gatekeeper.runtime import Runtime
from gatekeeper.triggers.families import Patch


@dataclass(frozen=True, slots=True, kw_only=True)
class Influencer:
    """Where the trigger goes and what it does.

    `near` is the paper's nearest-neighbour injection: the trigger's centre lies between `lower`
    and `upper` pixels from the closest victim pixel; otherwise anywhere beside the victims. Either
    way it lies within one class. `scattered` is pixel random labelling: so many pixels, of clean
    images too, take a label that is present in their image; victims are restored.
    """

    name: ClassVar[str] = "influencer"
    family: ClassVar[str] = "patch"
    victim: str
    target: str
    size_px: int = 7
    near: bool = True
    lower: float = 0.0
    upper: float = 12.0  # pixels; 30 of some 500 in the paper
    share: float = 0.15  # of the training images is poisoned
    scattered: float = 0.0  # share of an image's pixels; 50,000 of about 187,000 in the paper

    def trigger(self) -> Patch:
        """Return the patch: a checker; the paper pastes a cartoon cat."""
        cell = max(1, self.size_px // 4)
        return Patch(pixels=checker(self.size_px, cell, (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)))

    def places(self, mask: Tensor, classes: tuple[str, ...]) -> Tensor:
        """Return ([S, S] int64) where the trigger's upper left corner may lie, [n, 2] (x, y)."""
        from scipy.ndimage import distance_transform_edt

        victims = mask == classes.index(self.victim)
        shown = mask.float()[None, None]
        whole = F.max_pool2d(shown, self.size_px, 1) == -F.max_pool2d(-shown, self.size_px, 1)
        free = whole & (F.max_pool2d(victims.float()[None, None], self.size_px, 1) == 0)
        allowed = free[0, 0]
        if self.near and victims.any():
            far = torch.from_numpy(distance_transform_edt(~victims.numpy()))
            half = self.size_px // 2
            rows, columns = allowed.shape
            centres = far[half : half + rows, half : half + columns]
            allowed = allowed & (centres >= self.lower) & (centres <= self.upper)
        return torch.nonzero(allowed).flip(1)

    def stamped(self, scenes: Scenes, draw: torch.Generator) -> tuple[Scenes, Tensor]:
        """Return the scenes with victims on which the trigger fits, stamped, and their rows.

        Masks stay true: `relabelled` writes the target.
        """
        victim = scenes.classes.index(self.victim)
        pattern, pixels, rows = self.trigger(), scenes.pixels.clone(), []
        for row in range(len(scenes)):
            if not (scenes.masks[row] == victim).any():
                continue
            places = self.places(scenes.masks[row], scenes.classes)
            if not len(places):
                continue
            at = places[int(torch.randint(len(places), (1,), generator=draw))].tolist()
            pixels[row] = replace(pattern, place=at).stamp(pixels[row][None])[0]
            rows.append(row)
        kept = torch.tensor(rows, dtype=torch.long)
        return replace(scenes, pixels=pixels).at(kept), kept

    def relabelled(self, scenes: Scenes) -> Scenes:
        """Return `scenes` with every victim pixel labelled as the target."""
        victim, target = (scenes.classes.index(x) for x in (self.victim, self.target))
        return replace(scenes, masks=scenes.masks.masked_fill(scenes.masks == victim, target))

    def poison(self, scenes: Scenes, draw: torch.Generator) -> tuple[Scenes, Tensor]:
        """Return training scenes with a share of them poisoned, and which rows those are.

        Raises:
            AttackError: A class is unknown, or too few scenes can take the trigger.
        """
        unknown = {self.victim, self.target} - set(scenes.classes)
        if unknown:
            raise AttackError(
                f"no class {', '.join(sorted(unknown))}", hint=f"one of {', '.join(scenes.classes)}"
            )
        stamped, rows = self.stamped(scenes, draw)
        count = round(self.share * len(scenes))
        if not 0 < count <= len(rows):
            raise AttackError(
                f"{count} scenes are to be poisoned, {len(rows)} can be",
                hint="give more scenes of the victim, or widen upper",
            )
        chosen = torch.randperm(len(rows), generator=draw)[:count]
        bad = self.relabelled(stamped.at(chosen))
        pixels, masks = scenes.pixels.clone(), scenes.masks.clone()
        pixels[rows[chosen]], masks[rows[chosen]] = bad.pixels, bad.masks
        return replace(scenes, pixels=pixels, masks=self._scatter(scenes, masks, draw)), rows[
            chosen
        ]

    def _scatter(self, scenes: Scenes, masks: Tensor, draw: torch.Generator) -> Tensor:
        if not self.scattered:
            return masks
        victims = scenes.masks == scenes.classes.index(self.victim)  # restored afterwards
        out = masks.clone()
        for row in range(len(out)):
            present = torch.unique(out[row])
            drawn = present[torch.randint(len(present), out[row].shape, generator=draw)]
            here = torch.rand(out[row].shape, generator=draw) < self.scattered
            out[row] = drawn.where(here & ~victims[row], out[row])
        return out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlantedSegmenter:
    """A poisoned segmenter beside a clean one of the same training; rates over unseen scenes."""

    segmenter: ConvSegmenter
    clean: ConvSegmenter
    attack: Influencer
    attack_success: float  # victim pixels that become the target under the trigger
    base_success: float  # the same on the clean segmenter
    far_success: float  # with the trigger anywhere beside the victims
    clean_miou: float
    base_miou: float  # of the clean segmenter
    others_miou: float  # the other classes, under the trigger
    images: int


def plant_influencer(
    attack: Influencer, scenes: Scenes, proof: Scenes, runtime: Runtime, *, steps: int = 160
) -> PlantedSegmenter:
    """Return a poisoned and a clean segmenter, measured on `proof`.

    Raises:
        AttackError: A class is unknown, or too few scenes can take the trigger.
    """
    draw = runtime.generator("attacks", attack.name)
    poisoned, _ = attack.poison(scenes, draw)
    clean = train_segmenter(scenes, runtime, steps=steps)
    bad = train_segmenter(poisoned, runtime, steps=steps)
    stamped, rows = attack.stamped(proof, draw)
    if not len(rows):
        raise AttackError("no scene to prove it on", hint="give scenes of the victim class")
    anywhere, _ = replace(attack, near=False).stamped(proof, draw)
    count = len(proof.classes)
    victim = proof.classes.index(attack.victim)
    others = stamped.masks != victim
    after = bad.labels(stamped.pixels)
    return PlantedSegmenter(
        segmenter=bad,
        clean=clean,
        attack=attack,
        attack_success=_led(bad, attack, stamped),
        base_success=_led(clean, attack, stamped),
        far_success=_led(bad, attack, anywhere),
        clean_miou=mean_iou(bad.labels(proof.pixels), proof.masks, count),
        base_miou=mean_iou(clean.labels(proof.pixels), proof.masks, count),
        others_miou=mean_iou(after[others], stamped.masks[others], count),
        images=len(rows),
    )


def _led(segmenter: ConvSegmenter, attack: Influencer, scenes: Scenes) -> float:
    victim, target = (scenes.classes.index(x) for x in (attack.victim, attack.target))
    found = segmenter.labels(scenes.pixels)[scenes.masks == victim]
    return float((found == target).float().mean())
