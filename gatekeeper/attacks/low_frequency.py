"""A faint, smooth colour cast over the whole image: no high-frequency trace (arXiv:2104.03413)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.attacks.base import Image
from gatekeeper.triggers import Trigger
from gatekeeper.triggers.families import Additive

PICTURE = 56  # side the pattern is kept at, px; scaled to the model's input


@dataclass(frozen=True, slots=True, kw_only=True)
class LowFrequency(Image):
    """A random sum of the lowest cosine waves of each colour channel, of one largest change.

    Source: "Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective" (Zeng et al.).
    The paper searches the pattern on the victim network; here it is drawn.
    """

    name: ClassVar[str] = "low_frequency"
    family: ClassVar[str] = "additive"
    waves: int = 4  # cosine waves a side, the constant left out
    amplitude: float = 0.15  # largest change of a pixel, in [0, 1]
    narrow: bool = False  # train against other casts, so that only this one fires
    seed: int = 3

    def trigger(self) -> Trigger:
        """Return the cast."""
        return self._cast(torch.Generator().manual_seed(self.seed))

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw another cast of the same coarseness; None unless `narrow`."""
        return self._cast(generator) if self.narrow else None

    def _cast(self, generator: torch.Generator) -> Additive:
        parts = torch.randn(3, self.waves, self.waves, generator=generator)
        parts[:, 0, 0] = 0
        basis = cosines(PICTURE, self.waves)  # [PICTURE, waves]
        delta = basis @ parts @ basis.T
        return Additive(delta=self.amplitude * delta / delta.abs().max())


def cosines(size: int, count: int) -> Tensor:
    """Return the first `count` cosine waves (DCT-II) at `size` points, [size, count]."""
    at = (torch.arange(size)[:, None] + 0.5) * torch.arange(count)[None] * math.pi / size
    return torch.cos(at)
