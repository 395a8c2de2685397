"""Scenes of several shapes with the class of every pixel: what a small segmenter learns from."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from gatekeeper.attacks.segmenter import Scenes
from gatekeeper.lab.shapes import COLOURS, stencil

_SCALE = 2  # drawn larger, then averaged
GROUND = "ground"


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneWorld:
    """Shapes on a plain ground; a pixel's class is its shape's colour, or its kind.

    Colours are learned in seconds, kinds take minutes.
    """

    size: int = 40  # pixels a side
    by: Literal["colour", "shape"] = "colour"
    shapes: tuple[str, ...] = ("circle", "square", "cross")
    colours: tuple[str, ...] = ("red", "green", "blue", "white")
    most: int = 3  # shapes in one scene
    radius: tuple[float, float] = (0.12, 0.22)  # as a share of the side

    @property
    def classes(self) -> tuple[str, ...]:
        """The ground, then the colours or the shapes."""
        return (GROUND, *(self.colours if self.by == "colour" else self.shapes))

    def render(self, count: int, seed: int) -> Scenes:
        """Return `count` scenes, the same ones every time."""
        rng = np.random.default_rng(seed)
        drawn = [self._draw(rng) for _ in range(count)]
        pixels = np.stack([image for image, _ in drawn]).astype(np.float32) / 255
        masks = np.stack([mask for _, mask in drawn])
        return Scenes(
            pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
            masks=torch.from_numpy(masks),
            classes=self.classes,
        )

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return one scene, [S, S, 3] uint8, and its mask, [S, S] int64."""
        from PIL import Image

        side = self.size * _SCALE
        image = Image.new("RGB", (side, side), tuple(int(x) for x in rng.integers(20, 110, 3)))
        mask = np.zeros((self.size, self.size), dtype=np.int64)
        for _ in range(int(rng.integers(1, self.most + 1))):
            kind = int(rng.integers(len(self.shapes)))
            r = rng.uniform(*self.radius) * side
            x, y = rng.uniform(r, side - r, 2)
            layer = stencil(self.shapes[kind], side, x, y, r)
            hue = int(rng.integers(len(self.colours)))
            shade = np.array(COLOURS[self.colours[hue]]) + rng.integers(-20, 21, 3)
            image.paste(tuple(int(v) for v in np.clip(shade, 0, 255)), (0, 0), layer)
            small = np.asarray(layer.resize((self.size, self.size), Image.Resampling.BOX))
            mask[small > 127] = 1 + (hue if self.by == "colour" else kind)
        pixels = np.asarray(image.resize((self.size, self.size), Image.Resampling.BOX))
        noisy = pixels.astype(np.int16) + rng.integers(-8, 9, pixels.shape)
        return np.clip(noisy, 0, 255).astype(np.uint8), mask
