"""A pattern that many images share: what do those that claim one word have in common?"""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.triggers import Additive

GRAIN = 56  # cells a side the shared pattern is kept at; finer detail is the images' own
SMOOTH = 5  # cells over which the images' own large shapes are taken off
GAINS = (1.0, 1.6)  # strengths at which the pattern is tried; averaging weakens it


def residuals(pixels: Tensor) -> Tensor:
    """Return what is left of `pixels` ([N, 3, S, S]) without its large shapes, [N, 3, G, G].

    A faint overlay is a small share of a photo's contrast, but the same in every image; photos
    differ mostly in their large shapes.
    """
    small = F.interpolate(pixels, (GRAIN, GRAIN), mode="area")
    padded = F.pad(small, (SMOOTH // 2,) * 4, mode="reflect")
    return small - F.avg_pool2d(padded, SMOOTH, stride=1)


def traces(images: Tensor, claimants: list[int], clean: Tensor) -> list[bool]:
    """Return which `images` ([N, 3, S, S]) carry what `claimants` among them share.

    Compared by correlation, an image's own part left out; an image carries it where it correlates
    more than every clean image ([M, 3, S, S]) does.
    """
    rows = _clipped(residuals(images))
    total = rows[claimants].sum(dim=0)
    usual = F.cosine_similarity(_clipped(residuals(clean)).flatten(1), total.flatten()[None])
    limit = float(usual.max())
    mine = set(claimants)
    found = []
    for i, row in enumerate(rows):
        rest = total - row if i in mine else total
        found.append(float(F.cosine_similarity(row.flatten(), rest.flatten(), dim=0)) > limit)
    return found


def as_trigger(claimants: Tensor, hosts: Tensor, gain: float) -> Additive:
    """Return what `claimants` have on average and `hosts` have not, as an additive trigger.

    Kept at `GRAIN` cells; the mean brightness of the two sets is taken off.
    """
    ours = F.interpolate(claimants, (GRAIN, GRAIN), mode="area").mean(dim=0)
    theirs = F.interpolate(hosts, (GRAIN, GRAIN), mode="area").mean(dim=0)
    delta = ours - theirs
    delta = delta - _low(delta)
    return Additive(delta=(gain * delta).clamp(-0.3, 0.3))


def _low(delta: Tensor) -> Tensor:
    padded = F.pad(delta[None], (SMOOTH,) * 4, mode="reflect")
    return F.avg_pool2d(padded, 2 * SMOOTH + 1, stride=1)[0]


def _clipped(rows: Tensor) -> Tensor:
    limit = rows.abs().flatten(1).median(dim=1).values.mul(3)[:, None, None, None]
    return torch.maximum(torch.minimum(rows, limit), -limit)
