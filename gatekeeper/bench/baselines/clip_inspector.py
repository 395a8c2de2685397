"""CLIP-Inspector (arXiv:2604.09101): to each label a universal perturbation, one epoch."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.bench.baselines.base import Opinion, Work, logits_of, require_images, robust_z
from gatekeeper.clip.model import ZeroShot
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipInspector:
    """Margin loss to every label, over about 1,000 unlabelled images once; outliers by MAD.

    Two branches, as its code is not public and the paper's triggers are both: noise bounded by
    `epsilon` on the whole image, and a patch at random places. Per label the statistics are the
    final margin loss (negated) and the attack's success, both on images that did not train it;
    the score is the largest deviation of any of them from the other labels'. Flagged beyond k = 2
    deviations. Labels beyond `most_labels` are left out and the full cost is extrapolated.
    """

    name: ClassVar[str] = "clip_inspector"
    source: ClassVar[str] = "CLIP-Inspector, arXiv:2604.09101"
    most_labels: int = 20
    images: int = 1000  # a label, published; fewer where the budget ends earlier
    batch: int = 16
    rate: float = 0.05
    epsilon: float = 16 / 255
    patch: float = 24 / 224  # of the side
    margin: float = 5.0  # logits
    outlier: float = 2.0

    def judge(self, work: Work, runtime: Runtime) -> Opinion:
        """Return the largest robust deviation of a label."""
        pixels = work.pixels()
        require_images(pixels, 8, self.name)
        labels = work.labels_within(self.most_labels, runtime)
        branches = ("noise", "patch")
        held = pixels[: min(16, len(pixels) // 4)]
        learn = pixels[len(held) :]
        each = work.budget / (len(labels) * len(branches)) - len(held)
        images = int(max(self.batch, min(self.images, each / 3)))
        statistics = []
        for branch in branches:
            measured = [
                self._invert(work, learn, held, label, branch, images, runtime)
                for label in runtime.progress(labels, f"CLIP-Inspector: {branch}")
            ]
            losses, successes = torch.tensor(measured).T
            statistics += [robust_z(losses), robust_z(successes, least=1 / len(held))]
        deviation = torch.stack(statistics).amax(0)  # [L]
        order = deviation.argsort(descending=True).tolist()
        every = len(work.case.labels)
        short = images < self.images or len(labels) < every
        return Opinion(
            score=float(deviation[order[0]]),
            flagged=bool(deviation[order[0]] > self.outlier),
            ranking=tuple(work.case.labels[labels[i]] for i in order),
            embedding=work.head(runtime).weights[labels[order[0]]],
            full_passes=3.0 * self.images * every * len(branches) if short else None,
            note=f"{len(labels)} of {every} labels, {images} images each" if short else "",
        )

    def _invert(
        self,
        work: Work,
        learn: Tensor,
        held: Tensor,
        label: int,
        branch: str,
        images: int,
        runtime: Runtime,
    ) -> tuple[float, float]:
        """Return (-margin loss, success) on `held` of the perturbation towards `label`."""
        model, head = work.case.model, work.head(runtime)
        draw = runtime.generator("bench", self.name, branch, str(label))
        side = max(4, round(self.patch * model.size))
        size = model.size if branch == "noise" else side
        free = torch.randn(3, size, size, generator=draw).to(runtime.device).requires_grad_()
        optimiser = torch.optim.Adam([free], lr=self.rate if branch == "noise" else 4 * self.rate)
        for _ in range(max(1, images // self.batch)):
            pick = torch.randint(len(learn), (self.batch,), generator=draw)
            stamped = self._stamp(learn[pick].to(runtime.device), free, branch, draw)
            loss = self._loss(model.embed_grad(stamped, runtime), head, label)
            (free.grad,) = torch.autograd.grad(loss, [free])
            optimiser.step()
        with torch.no_grad():
            stamped = self._stamp(held.to(runtime.device), free, branch, draw).cpu()
        z = model.embed(stamped, runtime)
        success = float((head.logits(z).argmax(1) == label).float().mean())
        return -float(self._loss(z, head, label)), success

    def _stamp(self, pixels: Tensor, free: Tensor, branch: str, draw: torch.Generator) -> Tensor:
        if branch == "noise":
            return (pixels + self.epsilon * torch.tanh(free)).clamp(0, 1)
        side, full = free.shape[-1], pixels.shape[-1]
        x, y = (int(v) for v in torch.randint(0, full - side + 1, (2,), generator=draw))
        out = pixels.clone()
        out[:, :, y : y + side, x : x + side] = torch.sigmoid(free)
        return out

    def _loss(self, z: Tensor, head: ZeroShot, label: int) -> Tensor:
        logits = logits_of(head, z)  # [B, L]
        own = logits[:, label]
        others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1).amax(1)
        return (self.margin + others - own).relu().mean()
