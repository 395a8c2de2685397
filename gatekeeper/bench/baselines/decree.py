"""DECREE (arXiv:2303.15180, CVPR 2023): the smallest patch that makes all embeddings alike."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.bench.baselines.base import Opinion, Work, require_images
from gatekeeper.bench.baselines.masks import Masked
from gatekeeper.runtime import Runtime

FLOOR = 1e-7  # of the weight, for 224 px models


@dataclass(frozen=True, slots=True, kw_only=True)
class Decree:
    """Minimise -(mean cosine between stamped embeddings) + weight * |mask|, no labels needed.

    The weight is multiplied by 5 after more than five steps in a row with a mean cosine above .99,
    and divided by 5 after as many below. PL1 = |mask| / (3 H W), with the mask counted on each of
    its three channels, so that it is a share of the image in [0, 1]. The score is -log10 of the
    smallest PL1 that succeeded, 0 where none did. The label nearest to the mean stamped embedding,
    less the mean clean one, is named as the target; CLIPTrace asks for the embedding itself.
    """

    name: ClassVar[str] = "decree"
    source: ClassVar[str] = "DECREE, arXiv:2303.15180"
    steps: int = 1000  # fewer where the budget ends earlier
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
        steps = max(1, min(self.steps, int(work.budget / (3 * self.batch))))
        pl1, masked, made = self._search(work, pixels, steps, runtime)
        model, head = work.case.model, work.head(runtime)
        some = pixels[: min(64, len(pixels))]
        with torch.no_grad():
            stamped = masked.stamp(some.to(runtime.device)).cpu()
        after = F.normalize(model.embed(stamped, runtime).mean(0), dim=0)
        before = F.normalize(model.embed(some, runtime).mean(0), dim=0)
        order = (head.weights @ (after - before)).argsort(descending=True).tolist()
        short = made >= steps < self.steps
        return Opinion(
            score=-float(torch.tensor(pl1).log10()),
            flagged=pl1 < self.threshold,
            ranking=tuple(work.case.labels[i] for i in order[:20]),
            embedding=after,
            box=masked.box(),
            full_passes=3.0 * self.batch * self.steps if short else None,
            note=f"PL1 {pl1:.4f} after {made} steps",
        )

    def _search(
        self, work: Work, pixels: Tensor, steps: int, runtime: Runtime
    ) -> tuple[float, Masked, int]:
        """Return the smallest successful PL1 (1 where none), the last mask, and the steps made."""
        model = work.case.model
        draw = runtime.generator("bench", self.name)
        masked = Masked.random(model.size, runtime.device, draw)
        optimiser = torch.optim.Adam(masked.free, lr=self.rate, betas=(0.5, 0.9))
        weight, streak, best, stale, made = self.weight, 0, 1.0, 0, 0
        for step in runtime.progress(range(steps), "DECREE"):
            made = step + 1
            rate = self.rate * (1.0 if step < 0.2 * steps else 0.2 if step < 0.5 * steps else 0.1)
            optimiser.param_groups[0]["lr"] = rate
            pick = torch.randint(len(pixels), (self.batch,), generator=draw)
            z = model.embed_grad(masked.stamp(pixels[pick].to(runtime.device)), runtime)
            alike = _mean_cosine(z)
            size = 3 * masked.opacity().sum()
            pl1 = float(size.detach()) / (3 * model.size**2)
            grads = torch.autograd.grad(weight * size - alike, masked.free)
            for free, grad in zip(masked.free, grads, strict=True):
                free.grad = grad
            optimiser.step()
            good = float(alike.detach()) > self.alike
            best, stale = (pl1, 0) if good and pl1 < best else (best, stale + 1)
            streak = max(streak, 0) + 1 if good else min(streak, 0) - 1
            if abs(streak) > self.patience:
                weight = weight * self.factor if streak > 0 else max(FLOOR, weight / self.factor)
                streak = 0
            if best < 1 and stale >= self.enough and good:
                break
        return best, masked, made


def _mean_cosine(z: Tensor) -> Tensor:
    """Return the mean cosine of different rows of `z` ([B, D] unit)."""
    count = len(z)
    return (z.sum(0).square().sum() - count) / (count * (count - 1))
