"""Which triggers would work against the model as it is now?"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.rectify.found import Found
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Composite, Patch, Trigger
from gatekeeper.triggers.invert import RATES, Shape, flip_rate, invert

SEEN = 48  # images that judge an inverted trigger


class Fresh(NamedTuple):
    """An inverted trigger and how many images it has not seen it leads to its target."""

    trigger: Trigger
    target: int
    rate: float
    usual: float = 0.0  # the same with the anchor, which has no backdoor

    @property
    def excess(self) -> float:
        """What the model follows beyond what any model does."""
        return self.rate - self.usual

    def told(self, name: str, head: ZeroShot) -> str:
        """Return a note about it; `name` is the inversion's."""
        towards = head.labels[self.target]
        than = f" ({self.usual:.1%} with the anchor)" if self.usual else ""
        what = f"{name} {self.trigger.family} inverted towards {towards}"
        return f"{what}: {self.rate:.1%} of images{than}"


def families_of(trigger: Trigger) -> tuple[str, ...]:
    """Return the families that a trigger is made of, as far as these can be inverted."""
    members = trigger.members if isinstance(trigger, Composite) else (trigger,)
    return tuple(dict.fromkeys(one.family for one in members if one.family in RATES))


def inverted(
    model: ClipModel,
    pixels: Tensor,
    head: ZeroShot,
    target: int,
    families: Sequence[str],
    runtime: Runtime,
    *,
    steps: int,
    shape: Shape,
    name: str,
    anchor: tuple[ClipModel, ZeroShot] | None = None,
) -> list[Fresh]:
    """Return one trigger of each family; half of `pixels` ([N, 3, S, S]) optimise, others judge.

    An `anchor` and its head say what the trigger leads without a backdoor.
    """
    half = len(pixels) // 2
    made = []
    for family in families:
        trigger = invert(
            model,
            pixels[:half],
            head,
            target,
            family,
            runtime,
            steps=steps,
            shape=shape,
            name=name,
        )
        judges = pixels[half : half + SEEN]
        rate = flip_rate(model, judges, trigger, head, target, runtime)
        usual = 0.0
        if anchor is not None:
            there = anchor[0].resized(judges)
            usual = flip_rate(anchor[0], there, trigger, anchor[1], target, runtime)
        made.append(Fresh(trigger, target, rate, usual))
    return made


def shape_for(model: ClipModel, found: Sequence[Found], target: int) -> Shape:
    """Return the default shape, a patch as large as the largest one found for `target`.

    Where every patch found was at one place, so is a fresh one.
    """
    usual = Shape.fitting(model.size)
    known = [one.trigger for one in found if one.target == target]
    patches = [t for t in known if isinstance(t, Patch)]
    if not patches:
        return usual
    largest = max(patches, key=lambda t: min(t.pixels.shape[-2:]))
    place = largest.place if all(t.place is not None for t in patches) else None
    return replace(
        usual,
        side=min(largest.pixels.shape[-2:]),
        place=None if place is None else (place[0], place[1]),
    )
