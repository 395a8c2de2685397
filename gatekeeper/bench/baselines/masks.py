"""A full-size mask and pattern, through tanh (Neural Cleanse, DECREE)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.bench.metrics import Box


@dataclass(slots=True, eq=False)
class Masked:
    """x' = (1 - m) x + m p, both free through tanh; the mask is shared by the channels."""

    mask: Tensor  # [1, S, S], free
    pattern: Tensor  # [3, S, S], free

    @classmethod
    def random(cls, size: int, device: str, draw: torch.Generator, mask: float = 0.0) -> "Masked":
        """Return a random start; `mask` shifts the mask's free values (negative: smaller)."""
        return cls(
            mask=(mask + 0.5 * torch.randn(1, size, size, generator=draw))
            .to(device)
            .requires_grad_(),
            pattern=torch.randn(3, size, size, generator=draw).to(device).requires_grad_(),
        )

    @classmethod
    def even(cls, size: int, device: str, draw: torch.Generator) -> "Masked":
        """Return a start whose mask and pattern are even over (0, 1): DECREE's."""
        mask, pattern = (
            torch.atanh(torch.rand(n, size, size, generator=draw) * 1.999998 - 0.999999)
            .to(device)
            .requires_grad_()
            for n in (1, 3)
        )
        return cls(mask=mask, pattern=pattern)

    @property
    def free(self) -> list[Tensor]:
        """Return what an optimiser may move."""
        return [self.mask, self.pattern]

    def opacity(self) -> Tensor:
        """Return the mask, [1, S, S] in [0, 1]."""
        return (torch.tanh(self.mask) + 1) / 2

    def stamp(self, pixels: Tensor) -> Tensor:
        """Return `pixels` ([B, 3, S, S]) with the pattern on; gradients flow to both."""
        m = self.opacity()
        return (1 - m) * pixels + m * (torch.tanh(self.pattern) + 1) / 2

    def box(self) -> Box | None:
        """Return the box of what is at least half as opaque as its most opaque pixel."""
        m = self.opacity().detach()[0]
        rows, columns = torch.nonzero(m >= 0.5 * m.max(), as_tuple=True)
        if len(rows) == 0:
            return None
        return (
            int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1,
        )  # fmt: skip
