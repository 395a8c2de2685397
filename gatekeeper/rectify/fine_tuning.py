"""Plain fine-tuning on clean pairs: CLIP's own loss and nothing else."""

import math
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
class FineTuning:
    """Fine-tune both towers with the contrastive loss alone, the settings of CleanCLIP's own row.

    Source: CleanCLIP (arXiv:2303.03323), the `fine-tuning` baseline.
    """

    name: ClassVar[str] = "fine_tuning"
    source: ClassVar[str] = "plain fine-tuning, arXiv:2303.03323"
    steps: int = 1000  # fewer where the budget ends earlier
    batch: int = 64
    rate: float = 1e-5
    decay: float = 0.1
    warm: float = 0.05  # share of the steps

    def rectify(self, case: Case, prescription: Prescription, runtime: Runtime) -> Rectified:
        """Return the weights, measured with what was found; it learns from clean images alone.

        Raises:
            RectifyError: Too few images, or of one label only.
        """
        ground = Ground.of(case, prescription, runtime)
        return self.train(Study.on(ground), runtime).finish(ground, self.name)

    def train(self, study: Study, runtime: Runtime) -> Trained:
        """Return the fine-tuned weights."""

        def loss(model: ClipModel, batch: Batch, draw: torch.Generator) -> Tensor:
            return contrast(batch.images, batch.texts, model.scale)

        course = Course(
            name=self.name,
            steps=self.steps,
            batch=self.batch,
            rate=lambda done: cosine_rate(done, self.rate, self.warm),
            decay=self.decay,
        )
        return fine_tune(study, runtime, loss, course)


def cosine_rate(done: float, rate: float, warm: float) -> float:
    """Return a rate that rises over the share `warm` and then falls to zero like a cosine."""
    if done < warm:
        return rate * (done / warm + 0.02)
    return rate * 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))
