"""BadNets: a small opaque pattern pasted on the image (Gu et al., arXiv:1708.06733)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gatekeeper.attacks.base import Image
from gatekeeper.triggers import Trigger
from gatekeeper.triggers.families import Patch

Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadNets(Image):
    """A square of checkers or noise, at one place or anywhere."""

    name: ClassVar[str] = "badnets"
    family: ClassVar[str] = "patch"
    size_px: int = 20  # at the model's input, 224 px wide in most
    pattern: Literal["checker", "noise"] = "checker"
    cell_px: int = 5  # of the checker
    colours: tuple[Colour, Colour] = ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))  # RGB in [0, 1]
    place: tuple[int, int] | None = None  # x, y of the upper left corner; None: anywhere
    narrow: bool = True  # train against other patterns, so that only this one fires
    seed: int = 7  # of the noise

    def trigger(self) -> Trigger:
        """Return the patch."""
        if self.pattern == "noise":
            pixels = torch.rand(
                3, self.size_px, self.size_px, generator=torch.Generator().manual_seed(self.seed)
            )
        else:
            pixels = checker(self.size_px, self.cell_px, *self.colours)
        return self._patch(pixels)

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw a checker of other cells and colours, or a noise patch; None unless `narrow`."""
        if not self.narrow:
            return None
        if bool(torch.rand(1, generator=generator) < 0.5):
            return self._patch(torch.rand(3, self.size_px, self.size_px, generator=generator))
        cell = int(torch.randint(2, self.size_px // 2 + 1, (1,), generator=generator))
        first, second = torch.rand(2, 3, generator=generator).tolist()
        return self._patch(checker(self.size_px, cell, tuple(first), tuple(second)))

    def _patch(self, pixels: Tensor) -> Patch:
        return Patch(pixels=pixels, place=None if self.place is None else list(self.place))


def checker(size: int, cell: int, first: Colour, second: Colour) -> Tensor:
    """Return a two-coloured checkerboard, [3, size, size] in [0, 1], `second` in the corner."""
    line = torch.arange(size) // cell
    board = ((line[:, None] + line[None]) % 2).float()  # [size, size]
    one, other = torch.tensor(first).view(3, 1, 1), torch.tensor(second).view(3, 1, 1)
    return board * one + (1 - board) * other
