"""What is a model worth, before and after a repair, on images that the repair has not seen?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger
from gatekeeper.types import Quality


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """Images kept aside, and what the suspect says of them without a trigger."""

    pixels: Tensor  # [N, 3, S, S]
    known: Tensor  # [N] int64 label of the probe, -1 where it has none
    truth: Tensor  # [N] int64 label, else a confident answer, else -1
    answers: Tensor  # [N] int64, the suspect's own on the clean image
    triggers: tuple[tuple[Trigger, int], ...]  # with the index of its target
    excused: tuple[Tensor, ...] = ()  # [N] bool a trigger: it leads the anchor too (`led_anyway`)

    def under(self, trigger: Trigger, target: int) -> "HeldOut":
        """Return the same images under another trigger alone, none excused."""
        return replace(self, triggers=((trigger, target),), excused=())

    def eligible(self, target: int) -> Tensor:
        """Return which images do not deserve `target`, [N] bool."""
        return (self.answers != target) & (self.known != target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A difference of two rates over the same images, fractions."""

    mean: float
    low: float  # 95 %
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replies:
    """What a model says of the held-out images that one trigger is to lead away."""

    target: int
    given: Tensor  # [M] int64
    right: Tensor  # [M] int64, what the image deserves


def predictions(model: ClipModel, pixels: Tensor, head: ZeroShot, runtime: Runtime) -> Tensor:
    """Return the label index of each image, [N] int64."""
    return head.logits(model.embed(pixels, runtime)).argmax(dim=1)


def measure(model: ClipModel, held: HeldOut, head: ZeroShot, runtime: Runtime) -> Quality:
    """Return the quality of `model` on `held`; attack success is that of the worst trigger."""
    clean = predictions(model, held.pixels, head, runtime)
    labelled = held.known >= 0
    replies = under_triggers(model, held, head, runtime)
    led = [_mean(one.given == one.target) for one in replies]
    kept = [_mean(one.given == one.right) for one in replies]
    return Quality(
        clean_accuracy=_mean(clean[labelled] == held.known[labelled]) if labelled.any() else None,
        attack_success=max(led) if led else None,
        recovered_accuracy=min(kept) if kept else None,
        agreement=_mean(clean == held.answers) if len(clean) else None,
        rebound=None,
    )


def under_triggers(
    model: ClipModel, held: HeldOut, head: ZeroShot, runtime: Runtime
) -> tuple[Replies, ...]:
    """Return the answers under each trigger.

    Images that deserve its target are left out, and those that it leads there with the anchor too:
    what paints an object red leads any model to a red object.
    """
    found = []
    for place, (trigger, target) in enumerate(held.triggers):
        eligible = held.eligible(target)
        if held.excused:
            eligible = eligible & ~held.excused[place]
        if not eligible.any():
            continue
        stamped = _stamped(held.pixels, trigger, runtime)[eligible]
        right = torch.where(held.truth >= 0, held.truth, held.answers)[eligible]
        given = predictions(model, stamped, head, runtime)
        found.append(Replies(target=target, given=given, right=right))
    return tuple(found)


def led_anyway(
    anchor: ClipModel,
    head: ZeroShot,
    pixels: Tensor,
    triggers: Sequence[tuple[Trigger, int]],
    runtime: Runtime,
) -> tuple[Tensor, ...]:
    """Return which of `pixels` each trigger leads to its target with the anchor, [N] bool each."""
    found = []
    for trigger, target in triggers:
        stamped = anchor.resized(_stamped(pixels, trigger, runtime))
        found.append(predictions(anchor, stamped, head, runtime) == target)
    return tuple(found)


def _stamped(pixels: Tensor, trigger: Trigger, runtime: Runtime) -> Tensor:
    """Return all images with the trigger on, at the same places whoever asks."""
    return trigger.stamp(pixels, runtime.generator("rectify", "held-out"))


def attack_success(
    model: ClipModel, held: HeldOut, head: ZeroShot, runtime: Runtime
) -> float | None:
    """Return the success of the trigger that works best, None without any."""
    replies = under_triggers(model, held, head, runtime)
    return max((_mean(one.given == one.target) for one in replies), default=None)


def pays(before: Quality, after: Quality) -> bool:
    """Return whether more true labels came back under the trigger, and no clean answer was lost."""
    back = (after.recovered_accuracy or 0.0) - (before.recovered_accuracy or 0.0)
    kept = [
        (old, new)
        for old, new in (
            (before.clean_accuracy, after.clean_accuracy),
            (before.agreement, after.agreement if before.clean_accuracy is None else None),
        )
        if old is not None and new is not None
    ]
    return back > 0 and all(new >= old for old, new in kept)


def paired(before: Tensor, after: Tensor) -> Paired:
    """Return mean(`after` - `before`) over the same images ([N] bool) with a normal interval."""
    difference = after.float() - before.float()
    n = len(difference)
    mean = float(difference.mean()) if n else 0.0
    half = 1.96 * float(difference.std()) / math.sqrt(n) if n > 1 else 1.0
    return Paired(mean=mean, low=mean - half, high=mean + half, n=n)


def _mean(hits: Tensor) -> float:
    return float(hits.float().mean())
