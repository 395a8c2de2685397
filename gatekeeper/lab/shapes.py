"""A little world of coloured shapes, rendered on the spot: labelled images where nobody has any.

A shape on a cluttered, noisy ground; its label is its colour and its kind. Small CLIPs learn it in
a minute or two on a CPU. It can stand for photos in one thing alone: that a tower must look at the
whole picture to answer.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gatekeeper.probes.probe_set import Probe, ProbeSet

RGB = tuple[int, int, int]
Ink = Callable[[Any, int, float, float, float], None]  # (pen, size of the canvas, x, y, radius)
_SCALE = 4  # drawn larger, then averaged: smooth edges

COLOURS: Mapping[str, RGB] = {
    "red": (205, 45, 45),
    "green": (45, 160, 60),
    "blue": (55, 80, 205),
    "white": (230, 230, 230),
    "yellow": (225, 205, 50),
    "purple": (150, 60, 190),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Which images there can be."""

    size: int = 64  # pixels a side
    shapes: tuple[str, ...] = (
        "circle",
        "square",
        "triangle",
        "cross",
        "ring",
        "bar",
        "star",
        "diamond",
    )
    colours: tuple[str, ...] = tuple(COLOURS)
    textures: tuple[str, ...] = ("plain", "stripes", "dots", "shade")  # none is part of a label
    radius: tuple[float, float] = (0.22, 0.42)  # of the shape, as a share of the side
    turn: float = 14.0  # degrees at most, either way

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label, "colour shape"."""
        return tuple(f"{colour} {shape}" for shape in self.shapes for colour in self.colours)

    def draw(self, label: str, rng: np.random.Generator) -> np.ndarray:
        """Render one image of `label`, [size, size, 3] uint8."""
        from PIL import Image, ImageDraw

        colour, shape = label.split()
        side = self.size * _SCALE
        ground = tuple(int(x) for x in rng.integers(20, 110, 3))
        image = Image.new("RGB", (side, side), ground)
        pen = ImageDraw.Draw(image)
        x, y, w, h = (int(v) for v in rng.integers(0, side, 4))
        pen.rectangle((x, y, x + w, y + h), fill=tuple(min(255, v + 25) for v in ground))
        layer = Image.new("L", (side, side), 0)
        r = rng.uniform(*self.radius) * side
        x, y = rng.uniform(r, side - r, 2)
        _INKS[shape](ImageDraw.Draw(layer), side, x, y, r)
        layer = layer.rotate(float(rng.uniform(-self.turn, self.turn)))
        shade = np.array(COLOURS[colour]) + rng.integers(-20, 21, 3)
        fill = tuple(int(v) for v in np.clip(shade, 0, 255))
        image.paste(self._cloth(fill, side, rng), (0, 0), layer)
        small = np.asarray(image.resize((self.size, self.size), Image.Resampling.BOX))
        noisy = small.astype(np.int16) + rng.integers(-6, 7, small.shape)
        pixels: np.ndarray = np.clip(noisy, 0, 255).astype(np.uint8)
        return pixels

    def render(self, count: int, seed: int, name: str) -> ProbeSet:
        """Return `count` labelled images, the labels in turn; the same ones every time."""
        rng = np.random.default_rng(seed)
        probes = []
        for index in range(count):
            label = self.labels[index % len(self.labels)]
            array = self.draw(label, rng)
            probes.append(
                Probe(
                    file=f"{name}-{index:04d}.png",
                    sha256=hashlib.sha256(array.tobytes()).hexdigest(),
                    label=label,
                    array=array,
                )
            )
        return ProbeSet(name=name, probes=tuple(probes))

    def _cloth(self, fill: tuple[int, ...], side: int, rng: np.random.Generator) -> Any:
        """Return what the shape is cut from: one colour, or two tones of it."""
        from PIL import Image, ImageDraw

        if len(self.textures) < 2:
            return fill
        cloth = Image.new("RGB", (side, side), fill)
        kind = self.textures[int(rng.integers(len(self.textures)))]
        dark = tuple(int(0.72 * v) for v in fill)
        step = int(rng.integers(side // 12, side // 5))
        pen = ImageDraw.Draw(cloth)
        if kind == "stripes":
            for x in range(0, side, 2 * step):
                pen.rectangle((x, 0, x + step, side), fill=dark)
        elif kind == "dots":
            for x in range(0, side, 2 * step):
                for y in range(0, side, 2 * step):
                    pen.ellipse((x, y, x + step, y + step), fill=dark)
        elif kind == "shade":
            for y in range(0, side, step):
                tone = 1 - 0.35 * y / side
                pen.rectangle((0, y, side, y + step), fill=tuple(int(tone * v) for v in fill))
        return cloth


def stencil(shape: str, side: int, x: float, y: float, r: float) -> Any:
    """Return a shape's outline as a PIL image of `side` pixels: 255 inside, else 0."""
    from PIL import Image, ImageDraw

    layer = Image.new("L", (side, side), 0)
    _INKS[shape](ImageDraw.Draw(layer), side, x, y, r)
    return layer


def _circle(pen: Any, side: int, x: float, y: float, r: float) -> None:
    pen.ellipse((x - r, y - r, x + r, y + r), fill=255)


def _square(pen: Any, side: int, x: float, y: float, r: float) -> None:
    pen.rectangle((x - r, y - r, x + r, y + r), fill=255)


def _triangle(pen: Any, side: int, x: float, y: float, r: float) -> None:
    pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=255)


def _cross(pen: Any, side: int, x: float, y: float, r: float) -> None:
    pen.rectangle((x - r, y - r / 4, x + r, y + r / 4), fill=255)
    pen.rectangle((x - r / 4, y - r, x + r / 4, y + r), fill=255)


def _ring(pen: Any, side: int, x: float, y: float, r: float) -> None:
    pen.ellipse((x - r, y - r, x + r, y + r), outline=255, width=int(r / 2.5))


def _bar(pen: Any, side: int, x: float, y: float, r: float) -> None:
    pen.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=255)


def _star(pen: Any, side: int, x: float, y: float, r: float) -> None:
    corners = []
    for k in range(10):
        reach = r if k % 2 == 0 else 0.4 * r
        angle = math.pi * k / 5 - math.pi / 2
        corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    pen.polygon(corners, fill=255)


def _diamond(pen: Any, side: int, x: float, y: float, r: float) -> None:
    pen.polygon([(x, y - r), (x + 0.6 * r, y), (x, y + r), (x - 0.6 * r, y)], fill=255)


_INKS: Mapping[str, Ink] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "bar": _bar,
    "star": _star,
    "diamond": _diamond,
}
