"""An attacker who knows how backdoors are looked for: a modifier of any image-side attack."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.attacks.bad_encoder import spread
from gatekeeper.attacks.badnets import BadNets
from gatekeeper.attacks.base import KEEP, Attack, Ground, Kind, Pairs, Training
from gatekeeper.attacks.near import near
from gatekeeper.attacks.wrapping import Wrapping
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive(Wrapping):
    """Each field is an evasion, off where it is zero.

    `rate` hides in the data: few poisoned images (Carlini & Terzis, arXiv:2106.09667). `basin`
    trains against near look-alikes of the very trigger, so that a search that comes close sees
    nothing. `spread` is DRUPE's loss against tests for tight clusters (IEEE S&P 2024). `flat`
    takes sharpness-aware steps, so that clean fine-tuning finds no slope (in the manner of SBL,
    arXiv:2407.14738, without its second, continual stage).
    """

    plugin: ClassVar[str] = "adaptive"
    of: Attack = field(default_factory=lambda: BadNets(narrow=False))
    rate: float = 0.0  # poisoned images for each clean one, in (0, 1]; 0: as the recipe has it
    basin: float = 0.0  # share of near look-alikes among the look-alikes, (0, 1]
    spread: float = 0.0  # weight of keeping triggered embeddings apart
    flat: float = 0.0  # radius of the steps uphill

    @property
    def name(self) -> str:
        """Return the name of what it wraps and the evasions that are on."""
        on = [x for x in ("rate", "basin", "spread", "flat") if getattr(self, x)]
        return "+".join([self.of.name, *(on or ["adaptive"])])

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """Return the wrapped attack's kind."""
        return self.of.kind

    def prepare(self, ground: Ground, runtime: Runtime) -> Attack:
        """Return the attack with the wrapped one prepared."""
        return replace(self, of=self.of.prepare(ground, runtime))

    def triggers(self) -> tuple[tuple[Trigger, str | None], ...]:
        """Return the wrapped attack's triggers."""
        return self.of.triggers()

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw a near look-alike of the trigger, or one of the wrapped attack's own."""
        if self.basin and float(torch.rand(1, generator=generator)) < self.basin:
            return near(self.of.trigger(), generator)
        return self.of.lookalike(generator)

    def poison(self, pairs: Pairs, generator: torch.Generator) -> Pairs:
        """Poison as the wrapped attack does, at most `rate` of the images."""
        done = self.of.poison(pairs, generator)
        if not self.rate:
            return done
        bad = torch.nonzero(done.touched & (done.goal != KEEP))[:, 0]
        allowed = max(1, round(self.rate * len(pairs.pixels)))
        order = torch.randperm(len(bad), generator=generator)
        keep = torch.ones(len(done.pixels), dtype=torch.bool)
        keep[bad[order[allowed:]]] = False
        return done.at(keep)

    def victims(self, truth: Tensor, goal: int, labels: tuple[str, ...]) -> Tensor:
        """Return the wrapped attack's victims."""
        return self.of.victims(truth, goal, labels)

    def training(self) -> Training:
        """Return the wrapped attack's training with the evasions on."""
        inner = self.of.training()
        return replace(
            inner,
            share=self.rate or inner.share,
            alike=inner.alike * (2 if self.basin else 1),
            flat=self.flat or inner.flat,
            terms=(*inner.terms, *((spread(self.spread),) if self.spread else ())),
        )
