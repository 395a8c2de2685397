"""DECREE (arXiv:2303.15180, CVPR 2023): the smallest patch that makes all embeddings alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.bench.baselines.base import Opinion, Work, require_images
from gatekeeper.bench.baselines.masks import Masked
from gatekeeper.runtime import Runtime

FLOOR = 1e-7  # a weight below it is divided no more; for 224 px models


@dataclass(frozen=True, slots=True, kw_only=True)
class Decree:
    """Minimise -(mean cosine between stamped embeddings) + weight * |mask|, no labels needed.

    The weight is multiplied by 5 after more than five steps in a row with a mean cosine above .99,
    and divided by 5 after as many below. PL1 = |mask| / (3 H W), with the mask counted on each of
    its three channels, so that it is a share of the image in [0, 1]. An epoch is one pass over the
    images; after each, the search stops where the epoch's mean cosine is above .99 and no step of
    the last 35 found a smaller mask. The score is -log10 of the smallest PL1 that succeeded, 0
    where none did. The label nearest to the mean stamped embedding, less the mean clean one, is
    named as the target; CLIPTrace asks for the embedding itself. Checked against the authors' code
    by running both (docs/bench.md).
    """

    name: ClassVar[str] = "decree"
    source: ClassVar[str] = "DECREE, arXiv:2303.15180"
    epochs: int = 1000  # passes over the images, published; fewer where the budget ends earlier
    batch: int = 32
    rate: float = 0.5  # Adam's for CLIP; .1 and .05 in the last four fifths and half
    weight: float = 1e-3
    alike: float = 0.99
    patience: int = 5
    factor: float = 5.0
    threshold: float = 0.1  # PL1 below which the paper calls an encoder backdoored
    enough: int = 35  # steps without a better mask, after which the search stops

    def judge(self, work: Work, runtime: Runtime) -> Opinion:
        """Return -log10 of the smallest successful PL1."""
        pixels = work.pixels()
        require_images(pixels, 4, self.name)
        full = 3.0 * len(pixels) * self.epochs
        steps = max(1, int(min(full, work.budget) / (3 * min(self.batch, len(pixels)))))
        pl1, masked, made = self._search(work, pixels, steps, runtime)
        model, head = work.case.model, work.head(runtime)
        some = pixels[: min(64, len(pixels))]
        with torch.no_grad():
            stamped = masked.stamp(some.to(runtime.device)).cpu()
        after = F.normalize(model.embed(stamped, runtime).mean(0), dim=0)
        before = F.normalize(model.embed(some, runtime).mean(0), dim=0)
        order = (head.weights @ (after - before)).argsort(descending=True).tolist()
        short = made >= steps and work.budget < full
        return Opinion(
            score=-float(torch.tensor(pl1).log10()),
            flagged=pl1 < self.threshold,
            ranking=tuple(work.case.labels[i] for i in order[:20]),
            embedding=after,
            box=masked.box(),
            full_passes=full if short else None,
            note=f"PL1 {pl1:.4f} after {made} steps",
        )

    def _search(
        self, work: Work, pixels: Tensor, steps: int, runtime: Runtime
    ) -> tuple[float, Masked, int]:
        """Return the smallest successful PL1 (1 where none), the last mask, and the steps made.

        At most `steps`; the rate falls after their first fifth and half, as over 1,000 epochs.
        """
        model = work.case.model
        draw = runtime.generator("bench", self.name)
        masked = Masked.even(model.size, runtime.device, draw)
        optimiser = torch.optim.Adam(masked.free, lr=self.rate, betas=(0.5, 0.9))
        pace = Pace(self)
        for step in runtime.progress(range(steps), "DECREE"):
            if not pace.due:
                if pace.ended():
                    break
                pace.due = list(_batches(len(pixels), self.batch, draw))
            rate = self.rate * (1.0 if step < 0.2 * steps else 0.2 if step < 0.5 * steps else 0.1)
            optimiser.param_groups[0]["lr"] = rate
            seen = masked.stamp(pixels[pace.due.pop()].to(runtime.device))
            alike = _mean_cosine(model.embed_grad(seen, runtime))
            size = 3 * masked.opacity().sum()
            grads = torch.autograd.grad(pace.weight * size - alike, masked.free)
            for free, grad in zip(masked.free, grads, strict=True):
                free.grad = grad
            optimiser.step()
            pace.told(float(alike.detach()), float(size.detach()) / (3 * model.size**2))
        return pace.best, masked, pace.made


class Pace:
    """How hard the mask is pressed, what was found, and when it is enough."""

    def __init__(self, settings: Decree) -> None:
        self.settings = settings
        self.weight = settings.weight
        self.best = 1.0  # smallest PL1 that succeeded
        self.made = 0
        self.due: list[Tensor] = []  # batches left of this epoch
        self._streak = self._stale = 0
        self._epoch: list[float] = []  # its cosines

    def told(self, cosine: float, pl1: float) -> None:
        """Take note of a step."""
        its = self.settings
        self.made += 1
        self._epoch.append(cosine)
        good = cosine > its.alike
        self.best, self._stale = (
            (pl1, 0) if good and pl1 < self.best else (self.best, self._stale + 1)
        )
        self._streak = max(self._streak, 0) + 1 if good else min(self._streak, 0) - 1
        if self._streak > its.patience:
            self.weight, self._streak = self.weight * its.factor, 0
        elif -self._streak > its.patience:
            self.weight, self._streak = self.weight / (its.factor if self.weight >= FLOOR else 1), 0

    def ended(self) -> bool:
        """Return whether the epoch that ends here is the last one; begin another."""
        alike = sum(self._epoch) / max(1, len(self._epoch))
        self._epoch = []
        return self.best < 1 and alike > self.settings.alike and self._stale > self.settings.enough


def _batches(count: int, size: int, draw: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(count, generator=draw)
    for start in range(0, count, size):
        yield order[start : start + size]


def _mean_cosine(z: Tensor) -> Tensor:
    """Return the mean cosine of different rows of `z` ([B, D] unit)."""
    count = len(z)
    return (z.sum(0).square().sum() - count) / (count * (count - 1))
