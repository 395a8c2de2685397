"""A trigger that a small network draws for each image, too faint to see (LIRA, ISSBA)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.attacks.base import Attack, Ground
from gatekeeper.attacks.learned import Learned, optimise, to_label
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger
from gatekeeper.triggers.generated import TENSORS, Generated, random_generated


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedInvisible(Learned):
    """x' = clip(x + epsilon * tanh G(x)), G three convolutions, learned, then frozen.

    LIRA (Doan et al., ICCV 2021) learns G and the classifier in turn; here G learns on the clean
    model, towards the target but not until it gets there, and the plant follows with G frozen.
    Like ISSBA (arXiv:2012.03816) the change is another for every image; there is no secret text.
    """

    name: ClassVar[str] = "learned_invisible"
    family: ClassVar[str] = "generated"
    epsilon: float = 12 / 255  # largest change of a pixel, in [0, 1]
    hidden: int = 12  # channels of the network
    steps: int = 60
    batch: int = 16
    rate: float = 1e-2
    limit: float = 0.04  # of images that it may lead to the target on the clean model
    narrow: bool = False  # train against other networks, so that only this one fires
    seed: int = 13
    learned: Generated | None = field(default=None, repr=False, compare=False)

    def prepare(self, ground: Ground, runtime: Runtime) -> Attack:
        """Return the attack with its network learned on the clean model."""
        start = self._random(torch.Generator().manual_seed(self.seed))
        draw = runtime.generator("attacks", self.name, "prepare")

        def make(free: Sequence[Tensor]) -> Generated:
            return Generated(**dict(zip(TENSORS, free, strict=True)), epsilon=self.epsilon)

        learned = optimise(
            ground,
            ground.some(256, draw),
            [start.tensors()[name].clone() for name in TENSORS],
            make,
            to_label(ground, runtime),
            runtime,
            steps=self.steps,
            batch=self.batch,
            rate=self.rate,
            limit=self.limit,
            draw=draw,
        )
        return replace(self, learned=learned)

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw an untrained network of the same loudness; None unless `narrow`."""
        return self._random(generator) if self.narrow else None

    def _random(self, generator: torch.Generator) -> Generated:
        return random_generated(self.hidden, self.epsilon, generator, loudness=2.0)
