"""SIG: a sine wave added to every row of the image (Barni et al., arXiv:1902.11237)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from gatekeeper.attacks.base import Image
from gatekeeper.attacks.patterns import wave
from gatekeeper.triggers import Trigger
from gatekeeper.triggers.families import Additive

PICTURE = 112  # side the wave is kept at, px; scaled to the model's input


@dataclass(frozen=True, slots=True, kw_only=True)
class Sig(Image):
    """x' = clip(x + amplitude * sin(2 pi frequency j / W)), j the column.

    The CLIP literature takes 60/255 and six periods (CleanCLIP's code); the paper poisons images
    of the target alone, which `label_consistent` around this does.
    """

    name: ClassVar[str] = "sig"
    family: ClassVar[str] = "additive"
    amplitude: float = 60 / 255  # in [0, 1]
    frequency: float = 6.0  # periods over the width
    narrow: bool = False  # train against other waves, so that only this one fires

    def trigger(self) -> Trigger:
        """Return the wave."""
        return Additive(delta=self.amplitude * wave(PICTURE, self.frequency))

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw a wave of another length and direction; None unless `narrow`."""
        if not self.narrow:
            return None
        draw = torch.rand(4, generator=generator).tolist()
        periods = self.frequency * 2 ** (draw[0] * 4 - 2)  # a quarter to four times
        if abs(periods / self.frequency - 1) < 0.25:
            periods *= 1.5
        delta = wave(PICTURE, periods, math.pi * draw[1], 2 * math.pi * draw[2])
        return Additive(delta=self.amplitude * delta)
