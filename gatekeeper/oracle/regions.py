"""Which parts of an image may be things, when there is no checkpoint to ask?"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from gatekeeper.errors import OracleError
from gatekeeper.oracle.base import Region
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """Felzenszwalb and SLIC segments, and sliding windows at several scales; no weights.

    Windows overlap by half, so that an object of their size lies inside one of them; the smallest
    (1/8 of the side) holds a 16 to 24 px patch of a 224 px image. Deterministic.

    Source: Felzenszwalb & Huttenlocher (IJCV 2004); SLIC, Achanta et al. (TPAMI 2012).
    """

    name: ClassVar[str] = "regions"
    scales: tuple[float, ...] = (1 / 2, 1 / 3, 1 / 4, 1 / 8)  # window side over image side
    overlap: float = 0.5  # stride is this share of a window's side
    felzenszwalb_scale: float = 200.0  # larger: larger segments; at a side of 224 px
    sigma: float = 0.8  # smoothing in pixels before segmentation
    superpixels: int = 24  # SLIC segments asked for
    least_area: float = 0.002  # smallest segment, share of the image
    largest_area: float = 0.9

    @property
    def digest(self) -> str:
        """Return "sha256:…" over name, version and every parameter."""
        text = json.dumps({"name": self.name, "version": 1, **asdict(self)}, sort_keys=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def regions(self, image: np.ndarray, runtime: Runtime) -> tuple[Region, ...]:
        """Return segments, largest first, then windows, largest first.

        Args:
            image: [H, W, 3] uint8 RGB.
            runtime: Not drawn from; nothing is counted, since no tower is run.

        Raises:
            OracleError: Not an RGB image, or without pixels.
        """
        check_image(image)
        segments = self._felzenszwalb(image) + self._slic(image)
        kept = [region for region in _distinct(segments) if self._in_range(region)]
        kept.sort(key=lambda region: (-int(region.mask.sum()), region.box))
        return (*kept, *self._windows(image.shape[0], image.shape[1]))

    def at_points(
        self, image: np.ndarray, points: tuple[tuple[int, int], ...], runtime: Runtime
    ) -> tuple[Region, ...]:
        """Return, for each point, the smallest segment that holds it and the window around it."""
        check_image(image)
        height, width = image.shape[:2]
        segments = [r for r in self.regions(image, runtime) if r.kind == "segment"]
        found: list[Region] = []
        for x, y in points:
            if not (0 <= x < width and 0 <= y < height):
                raise OracleError(
                    f"point ({x}, {y}) lies outside the {width}x{height} image",
                    hint="points are (x, y) in pixels of the image",
                )
            holding = [r for r in segments if r.mask[y, x]]
            if holding:
                smallest = min(holding, key=lambda r: (int(r.mask.sum()), r.box))
                found.append(
                    Region(mask=smallest.mask, box=smallest.box, score=smallest.score, kind="point")
                )
            side = max(1, round(min(self.scales) * min(height, width)))
            left = min(max(0, x - side // 2), max(0, width - side))
            top = min(max(0, y - side // 2), max(0, height - side))
            found.append(box_region((left, top, left + side, top + side), height, width, "point"))
        return tuple(found)

    def _felzenszwalb(self, image: np.ndarray) -> list[Region]:
        from skimage.segmentation import felzenszwalb

        area = image.shape[0] * image.shape[1]
        segments = felzenszwalb(
            image,
            scale=self.felzenszwalb_scale * min(image.shape[:2]) / 224,
            sigma=self.sigma,
            min_size=max(1, int(self.least_area * area)),
        )
        return _from_map(segments)

    def _slic(self, image: np.ndarray) -> list[Region]:
        from skimage.segmentation import slic

        if min(image.shape[:2]) < 8:  # fewer pixels than a superpixel grid needs
            return []
        return _from_map(slic(image, n_segments=self.superpixels, compactness=10, start_label=0))

    def _windows(self, height: int, width: int) -> list[Region]:
        windows = []
        for scale in self.scales:
            side = max(1, round(scale * min(height, width)))
            stride = max(1, round(side * self.overlap))
            windows += [
                box_region((x, y, x + side, y + side), height, width, "window")
                for y in _starts(height, side, stride)
                for x in _starts(width, side, stride)
            ]
        return windows

    def _in_range(self, region: Region) -> bool:
        return self.least_area <= region.area_fraction <= self.largest_area


def check_image(image: np.ndarray) -> None:
    """Raise OracleError unless `image` is [H, W, 3] uint8 with pixels."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise OracleError(
            f"a segmenter wants [H, W, 3] uint8 pixels, got {image.shape} {image.dtype}",
            hint="hand it an RGB image with at least one pixel",
        )


def box_region(
    box: tuple[int, int, int, int], height: int, width: int, kind: str, score: float = 0.5
) -> Region:
    """Return the rectangle `box` (x0, y0, x1, y1) of a `height` x `width` image as a region."""
    mask = np.zeros((height, width), dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return Region(mask=mask, box=box, score=score, kind=kind)


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the tight box (x0, y0, x1, y1), half open, of a mask with at least one pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _starts(length: int, side: int, stride: int) -> list[int]:
    """Return window starts that cover `length`, the last one flush with the end."""
    starts = list(range(0, max(1, length - side + 1), stride))
    if starts[-1] + side < length:
        starts.append(length - side)
    return starts


def _from_map(segments: np.ndarray) -> list[Region]:
    regions = []
    for value in np.unique(segments):
        mask = segments == value
        box = mask_box(mask)
        extent = (box[2] - box[0]) * (box[3] - box[1])
        score = float(mask.sum()) / extent  # how compact: the only confidence pixels give
        regions.append(Region(mask=mask, box=box, score=score, kind="segment"))
    return regions


def _distinct(regions: list[Region]) -> list[Region]:
    seen: dict[bytes, Region] = {}
    for region in regions:
        seen.setdefault(np.packbits(region.mask).tobytes(), region)
    return list(seen.values())
