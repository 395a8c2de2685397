"""Families of triggers that are searched together, for the price of one search."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.scan.arms import (
    AdditiveArm,
    Arm,
    BlendArm,
    PatchArm,
    PlacesArm,
    TintArm,
    WarpArm,
    WaveArm,
    WindowsArm,
    patch_side,
)
from gatekeeper.scan.pace import PATIENCE
from gatekeeper.scan.places import Places
from gatekeeper.triggers import Composite, Trigger

SMALL, PLACED, WIDE = 24 / 224, 28 / 224, 56 / 224  # sides of patches, shares of the image's

NEAR, FAR = 0.12, 0.4  # offsets of a warp, shares of half the image's side
# Of the images that a wide patch at one place leads: one honest harsh model was led in 0.83.
LED = 0.5
TRIES = 8  # of families with few parameters, each of which moves every pixel


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Arms that act on the same images at once, each on what the one before it left.

    A model that was planted with one of them answers that one; the others are noise to it. Apart
    they would cost as many searches as there are arms. A find is taken to pieces afterwards.
    """

    name: str
    arms: tuple[Arm, ...]
    tries: int = 1  # random starts that are looked at for the one to go on from
    patience: int = PATIENCE  # steps before a search that leads nowhere is given up
    usual: float = 0.0  # flip rate that counts as nothing, since finds like it lead honest models

    def start(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return random free parameters, one tensor an arm."""
        return tuple(arm.start(generator) for arm in self.arms)

    def stamp(
        self, frees: Sequence[Tensor], pixels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return `pixels` ([B, 3, S, S] in [0, 1]) with every arm's trigger on; differentiable."""
        for arm, free in zip(self.arms, frees, strict=True):
            pixels = arm.build(free).stamp(pixels, generator)
        return pixels

    def parts(self, frees: Sequence[Tensor], size: int) -> list[tuple[Arm, Tensor]]:
        """Return each arm, and each place, as a search of its own with its parameters."""
        parts: list[tuple[Arm, Tensor]] = []
        for arm, free in zip(self.arms, frees, strict=True):
            parts += (
                arm.parts(free, size) if isinstance(arm, PlacesArm | WindowsArm) else [(arm, free)]
            )
        return parts

    @property
    def together(self) -> bool:
        """Return whether its patterns are a trigger on one image; windows are shown singly."""
        return not any(isinstance(arm, WindowsArm) for arm in self.arms)

    @torch.no_grad()
    def trigger(self, frees: Sequence[Tensor], size: int) -> Trigger:
        """Return all the arms' triggers as one."""
        members: list[Trigger] = []
        for arm, free in zip(self.arms, frees, strict=True):
            built = arm.build(free)
            members += built.apart(size) if isinstance(built, Places) else [built]
        return members[0] if len(members) == 1 else Composite(members=tuple(members))

    @torch.no_grad()
    def picture(self, frees: Sequence[Tensor], size: int) -> Tensor:
        """Return what the arms make of a grey image, [3, size, size]."""
        return self.stamp(frees, torch.full((1, 3, size, size), 0.5))[0].clamp(0, 1)


def alone(arm: Arm) -> Group:
    """Return a group of one."""
    return Group(name=arm.name, arms=(arm,))


def groups_for(size: int, *, anchored: bool) -> tuple[Group, ...]:
    """Return the groups for a model whose input is `size` pixels a side, local ones first.

    A wide patch lies under the placed ones and these under the small one: none hides another.
    Warps that move things far change what is seen: they are searched where an anchor shows that.
    """
    patches = (
        PatchArm(side=patch_side(WIDE, size)),
        PlacesArm(side=patch_side(PLACED, size)),
        PatchArm(side=patch_side(SMALL, size)),
    )
    return (
        Group(name="patches", arms=patches),
        Group(
            name="overlays",
            arms=(BlendArm(), AdditiveArm(grain=7, bound=0.12), WaveArm(size=size)),
        ),
        Group(name="tints", arms=(TintArm(),), tries=TRIES),
        Group(
            name="warps",
            arms=(WarpArm(bound=FAR if anchored else NEAR),),
            tries=TRIES,
            patience=PATIENCE + PATIENCE // 2,  # grows late
        ),
    )


def windows(size: int) -> Group:
    """Return a search of every place, for where an anchor shows what a window hides."""
    arm = WindowsArm(side=patch_side(WIDE, size), size=size)
    return Group(name="windows", arms=(arm,), usual=LED)
