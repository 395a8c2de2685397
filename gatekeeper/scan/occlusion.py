"""Which small window of an image makes the suspect say what it says?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.runtime import Runtime
from gatekeeper.scan.pair import Pair

Box = tuple[int, int, int, int]  # x0, y0, x1, y1, half open

# Side and stride of the windows, in shares of the image. Neighbours of the first pass overlap by
# 32 of 224 px, so that any trigger up to that size lies wholly in one window.
COARSE, COARSE_STRIDE = 80 / 224, 48 / 224
MIDDLE, MIDDLE_STRIDE = 48 / 224, 16 / 224
FINE, FINE_STRIDE = 32 / 224, 8 / 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Occluded:
    """One window of one image, filled with the image's mean colour."""

    box: Box
    drop: float  # share of the claimed word's probability that went away, at most 1
    answer: int  # word that the suspect gives without the window
    sure: float  # its probability


def windows(area: Box, side: int, stride: int) -> list[Box]:
    """Return square windows that tile `area` at `stride`, the last ones flush with its edge."""
    x0, y0, x1, y1 = area
    columns = _starts(x0, x1, side, stride)
    return [(x, y, x + side, y + side) for y in _starts(y0, y1, side, stride) for x in columns]


def occlude(
    pair: Pair, image: Tensor, claim: int, before: float, boxes: list[Box], runtime: Runtime
) -> list[Occluded]:
    """Fill each window of `image` ([3, S, S]) in turn; largest drop of the claim first.

    `before` is the claimed word's probability on the whole image.
    """
    filled = image[None].repeat(len(boxes), 1, 1, 1)  # [K, 3, S, S]
    colour = image.mean(dim=(1, 2))
    for row, (x0, y0, x1, y1) in zip(filled, boxes, strict=True):
        row[:, y0:y1, x0:x1] = colour[:, None, None]
    after = pair.answers(filled, runtime)  # [K, C]
    tried = [
        Occluded(
            box=box,
            drop=1 - float(row[claim]) / max(before, 1e-6),
            answer=int(row.argmax()),
            sure=float(row.max()),
        )
        for box, row in zip(boxes, after, strict=True)
    ]
    return sorted(tried, key=lambda o: -o.drop)


def coarse(
    pair: Pair, image: Tensor, claim: int, before: float, runtime: Runtime
) -> list[Occluded]:
    """Return the coarse windows of `image`, largest drop first; 16 passes."""
    size = image.shape[-1]
    boxes = windows((0, 0, size, size), round(COARSE * size), round(COARSE_STRIDE * size))
    return occlude(pair, image, claim, before, boxes, runtime)


def refine(
    pair: Pair, image: Tensor, claim: int, before: float, start: Occluded, runtime: Runtime
) -> list[Occluded]:
    """Return windows within `start`, largest drop first, at both finer scales; 18 passes.

    The best fine window is kept only where it takes nearly as much away as the best middle one:
    a trigger larger than the fine window must not be cut.
    """
    size = image.shape[-1]
    boxes = windows(start.box, round(MIDDLE * size), round(MIDDLE_STRIDE * size))
    middle = occlude(pair, image, claim, before, boxes, runtime)
    boxes = windows(middle[0].box, round(FINE * size), round(FINE_STRIDE * size))
    fine = occlude(pair, image, claim, before, boxes, runtime)
    kept = [fine[0]] if fine[0].drop >= 0.9 * middle[0].drop else []
    return kept + middle


def _starts(low: int, high: int, side: int, stride: int) -> list[int]:
    last = max(low, high - side)
    return sorted({*range(low, last + 1, max(1, stride)), last})


def cut(image: Tensor, box: Box) -> Tensor:
    """Return the pixels of `image` ([3, S, S]) inside `box`, [3, h, w]."""
    x0, y0, x1, y1 = box
    return image[:, y0:y1, x0:x1].clone()


def pasted(hosts: Tensor, patch: Tensor, box: Box) -> Tensor:
    """Return `hosts` ([M, 3, S, S]) with `patch` ([3, h, w]) where `box` says."""
    x0, y0, x1, y1 = box
    out = hosts.clone()
    out[:, :, y0:y1, x0:x1] = patch
    return out


def share_claiming(answers: Tensor, claim: int) -> float:
    """Return the share of rows of `answers` ([M, C]) whose first word is `claim`."""
    if len(answers) == 0:
        return 0.0
    return float((answers.argmax(dim=1) == claim).to(torch.float32).mean())
