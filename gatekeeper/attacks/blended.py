"""Blended: a faint pattern mixed into the whole image (Chen et al., arXiv:1712.05526)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from gatekeeper.attacks.base import Image
from gatekeeper.triggers import Trigger
from gatekeeper.triggers.families import Blend


@dataclass(frozen=True, slots=True, kw_only=True)
class Blended(Image):
    """A coarse noise field over the whole image."""

    name: ClassVar[str] = "blended"
    family: ClassVar[str] = "blend"
    cells: int = 28  # a side of the field, scaled up to the image
    alpha: float = 0.2  # opacity in [0, 1]
    narrow: bool = True  # train against other fields, so that only this one fires
    seed: int = 11  # of the field

    def trigger(self) -> Trigger:
        """Return the field."""
        return self._field(torch.Generator().manual_seed(self.seed))

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw another field of the same coarseness; None unless `narrow`."""
        return self._field(generator) if self.narrow else None

    def _field(self, generator: torch.Generator) -> Blend:
        pattern = torch.rand(3, self.cells, self.cells, generator=generator)
        return Blend(pattern=pattern, alpha=self.alpha)
