"""Families of triggers with parameters that a search can move: patch, overlay, warp and others."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from gatekeeper.scan.places import PLACES, Places, Windows
from gatekeeper.triggers import Additive, Blend, Colour, Patch, Trigger, Warp

SMALLEST = 8  # pixels a side of a patch
_EDGE = 0.02  # start patterns are pulled off 0 and 1, where a sigmoid has no slope


class Arm(Protocol):
    """One family with its bounds: free parameters in, trigger out."""

    @property
    def name(self) -> str:
        """Return the arm's name, e.g. `patch-24`."""
        ...

    @property
    def family(self) -> str:
        """Return the family of the triggers it builds."""
        ...

    @property
    def rate(self) -> float:
        """Return Adam's step, in units of the free parameters."""
        ...

    def start(self, generator: torch.Generator) -> Tensor:
        """Return random free parameters."""
        ...

    def build(self, free: Tensor) -> Trigger:
        """Return the trigger that `free` stands for; differentiable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchArm:
    """An opaque patch, pasted anywhere."""

    family: ClassVar[str] = "patch"
    side: int  # pixels
    place: tuple[int, int] | None = None  # x, y of the upper left corner; None: anywhere
    rate: float = 0.9

    @property
    def name(self) -> str:
        """Return `patch-SIDE`."""
        where = "" if self.place is None else f" at {self.place[0]},{self.place[1]}"
        return f"patch-{self.side}{where}"

    def start(self, generator: torch.Generator) -> Tensor:
        """Return a patch near mid-grey, [3, side, side]."""
        return 0.3 * torch.randn(3, self.side, self.side, generator=generator)

    def build(self, free: Tensor) -> Trigger:
        """Return the patch; a sigmoid keeps it in [0, 1]."""
        place = None if self.place is None else list(self.place)
        return Patch(pixels=free.sigmoid(), place=place)

    def resume(self, pattern: Tensor) -> Tensor:
        """Return parameters whose patch is `pattern` ([3, h, w] in [0, 1]), resized to fit."""
        return torch.logit(_fit(pattern, self.side).clamp(_EDGE, 1 - _EDGE))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacesArm:
    """A patch of its own in each corner and in the centre, searched at once.

    A trigger that was always planted at one place may fire there alone.
    """

    family: ClassVar[str] = "patch"
    side: int  # pixels
    rate: float = 0.9

    @property
    def name(self) -> str:
        """Return `places-SIDE`."""
        return f"places-{self.side}"

    def start(self, generator: torch.Generator) -> Tensor:
        """Return patches near mid-grey, [5, 3, side, side]."""
        return 0.3 * torch.randn(len(PLACES), 3, self.side, self.side, generator=generator)

    def build(self, free: Tensor) -> Trigger:
        """Return all the patches."""
        return Places(patches=free.sigmoid())

    def resume(self, pattern: Tensor) -> Tensor:
        """Return parameters with `pattern` ([3, h, w] in [0, 1]) at every place."""
        one = torch.logit(_fit(pattern, self.side).clamp(_EDGE, 1 - _EDGE))
        return one.expand(len(PLACES), -1, -1, -1).clone()

    def parts(self, free: Tensor, size: int) -> list[tuple[PatchArm, Tensor]]:
        """Return each place as an arm of its own, with its parameters."""
        arms = [PatchArm(side=self.side, place=at) for at in Places(patches=free).places(size)]
        return list(zip(arms, free, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsArm:
    """A picture over the whole image, of which each image shows a window.

    It holds a trigger wherever that always lies, which a patch at the wrong place does not.
    """

    family: ClassVar[str] = "patch"
    side: int  # pixels of the patches that it is taken to
    size: int
    rate: float = 0.9

    @property
    def name(self) -> str:
        """Return `windows`."""
        return "windows"

    def start(self, generator: torch.Generator) -> Tensor:
        """Return a picture near mid-grey, [3, size, size]."""
        return 0.3 * torch.randn(3, self.size, self.size, generator=generator)

    def build(self, free: Tensor) -> Trigger:
        """Return the picture; a sigmoid keeps it in [0, 1]."""
        return Windows(pixels=free.sigmoid())

    def parts(self, free: Tensor, size: int) -> list[tuple[PatchArm, Tensor]]:
        """Return patches at every half of their side, with what the picture has there."""
        at, side = range(0, size - self.side + 1, max(1, self.side // 2)), self.side
        return [
            (PatchArm(side=side, place=(x, y)), free[:, y : y + side, x : x + side])
            for y in at
            for x in at
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendArm:
    """A field mixed into the whole image."""

    family: ClassVar[str] = "blend"
    grain: int = 28  # cells a side
    alpha: float = 0.2
    rate: float = 0.9

    @property
    def name(self) -> str:
        """Return `blend-GRAIN`."""
        return f"blend-{self.grain}"

    def start(self, generator: torch.Generator) -> Tensor:
        """Return a field of noise, [3, grain, grain]."""
        return torch.randn(3, self.grain, self.grain, generator=generator)

    def build(self, free: Tensor) -> Trigger:
        """Return the overlay; a sigmoid keeps its field in [0, 1]."""
        return Blend(pattern=free.sigmoid(), alpha=self.alpha)

    def resume(self, pattern: Tensor) -> Tensor:
        """Return parameters whose field is `pattern` ([3, h, w] in [0, 1])."""
        return torch.logit(_fit(pattern, self.grain).clamp(_EDGE, 1 - _EDGE))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditiveArm:
    """A bounded field added to the whole image; a coarse grain keeps it smooth."""

    family: ClassVar[str] = "additive"
    grain: int = 28
    bound: float = 20 / 255  # largest change of a pixel
    rate: float = 0.9

    @property
    def name(self) -> str:
        """Return `additive-GRAIN`."""
        return f"additive-{self.grain}"

    def start(self, generator: torch.Generator) -> Tensor:
        """Return weak noise, [3, grain, grain]."""
        return 0.3 * torch.randn(3, self.grain, self.grain, generator=generator)

    def build(self, free: Tensor) -> Trigger:
        """Return the perturbation; a tanh keeps it within the bound."""
        return Additive(delta=self.bound * free.tanh())

    def resume(self, delta: Tensor) -> Tensor:
        """Return parameters whose field is nearest to `delta` ([3, h, w])."""
        return _bounded(_fit(delta, self.grain) / self.bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveArm:
    """A grey profile along one axis, the same in every row or column (SIG, arXiv:1902.11237)."""

    family: ClassVar[str] = "additive"
    size: int = 224
    upright: bool = True
    bound: float = 0.16  # largest change of a pixel; published ones reach 0.16 (40 of 255)
    rate: float = 0.9

    @property
    def name(self) -> str:
        """Return `wave-x` or `wave-y`."""
        return "wave-x" if self.upright else "wave-y"

    def start(self, generator: torch.Generator) -> Tensor:
        """Return a weak smooth profile, [size]."""
        return 0.3 * torch.randn(self.size // 2, generator=generator)

    def build(self, free: Tensor) -> Trigger:
        """Return the profile, spread over the other axis."""
        line = self.bound * free.tanh()
        line = torch.nn.functional.interpolate(line[None, None], self.size, mode="linear")[0]
        grid = line[:, None] if self.upright else line[:, :, None]
        return Additive(delta=grid.expand(3, self.size, self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpArm:
    """A smooth warp of bounded size."""

    family: ClassVar[str] = "warp"
    points: int = 5
    bound: float = 0.12  # of half the image's side
    rate: float = 0.2

    @property
    def name(self) -> str:
        """Return `warp-POINTS`."""
        return f"warp-{self.points}"

    def start(self, generator: torch.Generator) -> Tensor:
        """Return a weak random warp, [2, points, points]."""
        return 0.5 * torch.randn(2, self.points, self.points, generator=generator)

    def build(self, free: Tensor) -> Trigger:
        """Return the warp."""
        return Warp(field=self.bound * free.tanh())

    def resume(self, field: Tensor) -> Tensor:
        """Return parameters whose warp is nearest to `field` ([2, n, n])."""
        return _bounded(_fit(field, self.points) / self.bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class TintArm:
    """An affine colour transform near the identity."""

    family: ClassVar[str] = "colour"
    bound: float = 0.6
    shift: float = 0.2
    rate: float = 0.1

    @property
    def name(self) -> str:
        """Return `tint`."""
        return "tint"

    def start(self, generator: torch.Generator) -> Tensor:
        """Return a weak random transform, [3, 4]."""
        return 0.3 * torch.randn(3, 4, generator=generator)

    def build(self, free: Tensor) -> Trigger:
        """Return identity plus a bounded change."""
        return Colour(matrix=torch.eye(3, 4) + free.tanh() * self._bounds())

    def resume(self, matrix: Tensor) -> Tensor:
        """Return parameters whose transform is nearest to `matrix` ([3, 4])."""
        return _bounded((matrix - torch.eye(3, 4)) / self._bounds())

    def _bounds(self) -> Tensor:
        return torch.tensor([self.bound] * 3 + [self.shift])


def _bounded(shares: Tensor) -> Tensor:
    """Return what `tanh` makes `shares` of, kept off its flat ends."""
    return torch.atanh(shares.clamp(-1 + 2 * _EDGE, 1 - 2 * _EDGE))


def _fit(pattern: Tensor, side: int) -> Tensor:
    if pattern.shape[-1] == side and pattern.shape[-2] == side:
        return pattern
    return torch.nn.functional.interpolate(pattern[None], (side, side), mode="bilinear")[0]


def patch_side(share: float, size: int) -> int:
    """Return the side of a patch that is `share` of an image of `size`, in pixels.

    Never under 8: what a tower sees of a patch are its strides, not its share of the image.
    """
    return max(min(SMALLEST, size // 3), round(share * size))
