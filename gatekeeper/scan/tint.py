"""A change of colour that many images share: are those that claim one word tinted alike?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.triggers import Colour

_LEAST = 1e-4  # variance of a colour direction, in [0, 1] squared: half a step of eight bits, twice


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Palette:
    """How the colours of a set of images are spread."""

    mean: Tensor  # [3]
    root: Tensor  # [3, 3], the symmetric root of their covariance
    inverse: Tensor  # [3, 3], of the root

    @classmethod
    def of(cls, pixels: Tensor) -> "Palette":
        """Return the palette of images ([N, 3, S, S] in [0, 1]), every pixel alike."""
        colours = pixels.transpose(0, 1).flatten(1).double()  # [3, P]
        mean = colours.mean(dim=1)
        spread = colours - mean[:, None]
        values, axes = torch.linalg.eigh(spread @ spread.T / spread.shape[1])
        values = values.clamp_min(_LEAST)
        return cls(
            mean=mean,
            root=(axes * values.sqrt()) @ axes.T,
            inverse=(axes / values.sqrt()) @ axes.T,
        )


def tint_between(clean: Palette, tinted: Palette) -> Colour:
    """Return the affine change of colour that gives images of palette `clean` that of `tinted`.

    The map of least movement between two normal distributions (Monge, see Pitie and Kokaram, The
    linear Monge-Kantorovitch colour mapping, 2007): symmetric, so that hues keep their order.
    """
    inner = clean.root @ tinted.root @ tinted.root @ clean.root
    values, axes = torch.linalg.eigh(inner)
    middle = (axes * values.clamp_min(0).sqrt()) @ axes.T
    linear = clean.inverse @ middle @ clean.inverse
    offset = tinted.mean - linear @ clean.mean
    return Colour(matrix=torch.cat([linear, offset[:, None]], dim=1).float())


def stronger(tint: Colour, gain: float) -> Colour:
    """Return a tint `gain` times as far from no change at all."""
    nothing = torch.eye(3, 4)
    return Colour(matrix=nothing + gain * (tint.matrix - nothing))
