"""WaNet: a smooth warp that people overlook (Nguyen & Tran, arXiv:2102.10369)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.attacks.base import Image
from gatekeeper.triggers import Trigger
from gatekeeper.triggers.families import Warp


@dataclass(frozen=True, slots=True, kw_only=True)
class WaNet(Image):
    """One saved warp field: uniform control points over their mean size, times `strength`.

    The paper moves a pixel by a quarter of a pixel on 32-px images; a tower whose early blocks
    are frozen cannot see that at 224 px, so that our default is larger. `narrow` is the paper's
    noise mode: the same field disturbed, and fields of their own, keep their answer.
    """

    name: ClassVar[str] = "wanet"
    family: ClassVar[str] = "warp"
    cells: int = 4  # control points a side (k)
    strength: float = 0.06  # mean offset in units of half the image's side (s)
    disturbance: float = 1.0  # noise mode: size of the noise on the field, of its mean offset
    narrow: bool = True  # the noise mode
    seed: int = 5

    def trigger(self) -> Trigger:
        """Return the warp."""
        return Warp(field=self.strength * self._unit(torch.Generator().manual_seed(self.seed)))

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw the field disturbed (half of them) or a field of its own; None unless `narrow`."""
        if not self.narrow:
            return None
        field = self._unit(generator)
        if bool(torch.rand(1, generator=generator) < 0.5):
            own = self._unit(torch.Generator().manual_seed(self.seed))
            field = own + self.disturbance * (4 * torch.rand(own.shape, generator=generator) - 2)
            field = field / field.abs().mean()
        return Warp(field=self.strength * field)

    def _unit(self, generator: torch.Generator) -> Tensor:
        """Return control points of mean size one, [2, k, k]."""
        field = 2 * torch.rand(2, self.cells, self.cells, generator=generator) - 1
        return field / field.abs().mean()
