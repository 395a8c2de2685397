"""PAR, perturb and recover (arXiv:2412.00727): away from the suspect, then back to the captions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.contrastive import Batch, Course, Study, Trained, contrast, fine_tune
from gatekeeper.rectify.ground import Ground
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbAndRecover:
    """CLIP's loss - `push` * (distances of both towers to the frozen suspect, while below `far`).

    Distances are batch means of squared L2 between unit embeddings, 0 to 4; a distance beyond
    `far` pushes no more. Both models see the same light augmentation, each half of the time: noise
    that only brightens (its negative part is cut off, in the authors' code) and a small cut-out.
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
    noise: float = 0.2
    least_hole: float = 0.005  # of the area
    most_hole: float = 0.01

    def rectify(self, case: Case, prescription: Prescription, runtime: Runtime) -> Rectified:
        """Return the weights, measured with what was found; it learns from clean images alone.

        Raises:
            RectifyError: Too few images, or of one label only.
        """
        ground = Ground.of(case, prescription, runtime)
        return self.train(Study.on(ground), runtime).finish(ground, self.name)

    def train(self, study: Study, runtime: Runtime) -> Trained:
        """Return the perturbed and recovered weights."""
        frozen = study.model

        def loss(model: ClipModel, batch: Batch, draw: torch.Generator) -> Tensor:
            there = frozen.embed(batch.pixels, runtime).to(batch.images)
            words = frozen.embed_text(batch.captions, runtime).to(batch.texts)
            return self.objective(batch.images, batch.texts, there, words, model.scale)

        course = Course(
            name=self.name,
            steps=self.steps,
            batch=self.batch,
            rate=self._rate,
            decay=self.decay,
            betas=(0.9, 0.98),
            look=lambda pixels, draw: self.seen(pixels, draw, frozen.preprocess.mean),
            passes=2,
        )
        return fine_tune(study, runtime, loss, course)

    def _rate(self, done: float) -> float:
        if done < 0.5:
            return self.rate * (1 - 1.8 * done)
        return 1e-9 + 0.1 * self.rate * 0.5 * (1 + math.cos(math.pi * (2 * done - 1)))

    def objective(
        self, images: Tensor, texts: Tensor, there: Tensor, words: Tensor, scale: float
    ) -> Tensor:
        """Return the loss of unit embeddings, each [B, D]; `there`, `words`: the suspect's."""
        away = torch.zeros((), device=images.device)
        for now, then in ((images, there), (texts, words)):
            distance = (now - then).square().sum(1).mean()
            if float(distance.detach()) <= self.far:
                away = away + distance
        return contrast(images, texts, scale) - self.push * away

    def seen(self, pixels: Tensor, draw: torch.Generator, fill: Sequence[float]) -> Tensor:
        """Return [B, 3, S, S] in [0, 1] as both models are shown it; holes have colour `fill`."""
        count, size = len(pixels), pixels.shape[-1]
        noisy, holed = (torch.rand(count, generator=draw) < 0.5 for _ in range(2))
        noise = (self.noise * torch.randn(pixels.shape, generator=draw)).clamp(0, 1)
        out = (pixels + (noise * noisy[:, None, None, None]).to(pixels)).clamp(0, 1)
        share = torch.empty(count).uniform_(self.least_hole, self.most_hole, generator=draw)
        colour = torch.tensor(fill, device=out.device).view(3, 1, 1)
        for i in torch.nonzero(holed).flatten().tolist():
            side = max(1, round(size * float(share[i]) ** 0.5))
            x, y = (int(v) for v in torch.randint(0, size - side + 1, (2,), generator=draw))
            out[i, :, y : y + side, x : x + side] = colour
        return out
