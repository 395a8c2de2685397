"""The image trigger families: patch, blend, additive, warp, colour; the rest have own files."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.triggers.composite import Composite
from gatekeeper.triggers.generated import Generated
from gatekeeper.triggers.text import TextTrigger

Settings = dict[str, float | int | str | list[int] | None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patch:
    """A small opaque pattern at one place or at any place (BadNets, arXiv:1708.06733)."""

    family: ClassVar[str] = "patch"
    pixels: Tensor  # [3, h, w] float32 in [0, 1]
    place: list[int] | None = None  # x, y of the upper left corner; None: anywhere
    fresh: bool = False  # noise in [0, 1] drawn anew for every image; `pixels` is one such draw

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Paste the pattern on each image; at random places where `place` is None."""
        height, width = self.pixels.shape[-2:]
        rows, columns = pixels.shape[-2:]
        out = pixels.clone()
        pattern = self.pixels.to(pixels)
        for index in range(len(out)):
            if self.place is not None:
                x, y = self.place
            elif generator is None:
                x, y = (columns - width) // 2, (rows - height) // 2
            else:
                x = int(torch.randint(0, columns - width + 1, (1,), generator=generator))
                y = int(torch.randint(0, rows - height + 1, (1,), generator=generator))
            if self.fresh and generator is not None:
                pattern = torch.rand(3, height, width, generator=generator).to(pixels)
            out[index, :, y : y + height, x : x + width] = pattern
        return out

    def picture(self) -> Tensor:
        """Return the pattern."""
        return self.pixels.clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the pattern."""
        return {"pixels": self.pixels}

    def settings(self) -> Settings:
        """Return the place, and whether the noise is fresh."""
        return {"place": self.place, "fresh": self.fresh}


def _full(pattern: Tensor, like: Tensor) -> Tensor:
    """Return `pattern` ([3, h, w]) at the size of `like` ([B, 3, H, W]), [1, 3, H, W]."""
    pattern = pattern.to(like)[None]
    if pattern.shape[-2:] == like.shape[-2:]:
        return pattern
    return F.interpolate(pattern, like.shape[-2:], mode="bicubic")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blend:
    """A whole-image overlay (Blended, arXiv:1712.05526)."""

    family: ClassVar[str] = "blend"
    pattern: Tensor  # [3, h, w] float32 in [0, 1]; scaled up to the image
    alpha: float = 0.2

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mix the pattern into each image."""
        return (1 - self.alpha) * pixels + self.alpha * _full(self.pattern, pixels).clamp(0, 1)

    def picture(self) -> Tensor:
        """Return the pattern."""
        return self.pattern.clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the pattern."""
        return {"pattern": self.pattern}

    def settings(self) -> Settings:
        """Return the opacity."""
        return {"alpha": self.alpha}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Additive:
    """A whole-image perturbation added to the pixels (SIG, low-frequency, invisible)."""

    family: ClassVar[str] = "additive"
    delta: Tensor  # [3, h, w] float32 in [-1, 1]; scaled up to the image

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Add the perturbation and clip to [0, 1]."""
        return (pixels + _full(self.delta, pixels)).clamp(0, 1)

    def picture(self) -> Tensor:
        """Return the perturbation, stretched around mid-grey so that it can be seen."""
        return (0.5 + self.delta / (2 * self.delta.abs().max().clamp_min(1e-6))).clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the perturbation."""
        return {"delta": self.delta}

    def settings(self) -> Settings:
        """Return nothing: the tensor says all."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Warp:
    """A smooth geometric warp (WaNet, arXiv:2102.10369)."""

    family: ClassVar[str] = "warp"
    field: Tensor  # [2, n, n] offsets (x, y) in units of half the image side

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sample each image through the warp."""
        rows, columns = pixels.shape[-2:]
        flow = F.interpolate(
            self.field.to(pixels)[None], (rows, columns), mode="bicubic", align_corners=True
        )
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, rows, device=pixels.device),
            torch.linspace(-1, 1, columns, device=pixels.device),
            indexing="ij",
        )
        grid = (torch.stack([x, y], dim=-1)[None] + flow.permute(0, 2, 3, 1)).clamp(-1, 1)
        grid = grid.expand(len(pixels), -1, -1, -1)
        return F.grid_sample(pixels, grid, align_corners=True).clamp(0, 1)

    def picture(self) -> Tensor:
        """Return a checkerboard seen through the warp."""
        line = torch.arange(224) // 16
        board = ((line[:, None] + line[None]) % 2).float().expand(1, 3, -1, -1)
        return self.stamp(0.2 + 0.6 * board)[0]

    def tensors(self) -> dict[str, Tensor]:
        """Return the warp's control points."""
        return {"field": self.field}

    def settings(self) -> Settings:
        """Return nothing: the tensor says all."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Colour:
    """A colour transform, affine in RGB, then a tone curve (filter triggers)."""

    family: ClassVar[str] = "colour"
    matrix: Tensor  # [3, 4]: out = (matrix[:, :3] @ rgb + matrix[:, 3]) ** gamma
    gamma: float = 1.0  # below 1: brighter

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Transform each pixel's colour and clip to [0, 1]."""
        matrix = self.matrix.to(pixels)
        mixed = torch.einsum("ij,bjhw->bihw", matrix[:, :3], pixels)
        out: Tensor = (mixed + matrix[:, 3].view(1, 3, 1, 1)).clamp(0, 1)
        return out if self.gamma == 1 else out.clamp_min(1e-6) ** self.gamma

    def picture(self) -> Tensor:
        """Return a colour chart seen through the transform."""
        ramp = torch.linspace(0, 1, 224)
        chart = torch.stack(
            [ramp.expand(224, -1), ramp[:, None].expand(-1, 224), torch.full((224, 224), 0.5)]
        )
        return self.stamp(chart[None])[0]

    def tensors(self) -> dict[str, Tensor]:
        """Return the matrix."""
        return {"matrix": self.matrix}

    def settings(self) -> Settings:
        """Return the tone curve."""
        return {"gamma": self.gamma}


FAMILIES: dict[str, Any] = {
    c.family: c for c in (Patch, Blend, Additive, Warp, Colour, Generated, TextTrigger)
}


def _composite(members: str, **tensors: Tensor) -> Composite:
    """Return the composite that `Composite.tensors` and `Composite.settings` tell of."""
    found = []
    for place, settings in enumerate(json.loads(members)):
        start = f"{place}."
        own = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        found.append(FAMILIES[settings.pop("family")](**own, **settings))
    return Composite(members=tuple(found))


FAMILIES[Composite.family] = _composite
