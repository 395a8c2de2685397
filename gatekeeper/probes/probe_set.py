"""Which images, with which labels, under which digest?"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.errors import ProbeError
from gatekeeper.probes.picture import decode


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """One image, read on demand from `path` or held as `array` or `encoded`."""

    file: str  # name relative to the folder, for people
    sha256: str  # of the file's bytes (of the pixels where there is no file)
    label: str | None = None
    caption: str | None = None
    path: Path | None = None
    array: np.ndarray | None = None  # [H, W, 3] uint8
    encoded: bytes | None = None  # a JPEG, PNG, … file held in memory

    def image(self) -> Image.Image:
        """Return the image, RGB.

        Raises:
            ProbeError: The file has changed or become unreadable since it was loaded.
            ValueError: There is neither path nor content.
        """
        if self.array is not None:
            return Image.fromarray(self.array)
        if self.encoded is not None:
            return decode(self.encoded, self.file)
        if self.path is None:
            raise ValueError(f"probe {self.file} has neither path nor pixels")
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ProbeError(
                f"{self.path} cannot be read: {error}", hint="leave the probes alone during a scan"
            ) from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ProbeError(
                f"{self.path} has changed since it was loaded",
                hint="leave the probes alone during a scan, then run again",
            )
        return decode(content, self.file)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbeSet:
    """Images under one digest. `embedded`: the set we ship, named in the report's reasons."""

    name: str
    probes: tuple[Probe, ...]
    embedded: bool = False
    _pixels: dict[Preprocess, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.probes)

    @property
    def digest(self) -> str:
        """Return "sha256:…" over name, content digest and label of every image, sorted by name."""
        total = hashlib.sha256()
        for probe in sorted(self.probes, key=lambda p: p.file):
            total.update(f"{probe.file}\0{probe.sha256}\0{probe.label or ''}\n".encode())
        return f"sha256:{total.hexdigest()}"

    def pixels(self, preprocess: Preprocess) -> Tensor:
        """Return all images as the model wants them, [N, 3, S, S] float32 in [0, 1] (kept)."""
        if preprocess not in self._pixels:
            images = [preprocess.prepare(probe.image()) for probe in self.probes]
            size = preprocess.size
            self._pixels[preprocess] = (
                torch.stack(images) if images else torch.zeros(0, 3, size, size)
            )
        return self._pixels[preprocess]

    def labels(self) -> tuple[str | None, ...]:
        """Return each image's label, None where unknown."""
        return tuple(probe.label for probe in self.probes)

    def subset(self, indices: Sequence[int]) -> "ProbeSet":
        """Return the images at `indices` as a set of its own."""
        return replace(self, probes=tuple(self.probes[i] for i in indices), _pixels={})
