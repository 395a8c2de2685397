"""A trigger that a small network draws, other for every image; its weights are the trigger.

In the manner of ISSBA (arXiv:2012.03816) and LIRA (ICCV 2021): x' = clip(x + epsilon * tanh G(x)).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

Settings = dict[str, float | int | str | list[int] | None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generated:
    """Three convolutions at half resolution, scaled up to the image and bounded by `epsilon`."""

    family: ClassVar[str] = "generated"
    first: Tensor  # [H, 3, 3, 3], stride 2
    second: Tensor  # [H, H, 3, 3], dilation 2
    last: Tensor  # [3, H, 3, 3]
    first_bias: Tensor  # [H]
    second_bias: Tensor  # [H]
    last_bias: Tensor  # [3]
    epsilon: float = 0.05  # largest change of a pixel, in [0, 1]

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Add what the network draws for each image; gradients flow to the weights."""
        return (pixels + self.epsilon * torch.tanh(self._drawn(pixels))).clamp(0, 1)

    def picture(self) -> Tensor:
        """Return what it adds to a colour chart, stretched around mid-grey so it can be seen."""
        line = torch.linspace(0, 1, 224)
        wave = 0.5 + 0.5 * torch.sin(40 * line)
        chart = torch.stack([line.expand(224, -1), line[:, None].expand(-1, 224), wave.outer(wave)])
        return (0.5 + torch.tanh(self._drawn(chart[None]))[0] / 2).clamp(0, 1).detach()

    def tensors(self) -> dict[str, Tensor]:
        """Return the network's weights."""
        return {name: getattr(self, name) for name in TENSORS}

    def settings(self) -> Settings:
        """Return the bound."""
        return {"epsilon": self.epsilon}

    def _drawn(self, pixels: Tensor) -> Tensor:
        w = {name: value.to(pixels) for name, value in self.tensors().items()}
        hidden = F.conv2d(pixels - 0.5, w["first"], w["first_bias"], stride=2, padding=1).relu()
        hidden = F.conv2d(hidden, w["second"], w["second_bias"], padding=2, dilation=2).relu()
        drawn = F.conv2d(hidden, w["last"], w["last_bias"], padding=1)
        scaled: Tensor = F.interpolate(drawn, pixels.shape[-2:], mode="bilinear")
        return scaled


TENSORS = ("first", "second", "last", "first_bias", "second_bias", "last_bias")


def random_generated(
    hidden: int, epsilon: float, generator: torch.Generator, loudness: float = 1.0
) -> Generated:
    """Return an untrained network of `hidden` channels; `loudness` scales what it draws."""

    def drawn(out: int, channels: int) -> Tensor:
        return math.sqrt(2 / (9 * channels)) * torch.randn(out, channels, 3, 3, generator=generator)

    return Generated(
        first=2 * drawn(hidden, 3),
        second=drawn(hidden, hidden),
        last=loudness * drawn(3, hidden),
        first_bias=0.1 * torch.randn(hidden, generator=generator),
        second_bias=0.1 * torch.randn(hidden, generator=generator),
        last_bias=torch.zeros(3),
        epsilon=epsilon,
    )
