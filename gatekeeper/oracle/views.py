"""What is the labeler shown of an image: which regions, cut out how?"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.errors import OracleError
from gatekeeper.oracle.base import Region

CONTEXT = 1.2  # side of a crop over the longer side of its region's box (detection, section 1.7 i)
DISTINCT = 0.7  # regions whose masks overlap more (intersection over union) show the same thing
HIDDEN, STEP = 5 / 14, 3 / 14  # of the side: 80 px and 48 px of 224, so 32 px fit in one place
SMALLEST = 0.01  # of the image: below, a crop scaled up holds too little for any labeler


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Views:
    """Crops of one image; the first is the whole image."""

    pixels: Tensor  # [J, 3, S, S] float32 in [0, 1]
    boxes: np.ndarray  # [J, 4] int32 x0, y0, x1, y1 of what each shows, pixels of the image
    hidden: np.ndarray  # [J, 4] int32 x0, y0, x1, y1 of what is painted over in it; zeros: nothing


def choose(regions: tuple[Region, ...], shape: tuple[int, int], at_most: int) -> list[Region]:
    """Return at most `at_most` regions worth showing: halves and centre, then what covers most.

    The half windows come first, so that for every small part of the image several views exclude
    it (self-consistency rests on that); then segments, then smaller windows, each by area and
    none that repeats another.
    """
    height, width = shape
    half = 0.4 * min(height, width)
    halves = [r for r in regions if r.kind == "window" and _side(r.box) >= half]
    corners = _corners(halves, height, width) if halves else _quarters(height, width)
    order = {"segment": 0, "point": 0, "window": 1}
    rest = sorted(
        (r for r in regions if r.area_fraction >= SMALLEST),
        key=lambda r: (order.get(r.kind, 2), -r.area_fraction, r.box),
    )
    chosen = corners[:at_most]
    for region in rest:
        if len(chosen) >= at_most:
            break
        if all(_overlap(region.mask, other.mask) < DISTINCT for other in chosen):
            chosen.append(region)
    return chosen


def cut(image: np.ndarray, regions: list[Region], size: int, *, masked: bool = False) -> Views:
    """Return the whole image, then each region with context.

    Args:
        image: [H, W, 3] uint8 RGB.
        regions: Of this image.
        size: Side of the labeler's input in pixels.
        masked: Add each segment a second time, its surroundings replaced by the image's mean.
    """
    whole = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255  # [3, H, W]
    mean = whole.mean(dim=(1, 2), keepdim=True)
    height, width = image.shape[:2]
    parts, boxes = [_scaled(whole, size)], [(0, 0, width, height)]
    for region in regions:
        left, top, right, bottom = square(region.box, height, width)
        parts.append(_scaled(whole[:, top:bottom, left:right], size))
        boxes.append((left, top, right, bottom))
    for region in regions if masked else ():
        if region.kind == "window":  # nothing to hide: the mask is the box
            continue
        left, top, right, bottom = square(region.box, height, width)
        mask = torch.from_numpy(region.mask)
        alone = torch.where(mask, whole, mean)
        parts.append(_scaled(alone[:, top:bottom, left:right], size))
        boxes.append(region.box)
    boxed = np.asarray(boxes, dtype=np.int32)
    return Views(pixels=torch.cat(parts), boxes=boxed, hidden=np.zeros_like(boxed))


def with_hidden(views: Views, image: np.ndarray, size: int) -> Views:
    """Return `views` and 16 more: the whole image, each with another square painted over.

    The squares overlap, so that any patch up to 1/7 of the side lies inside one of them whole.
    """
    whole = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255  # [3, H, W]
    mean = whole.mean(dim=(1, 2))[:, None, None]
    height, width = image.shape[:2]
    parts, places = [views.pixels], []
    for row in range(4):
        for column in range(4):
            left, top = round(column * STEP * width), round(row * STEP * height)
            right, bottom = left + round(HIDDEN * width), top + round(HIDDEN * height)
            painted = whole.clone()
            painted[:, top:bottom, left:right] = mean
            parts.append(_scaled(painted, size))
            places.append((left, top, min(right, width), min(bottom, height)))
    hidden = np.asarray(places, dtype=np.int32)
    full = np.tile(np.asarray([[0, 0, width, height]], dtype=np.int32), (len(places), 1))
    return Views(
        pixels=torch.cat(parts),
        boxes=np.concatenate([views.boxes, full]),
        hidden=np.concatenate([views.hidden, hidden]),
    )


def to_bytes(pixels: Tensor) -> np.ndarray:
    """Return one image ([3, H, W] float32 in [0, 1]) as [H, W, 3] uint8, the oracle's currency.

    Raises:
        OracleError: Another shape, or no pixels.
    """
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.numel() == 0:
        raise OracleError(
            f"the oracle wants one image [3, H, W], got {tuple(pixels.shape)}",
            hint="hand it an RGB image with at least one pixel",
        )
    scaled = pixels.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    array: np.ndarray = scaled.permute(1, 2, 0).contiguous().cpu().numpy()
    return array


def square(box: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """Return the square with context around `box`, moved and clipped into the image."""
    left, top, right, bottom = box
    side = round(CONTEXT * max(right - left, bottom - top))
    wide, high = min(side, width), min(side, height)
    x = min(max(0, (left + right - wide) // 2), width - wide)
    y = min(max(0, (top + bottom - high) // 2), height - high)
    return x, y, x + wide, y + high


def _scaled(part: Tensor, size: int) -> Tensor:
    if part.shape[-2:] == (size, size):
        return part[None]
    scaled = F.interpolate(part[None], (size, size), mode="bicubic", antialias=True)
    return scaled.clamp(0, 1)


def _quarters(height: int, width: int) -> list[Region]:
    from gatekeeper.oracle.regions import Regions

    every = Regions(scales=(1 / 2,))._windows(height, width)
    return _corners(every, height, width)


def _corners(windows: list[Region], height: int, width: int) -> list[Region]:
    """Return the windows nearest the centre and the four corners, in that order, each once."""
    places = [(0.5, 0.5), (0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]
    found: list[Region] = []
    for x, y in places:
        nearest = min(
            windows,
            key=lambda r: (
                abs((r.box[0] + r.box[2]) / 2 - x * width)
                + abs((r.box[1] + r.box[3]) / 2 - y * height),
                r.box,
            ),
        )
        if all(nearest.box != other.box for other in found):
            found.append(nearest)
    return found


def _side(box: tuple[int, int, int, int]) -> int:
    return min(box[2] - box[0], box[3] - box[1])


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    both = int(np.logical_and(one, other).sum())
    return both / max(1, int(one.sum()) + int(other.sum()) - both)
