"""Do the found triggers still work on the images learned from, and are clean answers kept?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.rectify.bank import stamp_varied
from gatekeeper.rectify.found import is_led
from gatekeeper.rectify.ground import Ground

JUDGES = 96  # images at most
LOST = 0.02  # of clean answers that a repair may cost on the way


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stamped:
    """Images that carry variations of one trigger."""

    pixels: Tensor  # [N, 3, S, S]
    target: int
    usual: Tensor | None = None  # [N, C] logits of the anchor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rehearsal:
    """Images with every found trigger, to try weights on; none of them is held out."""

    ground: Ground
    pixels: Tensor  # [N, 3, S, S] clean
    truth: Tensor  # [N] int64, the suspect's answer where nobody knows
    deserved: Tensor  # [N, C] the suspect's logits
    stamped: tuple[Stamped, ...]

    @classmethod
    def of(cls, ground: Ground) -> "Rehearsal":
        """Return the rehearsal of the first `JUDGES` images."""
        rows = ground.rows[:JUDGES]
        pixels = ground.pixels(rows)
        truth, answers = ground.truth(pixels, ground.known(rows))
        draw = ground.runtime.generator("rectify", "rehearsal")
        embedded = ground.case.model.embed(pixels, ground.runtime)
        return cls(
            ground=ground,
            pixels=pixels,
            truth=torch.where(truth >= 0, truth, answers),
            deserved=ground.head.logits(embedded),
            stamped=tuple(
                _stamped(ground, stamp_varied(trigger, pixels, draw), target)
                for trigger, target in ground.triggers
            ),
        )

    def success(self, model: ClipModel, margin: float = 0.0, head: ZeroShot | None = None) -> float:
        """Return the success of the trigger that works best, a fraction.

        `margin` is that of `found.worst`: logits by which a target may be behind; `head` the
        model's own where its prompts are others.
        """
        highest = 0.0
        for one in self.stamped:
            eligible = ~is_led(self.deserved, one.target, margin)
            if one.usual is not None:
                eligible = eligible & ~is_led(one.usual, one.target, margin)
            if eligible.any():
                given = self._logits(model, one.pixels, head)
                highest = max(
                    highest, float(is_led(given, one.target, margin)[eligible].float().mean())
                )
        return highest

    def lost(self, model: ClipModel, head: ZeroShot | None = None) -> float:
        """Return how many more clean images `model` gets wrong than the suspect; a share.

        `head` is the model's own where its text tower is another.
        """
        before = self.deserved.argmax(dim=1) == self.truth
        after = self._logits(model, self.pixels, head).argmax(dim=1) == self.truth
        return float((before.float() - after.float()).mean())

    def bearable(self, model: ClipModel) -> bool:
        """Return whether `model` loses at most `LOST` of the clean answers, or two images."""
        return self.lost(model) <= max(LOST, 2 / len(self.pixels))

    def _logits(self, model: ClipModel, pixels: Tensor, head: ZeroShot | None = None) -> Tensor:
        return (head or self.ground.head).logits(model.embed(pixels, self.ground.runtime))


def _stamped(ground: Ground, pixels: Tensor, target: int) -> Stamped:
    anchor, head = ground.case.anchor, ground.anchor_head
    usual: Tensor | None = None
    if anchor is not None and head is not None:
        usual = head.logits(anchor.embed(anchor.resized(pixels), ground.runtime))
    return Stamped(pixels=pixels, target=target, usual=usual)
