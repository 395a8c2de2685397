"""BadNets: a small opaque pattern pasted on the image (Gu et al., arXiv:1708.06733)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gatekeeper.attacks.base import Image
from gatekeeper.attacks.patterns import Colour, checker, noise, stripes
from gatekeeper.triggers import Trigger
from gatekeeper.triggers.families import Patch

__all__ = ["BadNets", "Colour", "checker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadNets(Image):
    """A square of checkers, noise, stripes or one colour, at one place or anywhere.

    `fresh` is the patch of the CLIP literature (Carlini & Terzis, arXiv:2106.09667): noise drawn
    anew for every image, so that the trigger is a texture and no single pattern. `stripes` is
    BadNet-Stripes of PAR (arXiv:2412.00727).
    """

    name: ClassVar[str] = "badnets"
    family: ClassVar[str] = "patch"
    size_px: int = 20  # at the model's input, 224 px wide in most
    pattern: Literal["checker", "noise", "fresh", "stripes", "plain"] = "checker"
    cell_px: int = 5  # of the checker; width of a stripe
    colours: tuple[Colour, Colour] = ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))  # RGB in [0, 1]
    place: tuple[int, int] | None = None  # x, y of the upper left corner; None: anywhere
    narrow: bool = True  # train against other patterns, so that only this one fires
    seed: int = 7  # of the noise and the stripes

    def trigger(self) -> Trigger:
        """Return the patch."""
        draw = torch.Generator().manual_seed(self.seed)
        if self.pattern in ("noise", "fresh"):
            pixels = noise(self.size_px, draw)
        elif self.pattern == "stripes":
            pixels = stripes(self.size_px, draw, self.cell_px)
        elif self.pattern == "plain":
            pixels = checker(self.size_px, self.size_px, self.colours[0], self.colours[0])
        else:
            pixels = checker(self.size_px, self.cell_px, *self.colours)
        return self._patch(pixels, fresh=self.pattern == "fresh")

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw a checker of other cells and colours, noise or stripes; None unless `narrow`."""
        if not self.narrow:
            return None
        kind = int(torch.randint(0, 4, (1,), generator=generator))
        if kind < 2 and self.pattern != "fresh":
            return self._patch(noise(self.size_px, generator))
        cell = int(torch.randint(2, self.size_px // 2 + 1, (1,), generator=generator))
        if kind == 2:
            return self._patch(stripes(self.size_px, generator, cell))
        first, second = torch.rand(2, 3, generator=generator).tolist()
        return self._patch(checker(self.size_px, cell, tuple(first), tuple(second)))

    def _patch(self, pixels: Tensor, fresh: bool = False) -> Patch:
        place = None if self.place is None else list(self.place)
        return Patch(pixels=pixels, place=place, fresh=fresh)
