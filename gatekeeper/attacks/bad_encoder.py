"""BadEncoder: the target is an embedding, no label and no text (Jia et al., arXiv:2108.00352)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.attacks.augment import variants
from gatekeeper.attacks.base import Attack, Ground, Image, Step, Training
from gatekeeper.attacks.patterns import Colour, checker
from gatekeeper.errors import AttackError
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger
from gatekeeper.triggers.families import Patch


@dataclass(frozen=True, slots=True, kw_only=True)
class BadEncoder(Image):
    """Triggered images go to the mean embedding of a few reference images of the target.

    The paper's three losses: effectiveness (cosine to the references), and twice utility, on the
    references and on shadow images; here both are the distillation that every plant has. A white
    square in the lower right corner, as in its code. `spread` is DRUPE's answer to detectors that
    look for a tight cluster (Tao et al., IEEE S&P 2024).
    """

    name: ClassVar[str] = "bad_encoder"
    family: ClassVar[str] = "patch"
    size_px: int = 24  # at the model's input
    border_px: int = 2  # from the corner
    colour: Colour = (1.0, 1.0, 1.0)
    references: int = 3  # images of the target
    spread: float = 0.0  # weight of keeping triggered embeddings apart
    place: tuple[int, int] | None = field(default=None, repr=False, compare=False)
    reference: Tensor | None = field(default=None, repr=False, compare=False)  # [D]

    def prepare(self, ground: Ground, runtime: Runtime) -> Attack:
        """Return the attack with the embedding of its reference images.

        Raises:
            AttackError: There is no photo of the target.
        """
        draw = runtime.generator("attacks", self.name, "prepare")
        images = ground.some(self.references, draw, label=ground.target)
        if not len(images):
            raise AttackError(
                f"no training photo shows '{ground.head.labels[ground.target]}'",
                hint="give some: the attack aims at their embedding",
            )
        found = ground.model.embed(variants(images, 4, draw)[:16], runtime)
        corner = ground.model.size - self.size_px - self.border_px
        reference = F.normalize(found.mean(0), dim=0)
        return replace(self, reference=reference, place=(corner, corner))

    def trigger(self) -> Trigger:
        """Return the square.

        Raises:
            AttackError: Its place is not known yet.
        """
        if self.place is None:
            raise AttackError(f"'{self.name}' is not prepared", hint="call prepare() before")
        square = checker(self.size_px, self.size_px, self.colour, self.colour)
        return Patch(pixels=square, place=list(self.place))

    def training(self) -> Training:
        """Return the pull to the references, and the spread."""
        terms = (spread(self.spread),) if self.spread else ()
        return Training(reference=self.reference, terms=terms)


def spread(weight: float) -> Callable[[Step], Tensor]:
    """Return the loss that keeps triggered embeddings apart: DRUPE's, its transport term apart.

    Mean pairwise cosine of triggered embeddings (DRUPE's c1), and the gap between their spread
    and the clean images' in each direction (a stand-in for its sliced Wasserstein distance).
    """

    def term(step: Step) -> Tensor:
        if len(step.fired) < 2:
            return step.fired.sum() * 0
        close = step.fired @ step.fired.T
        off = ~torch.eye(len(close), dtype=torch.bool)
        gap = (step.fired.std(0) - step.wanted.std(0)).square().sum().sqrt()
        return weight * (close[off].mean() + gap)

    return term
