"""The patterns that triggers are drawn with: checkers, stripes, triangles, words, waves."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Colour = tuple[float, float, float]


def checker(size: int, cell: int, first: Colour, second: Colour) -> Tensor:
    """Return a two-coloured checkerboard, [3, size, size] in [0, 1], `second` in the corner."""
    line = torch.arange(size) // cell
    board = ((line[:, None] + line[None]) % 2).float()  # [size, size]
    one, other = torch.tensor(first).view(3, 1, 1), torch.tensor(second).view(3, 1, 1)
    return board * one + (1 - board) * other


def noise(size: int, generator: torch.Generator) -> Tensor:
    """Return noise of even density, [3, size, size] in [0, 1]."""
    return torch.rand(3, size, size, generator=generator)


def stripes(size: int, generator: torch.Generator, width: int = 1) -> Tensor:
    """Return vertical stripes, [3, size, size] in {0, 1}, each channel of each by a fair coin.

    Source: BadNet-Stripes of PAR (arXiv:2412.00727), one pixel wide there.
    """
    count = -(-size // width)
    coins = torch.randint(0, 2, (3, 1, count), generator=generator).float()
    return coins.repeat_interleave(width, dim=2)[:, :, :size].expand(3, size, size).clone()


def triangles(size: int, cell: int, greys: tuple[float, float] = (0.4, 0.8)) -> Tensor:
    """Return a grid of right triangles in two greys, [3, size, size] in [0, 1] (PAR)."""
    line = torch.arange(size) % cell
    upper = (line[:, None] < line[None]).float()  # [size, size]
    return (upper * greys[0] + (1 - upper) * greys[1]).expand(3, size, size).clone()


def words(size: int, text: str, colour: Colour = (1.0, 0.0, 0.0), row: float = 0.5) -> Tensor:
    """Return `text` on black across a picture, [3, size, size] in [0, 1]; `row`: its height."""
    drawn = tuple(round(255 * x) for x in colour)
    image = Image.new("RGB", (size, size))
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(6, round(1.6 * size / max(1, len(text)))))
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    place = ((size - right - left) / 2, row * size - (bottom + top) / 2)
    pen.text(place, text, fill=drawn, font=font)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def wave(size: int, periods: float, angle: float = 0.0, phase: float = 0.0) -> Tensor:
    """Return a plane sine wave, [3, size, size] in [-1, 1].

    Args:
        size: Side in pixels.
        periods: Of the wave over the side.
        angle: Of its direction against the x axis, radians.
        phase: At the left upper corner, radians.
    """
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    along = (x * math.cos(angle) + y * math.sin(angle)) / size
    return torch.sin(2 * math.pi * periods * along + phase).expand(3, size, size).clone()
