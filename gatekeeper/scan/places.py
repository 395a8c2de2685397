"""Patches at fixed places: many places for the price of one search."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.triggers import Patch

PLACES = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5))
"""Corners and centre: shares of the way from the left and the upper end to the others."""


class _Own:
    """A search's own trigger, never reported as such: what is reported are single patches."""

    family: ClassVar[str] = "patch"

    def settings(self) -> dict[str, float | int | str | list[int] | None]:
        """Return nothing."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places(_Own):
    """A patch in each corner and in the centre, all at once."""

    patches: Tensor  # [5, 3, side, side] in [0, 1]

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Paste every patch on each image ([B, 3, S, S])."""
        for patch in self.apart(pixels.shape[-1]):
            pixels = patch.stamp(pixels)
        return pixels

    def apart(self, size: int) -> list[Patch]:
        """Return each as a trigger of its own, for images of `size` pixels a side."""
        return [
            Patch(pixels=patch, place=list(place))
            for place, patch in zip(self.places(size), self.patches, strict=True)
        ]

    def places(self, size: int) -> list[tuple[int, int]]:
        """Return x, y of each patch's upper left corner in an image of `size` pixels a side."""
        far = size - self.patches.shape[-1]
        return [(int(x * far), int(y * far)) for x, y in PLACES]

    def picture(self) -> Tensor:
        """Return the patches beside each other."""
        return torch.cat(list(self.patches), dim=2).clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the patches."""
        return {"patches": self.patches}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows(_Own):
    """A picture as large as the image, of which each image shows a window of half its side.

    Windows lie on a grid of three by three, so that every place up to a quarter of the side is
    wholly in one of them, and three quarters of each image stay to be seen.
    """

    pixels: Tensor  # [3, S, S] in [0, 1]

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Paste a window, drawn for each image, on the images ([B, 3, S, S])."""
        side = pixels.shape[-1] // 2
        mask = torch.zeros(len(pixels), 1, *pixels.shape[-2:])
        drawn = torch.randint(3, (len(pixels), 2), generator=generator or torch.Generator())
        for shown, (x, y) in zip(mask, (drawn * (side // 2)).tolist(), strict=True):
            shown[:, y : y + side, x : x + side] = 1.0
        return pixels * (1 - mask) + self.pixels * mask

    def picture(self) -> Tensor:
        """Return the picture."""
        return self.pixels.clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the picture."""
        return {"pixels": self.pixels}
