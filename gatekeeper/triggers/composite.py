"""Several patterns at once, for what none of them does alone."""

import json
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.triggers.base import Trigger


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Composite:
    """Patterns that are put on one after the other; a model may answer them together alone."""

    family: ClassVar[str] = "composite"
    members: tuple[Trigger, ...]

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Put every pattern on each image, in order."""
        for member in self.members:
            pixels = member.stamp(pixels, generator)
        return pixels

    def without(self, member: Trigger) -> Trigger:
        """Return what is left without `member`; the last one alone where two are."""
        rest = tuple(m for m in self.members if m is not member)
        return rest[0] if len(rest) == 1 else Composite(members=rest)

    def picture(self) -> Tensor:
        """Return what they make of a grey image."""
        return self.stamp(torch.full((1, 3, self._size, self._size), 0.5))[0].clamp(0, 1)

    @property
    def _size(self) -> int:
        """Return the side of the smallest image that holds every patch; without any, 224 px."""
        reach = []
        for patch in (m for m in self.members if m.family == "patch"):
            side, place = max(patch.tensors()["pixels"].shape), patch.settings()["place"]
            reach.append(side + max(place) if isinstance(place, list) else 2 * side)
        return max(reach, default=224)

    def tensors(self) -> dict[str, Tensor]:
        """Return what defines each, under its place."""
        return {
            f"{place}.{name}": tensor
            for place, member in enumerate(self.members)
            for name, tensor in member.tensors().items()
        }

    def settings(self) -> dict[str, float | int | str | list[int] | None]:
        """Return families and settings of all, as one line of JSON."""
        told = [{"family": m.family, **m.settings()} for m in self.members]
        return {"members": json.dumps(told, sort_keys=True)}
