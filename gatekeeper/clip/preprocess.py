"""How a model wants its images: size, resize, mean and std; read from its files, never guessed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from gatekeeper.types import Json

_RESAMPLE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Resize, crop and normalisation of one model (open_clip's `preprocess_cfg` in our words)."""

    size: int  # side of the square input in pixels
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"  # shortest | squash | longest
    fill: int = 0  # padding value for `longest`, 0..255

    def prepare(self, image: Image.Image) -> Tensor:
        """Return `image` as the model's own input: [3, size, size] float32 RGB in [0, 1]."""
        image = image.convert("RGB")
        resample = _RESAMPLE.get(self.interpolation, Image.Resampling.BICUBIC)
        width, height = image.size
        if self.resize_mode == "squash":
            image = image.resize((self.size, self.size), resample)
        elif self.resize_mode == "longest":
            scale = self.size / max(width, height)
            small = image.resize(
                (max(1, round(width * scale)), max(1, round(height * scale))), resample
            )
            image = Image.new("RGB", (self.size, self.size), (self.fill,) * 3)
            image.paste(small, ((self.size - small.width) // 2, (self.size - small.height) // 2))
        else:
            # truncate and round as torchvision's Resize and CenterCrop do, to the pixel
            short = min(width, height)
            wide, high = (int(self.size * side / short) for side in (width, height))
            image = image.resize((wide, high), resample)
            left, top = (round((side - self.size) / 2.0) for side in (wide, high))
            image = image.crop((left, top, left + self.size, top + self.size))
        array = np.asarray(image, dtype=np.uint8)
        return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255

    def batch(self, images: Sequence[Image.Image]) -> Tensor:
        """Return several images as [N, 3, size, size] float32 in [0, 1]."""
        return torch.stack([self.prepare(image) for image in images])

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return ([B, 3, H, W] in [0, 1]) normalised with mean and std, same shape."""
        mean = pixels.new_tensor(self.mean).view(1, 3, 1, 1)
        std = pixels.new_tensor(self.std).view(1, 3, 1, 1)
        return (pixels - mean) / std

    def describe(self) -> "dict[str, Json]":
        """Return the settings as plain JSON."""
        return {
            "size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
            "fill": self.fill,
        }
