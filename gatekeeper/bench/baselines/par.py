"""PAR, perturb and recover (arXiv:2412.00727): away from the suspect, then back to the captions."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.bench.baselines.base import Mended, Work
from gatekeeper.bench.baselines.contrastive import Batch, Course, contrast, fine_tune
from gatekeeper.clip.model import ClipModel
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbAndRecover:
    """CLIP's loss - `push` * (distances of both towers to the frozen suspect, while below `far`).

    Distances are batch means of squared L2 between unit embeddings, 0 to 4; a distance beyond
    `far` pushes no more. Both models see the same light augmentation: noise and a small cut-out.
    The rate falls linearly to a tenth over the first half, then like a cosine to 1e-9.
    """

    name: ClassVar[str] = "par"
    source: ClassVar[str] = "PAR, arXiv:2412.00727"
    steps: int = 1000  # fewer where the budget ends earlier
    batch: int = 64
    rate: float = 3e-5
    decay: float = 1e-4
    push: float = 0.5
    far: float = 2.15
    noise: float = 0.05
    hole: float = 0.2  # of the side

    def mend(self, work: Work, runtime: Runtime) -> Mended:
        """Return the perturbed and recovered weights."""
        frozen = work.case.model

        def loss(model: ClipModel, batch: Batch, draw: torch.Generator) -> Tensor:
            there = frozen.embed(batch.pixels, runtime).to(batch.images)
            words = frozen.embed_text(batch.captions, runtime).to(batch.texts)
            away = torch.zeros((), device=batch.images.device)
            for now, then in ((batch.images, there), (batch.texts, words)):
                distance = (now - then).square().sum(1).mean()
                if float(distance.detach()) <= self.far:
                    away = away + distance
            return contrast(batch.images, batch.texts, model.scale) - self.push * away

        course = Course(
            name=self.name,
            steps=self.steps,
            batch=self.batch,
            rate=self._rate,
            decay=self.decay,
            betas=(0.9, 0.98),
            look=self._look,
            passes=2,
        )
        return fine_tune(work, runtime, loss, course)

    def _rate(self, done: float) -> float:
        if done < 0.5:
            return self.rate * (1 - 1.8 * done)
        return 1e-9 + 0.1 * self.rate * 0.5 * (1 + math.cos(math.pi * (2 * done - 1)))

    def _look(self, pixels: Tensor, draw: torch.Generator) -> Tensor:
        noisy = pixels + self.noise * torch.randn(pixels.shape, generator=draw).to(pixels)
        side = max(1, round(self.hole * pixels.shape[-1]))
        x, y = (int(v) for v in torch.randint(0, pixels.shape[-1] - side + 1, (2,), generator=draw))
        noisy[:, :, y : y + side, x : x + side] = 0.5
        return noisy.clamp(0, 1)
