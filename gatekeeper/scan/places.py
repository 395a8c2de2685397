"""Patches in the corners and the centre at once: five places for the price of one."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.triggers import Patch

COUNT = 5  # places


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """A patch at each of five places: a search's own trigger, never reported as such."""

    family: ClassVar[str] = "patch"
    patches: Tensor  # [5, 3, side, side] in [0, 1]; corners row by row, then the centre

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Paste all of them."""
        for patch in self.apart(pixels.shape[-1]):
            pixels = patch.stamp(pixels)
        return pixels

    def apart(self, size: int) -> list[Patch]:
        """Return each as a trigger of its own, for images of `size` pixels a side."""
        return [
            Patch(pixels=patch, place=list(place))
            for place, patch in zip(self.places(size), self.patches, strict=True)
        ]

    def places(self, size: int) -> tuple[tuple[int, int], ...]:
        """Return x, y of each patch in an image of `size` pixels a side."""
        far = size - self.patches.shape[-1]
        return (0, 0), (far, 0), (0, far), (far, far), (far // 2, far // 2)

    def picture(self) -> Tensor:
        """Return the patches beside each other."""
        return torch.cat(list(self.patches), dim=2).clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the patches."""
        return {"patches": self.patches}

    def settings(self) -> dict[str, float | int | str | list[int] | None]:
        """Return nothing: the tensor says all."""
        return {}
