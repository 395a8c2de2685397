"""From which support on is a label present?"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gatekeeper.errors import OracleError

LABELWISE = 20  # clean images of a label from which its own threshold is set


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Thresholds:
    """Per label: what background gives (`offset`, `spread`) and the least support to accept."""

    offset: Tensor  # [C] mean similarity over clean background crops, b_l
    spread: Tensor  # [C] standard deviation of a_l over clean images without the label
    cut: Tensor  # [C] a label is supported when a_l >= cut
    own: Tensor  # [C] bool: the label had enough images for a threshold of its own
    images: int  # clean images that set the thresholds
    level: float  # at most this share of present labels is declared unsupported

    @property
    def digest(self) -> str:
        """Return "sha256:…" over every number that decides, rounded to 1e-5."""
        total = hashlib.sha256(f"{self.images} {self.level:.6f}".encode())
        for tensor in (self.offset, self.spread, self.cut):
            total.update(np.round(tensor.double().numpy(), 5).astype(np.float32).tobytes())
        return f"sha256:{total.hexdigest()}"


def quantile(values: Tensor, alpha: float) -> float:
    """Return the split-conformal threshold of `values` ([n]): the floor(alpha (n+1))-th smallest.

    A further exchangeable value falls below it with probability at most alpha. With fewer than
    1/alpha - 1 values no threshold has that guarantee; then it is the smallest value, whose level
    is 1/(n+1). Source: Vovk et al. (2005); Angelopoulos & Bates (arXiv:2107.07511), section 1.
    """
    rank = max(1, math.floor(alpha * (len(values) + 1)))
    return float(values.sort().values[rank - 1])


def background(similarities: list[Tensor], truth: Tensor) -> Tensor:
    """Return b_l [C]: each label's mean similarity over crops of images without it.

    Args:
        similarities: One [J, C] an image, over its J crops.
        truth: [N] int64, each image's label; -1: unknown.
    """
    width = similarities[0].shape[1]
    total, count = torch.zeros(width), torch.zeros(width)
    for similarity, label in zip(similarities, truth.tolist(), strict=True):
        keep = torch.ones(width)
        if label >= 0:
            keep[label] = 0
        total += similarity.sum(dim=0) * keep
        count += len(similarity) * keep
    everywhere = total.sum() / count.sum().clamp_min(1)
    return torch.where(count > 0, total / count.clamp_min(1), everywhere)


def fit(similarity: Tensor, truth: Tensor, offset: Tensor, alpha: float) -> Thresholds:
    """Return thresholds from clean images of known labels.

    Args:
        similarity: [N, C] best regional similarity of each label in each image.
        truth: [N] int64, the label that each image shows; -1: unknown.
        offset: [C] b_l, mean similarity of each label over background crops.
        alpha: Share of present labels that may be declared unsupported, 0..1.

    Raises:
        OracleError: No image has a known label.
    """
    known = torch.nonzero(truth >= 0).flatten()
    if len(known) == 0:
        raise OracleError(
            "the oracle cannot be calibrated: no clean image has a label among the labels",
            hint="give --probes with a labels.csv whose names occur in --labels",
        )
    support = similarity - offset  # [N, C]
    spread = _spread(support, truth)
    own_support = support[known, truth[known]]  # [n]
    standard = own_support / spread[truth[known]]
    cut = quantile(standard, alpha) * spread  # [C]
    own = torch.zeros(len(offset), dtype=torch.bool)
    for label in sorted(set(truth[known].tolist())):
        mine = own_support[truth[known] == label]
        if len(mine) >= LABELWISE:
            cut[label] = quantile(mine, alpha)
            own[label] = True
    return Thresholds(
        offset=offset,
        spread=spread,
        cut=cut,
        own=own,
        images=len(known),
        level=max(alpha, 1 / (len(known) + 1)),
    )


def _spread(support: Tensor, truth: Tensor) -> Tensor:
    """Return the standard deviation [C] of each label's support over images without it."""
    without = torch.ones_like(support, dtype=torch.bool)
    known = torch.nonzero(truth >= 0).flatten()
    without[known, truth[known]] = False
    count = without.sum(dim=0).clamp_min(1)
    mean = (support * without).sum(dim=0) / count
    variance = (((support - mean) ** 2) * without).sum(dim=0) / count
    return variance.sqrt().clamp_min(1e-3)
