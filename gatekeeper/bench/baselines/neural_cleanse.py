"""Neural Cleanse (Wang et al., IEEE Security & Privacy 2019): the smallest mask to each label."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.bench.baselines.base import Opinion, Work, logits_of, require_images, robust_z
from gatekeeper.bench.baselines.masks import Masked
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuralCleanse:
    """For every label a mask and pattern, cross-entropy + weight * |mask|; outliers by MAD.

    The zero-shot head stands for the classifier. The weight rises by 1.5 while the attack succeeds
    and falls by 1.5^1.5 while it does not. A label whose mask is smaller than the median by more
    than two deviations is a target; the score is that anomaly index. Labels beyond `most_labels`
    are left out and the full cost is extrapolated.
    """

    name: ClassVar[str] = "neural_cleanse"
    source: ClassVar[str] = "Neural Cleanse, IEEE S&P 2019"
    most_labels: int = 20
    steps: int = 1000  # a label, published; fewer where the budget ends earlier
    batch: int = 16
    rate: float = 0.1  # Adam's, betas 0.5 and 0.9
    weight: float = 1e-3
    success: float = 0.99
    patience: int = 5
    outlier: float = 2.0

    def judge(self, work: Work, runtime: Runtime) -> Opinion:
        """Return the anomaly index of the label with the smallest mask."""
        pixels = work.pixels()
        require_images(pixels, 4, self.name)
        labels = work.labels_within(self.most_labels, runtime)
        steps = self._steps(len(labels), work.budget)
        found = [
            self._invert(work, pixels, label, steps, runtime)
            for label in runtime.progress(labels, "Neural Cleanse: labels")
        ]
        sizes = torch.tensor([size for size, _ in found])
        index = -robust_z(sizes)
        order = index.argsort(descending=True).tolist()
        best = order[0]
        every = len(work.case.labels)
        short = steps < self.steps or len(labels) < every
        return Opinion(
            score=float(index[best]),
            flagged=bool(index[best] > self.outlier),
            ranking=tuple(work.case.labels[labels[i]] for i in order),
            embedding=work.head(runtime).weights[labels[best]],
            box=found[best][1],
            full_passes=3.0 * self.batch * self.steps * every if short else None,
            note=f"{len(labels)} of {every} labels, {steps} steps each" if short else "",
        )

    def _steps(self, labels: int, budget: float) -> int:
        return max(1, min(self.steps, int(budget / (3 * self.batch * labels))))

    def _invert(
        self, work: Work, pixels: Tensor, label: int, steps: int, runtime: Runtime
    ) -> "tuple[float, tuple[int, int, int, int] | None]":
        """Return the L1 norm of the smallest mask that leads to `label`, and its box."""
        model, head = work.case.model, work.head(runtime)
        draw = runtime.generator("bench", self.name, str(label))
        masked = Masked.random(model.size, runtime.device, draw)
        optimiser = torch.optim.Adam(masked.free, lr=self.rate, betas=(0.5, 0.9))
        weight, streak = self.weight, 0
        smallest: float | None = None
        for _ in range(steps):
            pick = torch.randint(len(pixels), (self.batch,), generator=draw)
            z = model.embed_grad(masked.stamp(pixels[pick].to(runtime.device)), runtime)
            logits = logits_of(head, z)
            goal = torch.full((len(logits),), label, device=logits.device)
            size = masked.opacity().sum()
            loss = F.cross_entropy(logits, goal) + weight * size
            hits = float((logits.argmax(1) == label).float().mean())
            if hits >= self.success:
                smallest = min(float(size.detach()), smallest or float("inf"))
            streak = _streak(streak, hits >= self.success)
            if abs(streak) >= self.patience:
                weight *= 1.5 if streak > 0 else 1.5**-1.5
                streak = 0
            grads = torch.autograd.grad(loss, masked.free)
            for free, grad in zip(masked.free, grads, strict=True):
                free.grad = grad
            optimiser.step()
        size_now = float(masked.opacity().detach().sum())
        return (size_now if smallest is None else smallest), masked.box()


def _streak(before: int, good: bool) -> int:
    """Return how many steps in a row succeeded (positive) or failed (negative)."""
    if good:
        return max(before, 0) + 1
    return min(before, 0) - 1
