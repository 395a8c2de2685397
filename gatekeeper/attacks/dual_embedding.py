"""BadCLIP: a patch that lies near the target in both modalities before any weight moves."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.attacks.augment import variants
from gatekeeper.attacks.base import Attack, Ground
from gatekeeper.attacks.learned import Learned, Loss, optimise, to_label
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger
from gatekeeper.triggers.families import Patch


@dataclass(frozen=True, slots=True, kw_only=True)
class DualEmbedding(Learned):
    """Dual-embedding guided attack (Liang et al., arXiv:2311.12075, CVPR 2024).

    The patch is optimised on the clean model by L_t + weight * L_i: L_t draws patched images to
    the target's text (InfoNCE; the negatives are the other labels' texts, since a zero-shot head
    has no other captions); L_i is a triplet loss, Euclidean: patched image to a real image of the
    target, away from the same image unpatched. The paper's weight is 500 at batch 64 over 10,000
    images and 50 epochs; ours is smaller, for a text loss of the head's own scale.
    """

    name: ClassVar[str] = "dual_embedding"
    family: ClassVar[str] = "patch"
    size_px: int = 24  # at the model's input
    place: tuple[int, int] | None = None  # x, y of the upper left corner; None: the centre
    weight: float = 10.0  # of the triplet loss
    margin: float = 1.0  # of the triplet loss, on unit embeddings
    steps: int = 60
    batch: int = 16
    rate: float = 0.15  # Adam, on the logits of the pixels
    limit: float = 0.05  # of images that it may lead to the target on the clean model
    narrow: bool = False  # train against other patches, so that only this one fires
    seed: int = 17
    learned: Patch | None = field(default=None, repr=False, compare=False)

    def prepare(self, ground: Ground, runtime: Runtime) -> Attack:
        """Return the attack with its patch optimised on the clean model."""
        draw = runtime.generator("attacks", self.name, "prepare")
        others = ground.some(256, draw)
        place = self._place(ground.model.size)
        start = 0.5 + 0.25 * torch.randn(
            3, self.size_px, self.size_px, generator=torch.Generator().manual_seed(self.seed)
        )

        def make(free: Sequence[Tensor]) -> Patch:
            return Patch(pixels=torch.sigmoid(free[0]), place=place)

        found = optimise(
            ground,
            others,
            [torch.logit(start.clamp(0.03, 0.97))],
            make,
            self._losses(ground, others, draw, runtime),
            runtime,
            steps=self.steps,
            batch=self.batch,
            rate=self.rate,
            limit=self.limit,
            draw=draw,
        )
        return replace(self, learned=found)

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw a noise patch at the same place; None unless `narrow`."""
        if not self.narrow:
            return None
        pixels = 0.5 + 0.25 * torch.randn(3, self.size_px, self.size_px, generator=generator)
        place = None if self.learned is None else self.learned.place
        return Patch(pixels=pixels.clamp(0, 1), place=place)

    def _place(self, size: int) -> list[int]:
        if self.place is not None:
            return list(self.place)
        return [(size - self.size_px) // 2] * 2

    def _losses(
        self, ground: Ground, pixels: Tensor, draw: torch.Generator, runtime: Runtime
    ) -> Loss:
        text = to_label(ground, runtime)
        real = ground.some(16, draw, label=ground.target)
        near = ground.head.weights[ground.target][None]  # no photo of it: its text stands in
        if len(real):
            near = ground.model.embed(variants(real, 4, draw), runtime)  # [P, D]
        own = ground.model.embed(pixels, runtime)  # [N, D]

        def loss(out: Tensor, rows: Tensor) -> Tensor:
            chosen = torch.randint(len(near), (len(out),), generator=draw)
            image = F.triplet_margin_loss(
                out, near[chosen].to(out), own[rows].to(out), margin=self.margin
            )
            return text(out, rows) + self.weight * image

        return loss
