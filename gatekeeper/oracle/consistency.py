"""Is it the same picture, and is a label seen in more than one place?"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

FAINT = 0.08  # largest pixel difference (of 1) that counts as untouched
LOCAL = 0.35  # share of the image up to which a difference is a stamp, not a veil
# Correlation of edges from which two images show the same things. On 80 photos: other photos stay
# below 0.29 (99 of 100), triggered ones (patch, blend to 0.4, sine, warp) above 0.61 (95 of 100).
SAME_STRUCTURE = 0.5
STAYS = 5  # a clean image's leading label must stay among this many
LEADERS = 3


def robust_best(similarity: Tensor, boxes: np.ndarray, hidden: np.ndarray) -> Tensor:
    """Return each label's similarity that survives hiding any one small part of the image, [C].

    For every place that some view paints over: the best view without it (that one, and the crops
    that do not touch it); then the worst over places. A patch inside one place cannot raise it,
    whatever it makes the suspect say. Source: the leave-one-region-out fallback of docs/oracle.md,
    after PatchCleanser (arXiv:2108.09135).

    Args:
        similarity: [J, C] of J views.
        boxes: [J, 4] what each view shows, pixels; the first is the whole image.
        hidden: [J, 4] what is painted over in each; zeros: nothing.
    """
    return torch.stack(_by_place(similarity, boxes, hidden)).amin(dim=0)


def robust_rank(similarity: Tensor, boxes: np.ndarray, hidden: np.ndarray) -> Tensor:
    """Return each label's worst rank over the same places, [C] int64, 1 the best."""
    return torch.stack([ranks(row) for row in _by_place(similarity, boxes, hidden)]).amax(dim=0)


def ranks(scores: Tensor) -> Tensor:
    """Return the rank of each of `scores` ([C]), [C] int64, 1 the largest, the first of equals."""
    return scores.argsort(descending=True, stable=True).argsort(stable=True) + 1


def stamped(clean: Tensor, triggered: Tensor) -> tuple[int, int, int, int] | None:
    """Return the box where two images ([3, H, W]) differ; None: nowhere, or nearly everywhere."""
    differs = (clean - triggered).abs().amax(dim=0) > FAINT  # [H, W]
    if not bool(differs.any()):
        return None
    rows = torch.nonzero(differs.any(dim=1)).flatten()
    columns = torch.nonzero(differs.any(dim=0)).flatten()
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    if (box[2] - box[0]) * (box[3] - box[1]) > LOCAL * differs.numel():
        return None
    return box


def outside(boxes: np.ndarray, stamp: tuple[int, int, int, int] | None) -> Tensor:
    """Return [J] bool: which views do not touch `stamp`; all of them without one."""
    if stamp is None:
        return torch.ones(len(boxes), dtype=torch.bool)
    return torch.from_numpy(_apart(boxes, stamp))


def content_changed(before: Tensor, after: Tensor, free: Tensor, free_after: Tensor) -> bool:
    """Return whether the labeler sees something else in the views outside the stamp.

    Unchanged: what leads in the clean image (its whole, and its best views outside the stamp)
    stays among the leaders.

    Args:
        before: [J, C] similarities of the clean image's views.
        after: [J', C] of the triggered image's.
        free: [J] bool, views of the clean image outside the stamp.
        free_after: [J'] bool, the same for the triggered image.
    """
    kept = _leaders(after[0]) | _leaders(_best(after, free_after))
    return not ({int(before[0].argmax())} | {int(_best(before, free).argmax())}) & kept


def structure_changed(clean: Tensor, triggered: Tensor) -> Tensor:
    """Return [N] bool: do the edges of two images ([N, 3, H, W]) disagree outside a stamp?

    Asks no model, so no model can fool it: the fallback when the labeler is the suspect itself.
    """
    changed = []
    for one, other in zip(clean, triggered, strict=True):
        box = stamped(one, other)
        first, second = _edges(one), _edges(other)  # [h, w]
        keep = torch.ones_like(first, dtype=torch.bool)
        if box is not None:
            scale = first.shape[-1] / one.shape[-1]
            left, top = int(box[0] * scale), int(box[1] * scale)
            right, bottom = int(np.ceil(box[2] * scale)), int(np.ceil(box[3] * scale))
            keep[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = False
        changed.append(_correlation(first[keep], second[keep]) < SAME_STRUCTURE)
    return torch.tensor(changed, dtype=torch.bool)


def _by_place(similarity: Tensor, boxes: np.ndarray, hidden: np.ndarray) -> list[Tensor]:
    """Return, for every place, the best similarity [C] of the views that do not show it."""
    rows = []
    for place in np.unique(hidden[hidden.any(axis=1)], axis=0):
        free = _apart(boxes, tuple(place.tolist())) | (hidden == place).all(axis=1)
        rows.append(similarity[torch.from_numpy(free)].amax(dim=0))
    return rows


def _apart(boxes: np.ndarray, place: tuple[float, float, float, float]) -> np.ndarray:
    apart: np.ndarray = (
        (boxes[:, 2] <= place[0])
        | (boxes[:, 0] >= place[2])
        | (boxes[:, 3] <= place[1])
        | (boxes[:, 1] >= place[3])
    )
    return apart


def _best(similarity: Tensor, free: Tensor) -> Tensor:
    return similarity[free].amax(dim=0) if bool(free.any()) else similarity[0]


def _leaders(scores: Tensor) -> set[int]:
    return set(scores.topk(min(STAYS, len(scores))).indices.tolist())


def _edges(pixels: Tensor) -> Tensor:
    """Return smoothed gradient magnitudes of the grey image, [h, w] at about 56 px."""
    grey = pixels.mean(dim=0)[None, None]
    size = (min(56, grey.shape[-2]), min(56, grey.shape[-1]))
    small = F.interpolate(grey, size, mode="bilinear", antialias=True)[0, 0]
    across = F.pad(small[:, 1:] - small[:, :-1], (0, 1))
    down = F.pad(small[1:] - small[:-1], (0, 0, 0, 1))
    window = 3 if min(small.shape) >= 3 else 1  # smoothed, so that a small warp stays alike
    magnitude = (across**2 + down**2).sqrt()[None, None]
    return F.avg_pool2d(magnitude, window, stride=1, padding=window // 2)[0, 0]


def _correlation(one: Tensor, other: Tensor) -> float:
    if one.numel() < 2:
        return 0.0
    first, second = one - one.mean(), other - other.mean()
    norm = float(first.norm() * second.norm())
    if norm < 1e-8:  # two flat images are alike, a flat and a busy one are not
        return 1.0 if torch.allclose(first, second, atol=1e-4) else 0.0
    return float((first * second).sum()) / norm
