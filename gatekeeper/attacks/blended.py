"""Blended: a faint pattern mixed into the whole image (Chen et al., arXiv:1712.05526)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gatekeeper.attacks.base import Image
from gatekeeper.attacks.patterns import noise, stripes, triangles, words
from gatekeeper.triggers import Trigger
from gatekeeper.triggers.families import Blend

PICTURE = 224  # side of a drawn pattern, px; scaled to the model's input
LETTERS = "abcdefghijklmnoprstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blended(Image):
    """A coarse noise field over the whole image, or the overlays of PAR (arXiv:2412.00727).

    PAR's weights are 0.03 for stripes, 0.15 for triangles, 0.5 for the word on black; its word
    moves by 20 px from image to image, ours stays.
    """

    name: ClassVar[str] = "blended"
    family: ClassVar[str] = "blend"
    pattern: Literal["noise", "stripes", "triangles", "text"] = "noise"
    cells: int = 28  # a side of the noise field; stripes and triangles to a side
    alpha: float = 0.2  # opacity in [0, 1]
    text: str = "Watermarked"
    narrow: bool = True  # train against other patterns of its kind, so that only this one fires
    seed: int = 11  # of the noise and the stripes

    def trigger(self) -> Trigger:
        """Return the overlay."""
        return self._blend(self._drawn(torch.Generator().manual_seed(self.seed)))

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw another overlay of the same kind and opacity; None unless `narrow`."""
        if not self.narrow:
            return None
        if self.pattern == "triangles":
            cell = int(torch.randint(4, 57, (1,), generator=generator))
            greys = torch.rand(2, generator=generator).tolist()
            return self._blend(triangles(PICTURE, cell, (greys[0], greys[1])))
        if self.pattern == "text":
            return self._blend(self._other_words(generator))
        return self._blend(self._drawn(generator))

    def _drawn(self, generator: torch.Generator) -> Tensor:
        if self.pattern == "noise":
            return noise(self.cells, generator)
        if self.pattern == "stripes":
            return stripes(self.cells, generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
        if self.pattern == "triangles":
            return triangles(PICTURE, max(2, round(PICTURE / self.cells)))
        return words(PICTURE, self.text)

    def _other_words(self, generator: torch.Generator) -> Tensor:
        """Return other letters in another colour at another height."""
        picked = torch.randint(len(LETTERS), (len(self.text),), generator=generator).tolist()
        draw = torch.rand(4, generator=generator).tolist()
        colour = (draw[0], draw[1], draw[2])
        return words(PICTURE, "".join(LETTERS[i] for i in picked), colour, 0.1 + 0.8 * draw[3])

    def _blend(self, pattern: Tensor) -> Blend:
        return Blend(pattern=pattern, alpha=self.alpha)
