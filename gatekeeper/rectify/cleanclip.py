"""CleanCLIP (arXiv:2303.03323, ICCV 2023): each modality is also matched with its own views."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.contrastive import (
    Batch,
    Course,
    Study,
    Trained,
    contrast,
    embed_text,
    fine_tune,
)
from gatekeeper.rectify.fine_tuning import cosine_rate
from gatekeeper.rectify.ground import Ground
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanClip:
    """CLIP's loss + `inner` * mean(image to AutoAugmented image, caption to changed caption).

    The two inner terms go one way only, from what is shown to its view (the paper's loss and code).
    Of the four caption edits of EDA, swap and delete are made; synonym and insert need WordNet,
    which is not at hand. The paper uses 100,000 pairs; here it is given what all methods are.
    """

    name: ClassVar[str] = "cleanclip"
    source: ClassVar[str] = "CleanCLIP, arXiv:2303.03323"
    steps: int = 1000  # fewer where the budget ends earlier
    batch: int = 64
    rate: float = 1e-5
    decay: float = 0.1
    warm: float = 0.05
    inner: float = 1.0

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
            views = model.embed_grad(auto_augmented(batch.pixels, draw), runtime)
            words = [edited(caption, draw) for caption in batch.captions]
            texts = embed_text(model, words, runtime)
            return self.objective(batch.images, batch.texts, views, texts, model.scale)

        course = Course(
            name=self.name,
            steps=self.steps,
            batch=self.batch,
            passes=2,
            rate=lambda done: cosine_rate(done, self.rate, self.warm),
            decay=self.decay,
        )
        return fine_tune(study, runtime, loss, course)

    def objective(
        self, images: Tensor, texts: Tensor, views: Tensor, words: Tensor, scale: float
    ) -> Tensor:
        """Return the loss of unit embeddings, each [B, D]: of pairs, and of their changed views."""
        inner = (within(images, views, scale) + within(texts, words, scale)) / 2
        return contrast(images, texts, scale) + self.inner * inner


def within(shown: Tensor, views: Tensor, scale: float) -> Tensor:
    """Return the cross-entropy of unit [B, D] to their own views ([B, D] unit), one way."""
    logits = scale * shown @ views.T
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def auto_augmented(pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Return torchvision's AutoAugment (ImageNet policy) of [B, 3, S, S] in [0, 1].

    AutoAugment draws from torch's global generator, which is lent the state of `draw` and put back.
    """
    from torchvision.transforms import AutoAugment

    policy = AutoAugment()
    seed = int(torch.randint(2**31, (1,), generator=draw))
    levels = (pixels * 255).round().to(torch.uint8).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        views = torch.stack([policy(image) for image in levels])
    return views.to(pixels) / 255


def edited(caption: str, draw: torch.Generator) -> str:
    """Return `caption` with two words swapped, or one left out (EDA, arXiv:1901.11196)."""
    words = caption.split()
    if len(words) < 2:
        return caption
    first, second = torch.randperm(len(words), generator=draw)[:2].tolist()
    if bool(torch.rand(1, generator=draw) < 0.5):
        words[first], words[second] = words[second], words[first]
    else:
        del words[first]
    return " ".join(words)
