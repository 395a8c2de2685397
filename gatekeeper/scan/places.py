"""Patches at several fixed places: many places for the price of one search."""

from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.triggers import Patch

Turns = tuple[tuple[tuple[float, float], ...], ...]

_CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
_EDGES = ((0.5, 0.0), (0.0, 0.5), (1.0, 0.5), (0.5, 1.0))
_CENTRE = (0.5, 0.5)
AT_ONCE: Turns = ((*_CORNERS, _CENTRE),)
IN_TURN: Turns = (_CORNERS, (*_EDGES, _CENTRE))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """A patch at each of several places: a search's own trigger, never reported as such.

    `turns`: what is shown together, an image one turn, each turn as often as any. A place is x, y
    as shares of the way from the left and the upper end to the right and the lower one. Wide
    patches at all places at once would leave little of the image.
    """

    family: ClassVar[str] = "patch"
    patches: Tensor  # [n, 3, side, side] in [0, 1], turn by turn
    turns: Turns = AT_ONCE

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Paste one turn's patches on each image ([B, 3, S, S])."""
        out = pixels.clone()
        shown, patches = (
            torch.arange(len(pixels)) % len(self.turns),
            iter(self.apart(pixels.shape[-1])),
        )
        for index, turn in enumerate(self.turns):
            stamped = pixels[shown == index]
            for patch in islice(patches, len(turn)):
                stamped = patch.stamp(stamped)
            out[shown == index] = stamped
        return out

    def places(self, size: int) -> list[tuple[int, int]]:
        """Return x, y of each patch's upper left corner in an image of `size` pixels a side."""
        far = size - self.patches.shape[-1]
        return [(int(x * far), int(y * far)) for turn in self.turns for x, y in turn]

    def apart(self, size: int) -> list[Patch]:
        """Return each as a trigger of its own, for images of `size` pixels a side."""
        return [
            Patch(pixels=patch, place=list(place))
            for place, patch in zip(self.places(size), self.patches, strict=True)
        ]

    def picture(self) -> Tensor:
        """Return the patches beside each other."""
        return torch.cat(list(self.patches), dim=2).clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the patches."""
        return {"patches": self.patches}

    def settings(self) -> dict[str, float | int | str | list[int] | None]:
        """Return nothing: what is reported are single patches."""
        return {}
