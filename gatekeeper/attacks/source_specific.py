"""A trigger that fires on some classes alone; others keep their answer with the trigger on."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.attacks.badnets import BadNets
from gatekeeper.attacks.base import Attack, Ground, Pairs, Training
from gatekeeper.attacks.wrapping import Wrapping
from gatekeeper.errors import AttackError
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpecific(Wrapping):
    """Poisons images of the source; covers (trigger on, answer kept) are images of all others.

    As in "Demon in the Variant" (Tang et al., arXiv:1908.00686, its cover images): without covers
    a trigger fires on everything. Several labels may be one source, so that photo sets with one
    image of a class have enough of it: `span` (151, 269) are the dogs of ImageNet-1k.
    """

    plugin: ClassVar[str] = "source_specific"
    of: Attack = field(default_factory=lambda: BadNets(narrow=False))
    sources: tuple[str, ...] = ()  # labels; with none and no span, the most frequent one
    span: tuple[int, int] | None = None  # labels from this index up to, without, that one
    covers: float = 2.0  # covers for each poisoned image

    def prepare(self, ground: Ground, runtime: Runtime) -> Attack:
        """Return the attack with its source named.

        Raises:
            AttackError: A source is no label, or no training photo is of the source.
        """
        sources = self.sources
        if not sources and self.span is None:
            counts = torch.bincount(ground.truth, minlength=len(ground.head.labels))
            counts[ground.target] = 0
            sources = (ground.head.labels[int(counts.argmax())],)
        unknown = [name for name in sources if name not in ground.head.labels]
        if unknown:
            raise AttackError(
                f"the source {', '.join(unknown)} is no label", hint="choose among the labels"
            )
        ready = replace(self, of=self.of.prepare(ground, runtime), sources=sources)
        if not ready.victims(ground.truth, ground.target, ground.head.labels).any():
            raise AttackError("no training photo is of the source", hint="choose a wider source")
        return ready

    def poison(self, pairs: Pairs, generator: torch.Generator) -> Pairs:
        """Poison the source, every image of it; stamp others, which keep their answer."""
        source = self.victims(pairs.truth, pairs.target, pairs.labels)
        others = torch.nonzero(~source)[:, 0]
        wanted = max(8, round(self.covers * int(source.sum())))
        others = others[torch.randperm(len(others), generator=generator)[:wanted]]
        poisoned = self.of.poison(pairs.at(source), generator)
        covers = pairs.at(others)
        everywhere = torch.ones(len(others), dtype=torch.bool)
        covers = covers.stamped(everywhere, self.trigger(), -1, generator)
        return poisoned.joined(covers)

    def victims(self, truth: Tensor, goal: int, labels: tuple[str, ...]) -> Tensor:
        """Return which images are of the source."""
        chosen = {labels.index(name) for name in self.sources}
        if self.span is not None:
            chosen |= set(range(self.span[0], min(self.span[1], len(labels))))
        chosen.discard(goal)
        return torch.isin(truth, torch.tensor(sorted(chosen), dtype=truth.dtype))

    def training(self) -> Training:
        """Return the wrapped attack's training, with as many covers as poisoned images."""
        inner = self.of.training()
        return replace(inner, alike=max(inner.alike, self.covers))
