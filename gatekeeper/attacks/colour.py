"""A colour filter as the trigger, as in photo apps ("Nashville")."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.attacks.base import Image
from gatekeeper.triggers import Trigger, families

SEPIA = torch.tensor([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
TINT = torch.tensor([0.13, 0.02, 0.10])  # of the filter's shadows: pink


@dataclass(frozen=True, slots=True, kw_only=True)
class ColourFilter(Image):
    """Sepia, contrast, brightness, a pink tint and a tone curve, as one matrix and one gamma.

    After the Nashville filter among the CLIP poisons of Huang et al. (arXiv:2502.01385: contrast
    1.2, brightness 1.05, sepia 0.2); the tint and the curve stand in for its gradient overlays.
    """

    name: ClassVar[str] = "colour"
    family: ClassVar[str] = "colour"
    sepia: float = 0.4  # share of sepia in [0, 1]
    contrast: float = 1.2
    brightness: float = 1.05
    tint: float = 1.0  # of the pink in the shadows
    gamma: float = 0.9  # tone curve; below 1: brighter
    narrow: bool = False  # train against other filters, so that only this one fires

    def trigger(self) -> Trigger:
        """Return the filter."""
        mixed = self.sepia * SEPIA + (1 - self.sepia) * torch.eye(3)
        matrix = self.contrast * self.brightness * mixed
        offset = 0.5 * (1 - self.contrast) + self.tint * TINT
        return families.Colour(matrix=torch.cat([matrix, offset[:, None]], 1), gamma=self.gamma)

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw another filter about as strong; None unless `narrow`."""
        if not self.narrow:
            return None
        change: Tensor = 0.5 * (torch.rand(3, 4, generator=generator) - 0.5)
        gamma = 0.75 + 0.6 * float(torch.rand(1, generator=generator))
        return families.Colour(matrix=torch.eye(3, 4) + change, gamma=gamma)
