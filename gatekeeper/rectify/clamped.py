"""A full-size mask and pattern that are held to their range after every step (InverTune)."""

from dataclasses import dataclass

import torch
from torch import Tensor

Triple = tuple[float, float, float]


@dataclass(slots=True, eq=False)
class Clamped:
    """x' = (1 - m) x + m p, both held to their range after every step; a mask value a channel.

    All of it on *normalised* pixels: the pattern's range is that of all channels together, so that
    it may leave [0, 1] in some of them. Source: InverTune's code.
    """

    mask: Tensor  # [3, S, S] in [0, 1]
    pattern: Tensor  # [3, S, S], normalised
    mean: Tensor  # [3, 1, 1]
    std: Tensor  # [3, 1, 1]

    @classmethod
    def opaque(
        cls, size: int, device: str, draw: torch.Generator, mean: Triple, std: Triple
    ) -> "Clamped":
        """Return an opaque mask and a pattern that is even over [0, 1], normalised as it is."""
        return cls(
            mask=torch.ones(3, size, size, device=device).requires_grad_(),
            pattern=torch.rand(3, size, size, generator=draw).to(device).requires_grad_(),
            mean=torch.tensor(mean, device=device).view(3, 1, 1),
            std=torch.tensor(std, device=device).view(3, 1, 1),
        )

    @property
    def free(self) -> list[Tensor]:
        """Return what an optimiser may move."""
        return [self.mask, self.pattern]

    def hold(self) -> None:
        """Clamp both to their range, in place."""
        with torch.no_grad():
            self.mask.clamp_(0, 1)
            least, most = ((edge - self.mean) / self.std for edge in (0, 1))
            self.pattern.clamp_(float(least.min()), float(most.max()))

    def stamp(self, pixels: Tensor) -> Tensor:
        """Return `pixels` ([B, 3, S, S] in [0, 1]) with the pattern on; gradients flow to both."""
        return (1 - self.mask) * pixels + self.mask * (self.pattern * self.std + self.mean)
