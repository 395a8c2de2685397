"""What a segmenter must do, and what a region is."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """A part of an image that a segmenter holds for one thing."""

    mask: np.ndarray  # [H, W] bool, in the pixels of the image it was made of
    box: tuple[int, int, int, int]  # x0, y0, x1, y1, half open
    score: float  # the segmenter's own confidence, 0..1
    kind: str = "segment"  # segment | window | point

    @property
    def area_fraction(self) -> float:
        """Share of the image the mask covers, 0..1."""
        return float(self.mask.mean())


@runtime_checkable
class Segmenter(Protocol):
    """A plug-in of group `gatekeeper.oracles`; a frozen dataclass, its fields hyper-parameters."""

    name: ClassVar[str]

    @property
    def digest(self) -> str:
        """Return "sha256:…" over every parameter and weight that changes an answer."""
        ...

    def regions(self, image: np.ndarray, runtime: Runtime) -> tuple[Region, ...]:
        """Return the regions of `image` ([H, W, 3] uint8 RGB), the same ones every time."""
        ...

    def at_points(
        self, image: np.ndarray, points: tuple[tuple[int, int], ...], runtime: Runtime
    ) -> tuple[Region, ...]:
        """Return the regions at `points` (x, y) of `image`, one or more a point."""
        ...


class CleanImages(Protocol):
    """Images the gate trusts, as far as the oracle needs them (`probes.ProbeSet` is one)."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def pixels(self, preprocess: Preprocess) -> Tensor:
        """Return them as a model wants them, [N, 3, S, S] float32 in [0, 1]."""
        ...

    def labels(self) -> tuple[str | None, ...]:
        """Return each image's label, None where unknown."""
        ...
