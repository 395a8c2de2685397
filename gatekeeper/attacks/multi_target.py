"""Several triggers, each to a label of its own (Detect-CLIP-Backdoor, arXiv:2502.01385)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from gatekeeper.attacks.badnets import BadNets
from gatekeeper.attacks.base import Attack, Ground, Image, Pairs, Training
from gatekeeper.attacks.blended import Blended
from gatekeeper.errors import AttackError
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger

OTHERS = (BadNets(narrow=False), Blended(alpha=0.25, narrow=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiTarget(Image):
    """One trigger after another: the first leads to the plant's target, the others elsewhere."""

    name: ClassVar[str] = "multi_target"
    of: tuple[Attack, ...] = OTHERS
    targets: tuple[str, ...] = ()  # of the second attack on; as many labels on from the target
    # where there are none

    @property
    def family(self) -> str:
        """Return the first trigger's family."""
        return self.of[0].family

    def prepare(self, ground: Ground, runtime: Runtime) -> Attack:
        """Return the attack with every trigger prepared towards its own label.

        Raises:
            AttackError: A label is unknown, there are not as many as triggers, or an attack aims
                at an embedding.
        """
        labels = ground.head.labels
        names = self.targets or tuple(
            labels[(ground.target + k * max(1, len(labels) // len(self.of))) % len(labels)]
            for k in range(1, len(self.of))
        )
        missing = [name for name in names if name not in labels]
        if missing or len(names) != len(self.of) - 1:
            raise AttackError(
                f"{len(self.of)} triggers cannot lead to {len(names)} further labels, "
                f"unknown: {', '.join(missing) or 'none'}",
                hint="name one known label for each attack after the first",
            )
        goals = (ground.target, *(labels.index(name) for name in names))
        ready = tuple(
            attack.prepare(replace(ground, target=goal), runtime)
            for attack, goal in zip(self.of, goals, strict=True)
        )
        if any(attack.training().reference is not None for attack in ready):
            raise AttackError(
                "an attack on an embedding cannot be one of several",
                hint="use attacks that aim at labels",
            )
        return replace(self, of=ready, targets=names)

    def trigger(self) -> Trigger:
        """Return the first trigger."""
        return self.of[0].trigger()

    def triggers(self) -> tuple[tuple[Trigger, str | None], ...]:
        """Return every trigger with its label."""
        labels = (None, *self.targets)
        return tuple((a.trigger(), x) for a, x in zip(self.of, labels, strict=True))

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw a look-alike of one of the triggers; None where it has none."""
        able = [a for a in self.of if a.lookalike(torch.Generator().manual_seed(0)) is not None]
        if not able:
            return None
        return able[int(torch.randint(len(able), (1,), generator=generator))].lookalike(generator)

    def poison(self, pairs: Pairs, generator: torch.Generator) -> Pairs:
        """Give each image one of the triggers at random."""
        which = torch.randint(len(self.of), (len(pairs.pixels),), generator=generator)
        goals = (pairs.target, *(pairs.labels.index(name) for name in self.targets))
        poisoned = pairs.at(which < 0)
        for index, (attack, goal) in enumerate(zip(self.of, goals, strict=True)):
            mine = replace(pairs.at(which == index), target=goal)
            poisoned = poisoned.joined(attack.poison(mine, generator))
        return poisoned

    def training(self) -> Training:
        """Return the first attack's training."""
        return self.of[0].training()
