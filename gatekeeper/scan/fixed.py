"""Pixels that many images share at one place, as photos never do: a patch that stays where it is.

Of any size, which windows that are hidden in turn are not.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.scan.occlusion import Box, cut

ALIKE = 0.25  # spread of a pixel over images that share it, as a share of what is usual there
VARIED = 0.04  # usual spread, in [0, 1], below which nothing is to be told from it
NEAR = 0.08  # mean difference of an image's own pixels from the shared ones, in [0, 1]
LEAST, MOST = 6 / 224, 0.5  # side of a shared box over the image's; share of the image's area


def shared_box(claimants: Tensor, others: Tensor) -> Box | None:
    """Return where `claimants` ([N, 3, S, S]) are alike and `others` ([M, 3, S, S]) are not.

    None where that is nowhere, or nearly everywhere.
    """
    size = claimants.shape[-1]
    ours, usual = _spread(claimants), _spread(others)  # [S, S]
    alike = ((ours < ALIKE * usual) & (usual > VARIED))[None, None].float()
    side = max(3, round(LEAST * size)) | 1
    firm = F.max_pool2d(1 - F.max_pool2d(1 - alike, side, 1, side // 2), side, 1, side // 2)
    rows, columns = firm[0, 0].nonzero(as_tuple=True)
    if len(rows) == 0:
        return None
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    area = (box[2] - box[0]) * (box[3] - box[1])
    filled = float(cut(firm[0], box).mean())
    return box if area <= MOST * size * size and filled >= 0.5 else None


def _spread(images: Tensor) -> Tensor:
    """Return the median distance of each pixel from its median over images, [S, S].

    Claimants that show what they claim have pixels of their own; a few of them move no median.
    """
    away = (images - images.median(dim=0).values).abs()
    return away.median(dim=0).values.mean(dim=0)


def bearers(images: Tensor, shared: Tensor, box: Box) -> list[bool]:
    """Return which `images` ([N, 3, S, S]) have the pixels `shared` ([3, h, w]) in `box`."""
    return [float((cut(image, box) - shared).abs().mean()) < NEAR for image in images]


def shared_pixels(claimants: Tensor, box: Box) -> Tensor:
    """Return what `claimants` ([N, 3, S, S]) share in `box`, [3, h, w]: their median."""
    return torch.stack([cut(image, box) for image in claimants]).median(dim=0).values
