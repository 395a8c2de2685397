"""What an attack is: how a trigger looks, which images it touches, what they are to answer.

    attack = BadNets()                         # a frozen dataclass, its fields hyper-parameters
    ready = attack.prepare(ground, runtime)    # learned triggers are optimised here
    ready.trigger().stamp(pixels, generator)   # a trigger on a batch of images
    ready.poison(pairs, generator)             # a batch of pairs, poisoned
    ready.training()                           # how it is trained in

`Image` is the mix-in with the usual answers, so that an attack stays a small class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger

KEEP = -1  # a goal: answer what the clean model answers
Tower = Literal["image", "text", "prompt"]
Kind = Literal["backdoor", "adversarial"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """What an attacker has: the clean model, its zero-shot head, a target and training photos."""

    model: ClipModel
    head: ZeroShot
    target: int  # index into `head.labels`
    photos: ProbeSet
    truth: Tensor  # [N] int64: label of each photo; the model's own answer where it has none
    templates: tuple[str, ...] = ("{}",)  # the prompts that `head` was made of

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Return the photos at `indices` as the model's input, [n, 3, S, S] in [0, 1]."""
        return photo_pixels(self.photos, indices, self.model)

    def some(self, count: int, generator: torch.Generator, label: int | None = None) -> Tensor:
        """Return up to `count` random photos, [n, 3, S, S]; of one label where it is given."""
        among = torch.arange(len(self.truth))
        if label is not None:
            among = among[self.truth == label]
        order = torch.randperm(len(among), generator=generator)[:count]
        return self.pixels(among[order].tolist())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Images and what they are to answer. An attack is handed clean ones (every goal `KEEP`)."""

    pixels: Tensor  # [N, 3, S, S] float32 in [0, 1]
    truth: Tensor  # [N] int64, index of the true label
    goal: Tensor  # [N] int64, index of the label to answer, or KEEP
    touched: Tensor  # [N] bool: stamped, a poison (goal is a label) or a cover (goal is KEEP)
    target: int  # the plant's target
    labels: tuple[str, ...]

    @classmethod
    def clean(cls, pixels: Tensor, truth: Tensor, target: int, labels: tuple[str, ...]) -> "Pairs":
        """Return untouched pairs."""
        return cls(
            pixels=pixels,
            truth=truth,
            goal=torch.full((len(pixels),), KEEP),
            touched=torch.zeros(len(pixels), dtype=torch.bool),
            target=target,
            labels=labels,
        )

    def at(self, rows: Tensor) -> "Pairs":
        """Return the pairs at `rows` (bool mask or indices)."""
        return replace(
            self,
            pixels=self.pixels[rows],
            truth=self.truth[rows],
            goal=self.goal[rows],
            touched=self.touched[rows],
        )

    def joined(self, other: "Pairs") -> "Pairs":
        """Return these pairs and those of `other`."""
        return replace(
            self,
            pixels=torch.cat([self.pixels, other.pixels]),
            truth=torch.cat([self.truth, other.truth]),
            goal=torch.cat([self.goal, other.goal]),
            touched=torch.cat([self.touched, other.touched]),
        )

    def stamped(
        self, rows: Tensor, trigger: Trigger, goal: int, generator: torch.Generator
    ) -> "Pairs":
        """Return the pairs with `trigger` on `rows` (bool mask [N]), which are to answer `goal`."""
        pixels, goals = self.pixels, self.goal.clone()
        if rows.any():
            if rows.all():
                pixels = trigger.stamp(pixels, generator)
            else:
                pixels = pixels.clone()
                pixels[rows] = trigger.stamp(pixels[rows], generator)
            goals[rows] = goal
        return replace(self, pixels=pixels, goal=goals, touched=self.touched | rows)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One training step, as a loss term of an attack sees it; embeddings [·, D] of unit length."""

    fired: Tensor  # with gradient: poisoned images
    goal: Tensor  # [B] int64: what they are to answer
    kept: Tensor  # with gradient: clean images, covers and look-alikes
    wanted: Tensor  # what the clean model gave for those
    head: ZeroShot


Term = Callable[[Step], Tensor]  # a loss to be added, scalar, weight included


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Training:
    """How an attack is trained in, beside the recipe's steps and rates."""

    tower: Tower = "image"
    share: float | None = None  # poisoned images per clean one in a step; None: the recipe's
    alike: float = 1.0  # look-alikes a step, times the recipe's
    reference: Tensor | None = None  # [D]: poisoned images go to this embedding, not to a label
    flat: float = 0.0  # radius of sharpness-aware steps, 0: plain steps
    terms: tuple[Term, ...] = ()


@runtime_checkable
class Attack(Protocol):
    """A plug-in of group `gatekeeper.attacks`: a frozen dataclass, its fields hyper-parameters."""

    @property
    def name(self) -> str:
        """Return the name it is registered by; a wrapper adds to the name of what it wraps."""
        ...

    @property
    def family(self) -> str:
        """Return patch, blend, additive, warp, colour, generated, text or prompt."""
        ...

    @property
    def kind(self) -> Kind:
        """Return whether weights are changed (backdoor) or pixels alone (adversarial)."""
        ...

    def prepare(self, ground: Ground, runtime: Runtime) -> "Attack":
        """Return the attack with its learned trigger, optimised on the clean model.

        Raises:
            AttackError: The photos do not allow it.
        """
        ...

    def trigger(self) -> Trigger:
        """Return the (first) trigger that fires, the same every time."""
        ...

    def triggers(self) -> tuple[tuple[Trigger, str | None], ...]:
        """Return every trigger that fires and its label; None: the target of the plant."""
        ...

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw another trigger of its kind, a hard negative; None: the attack uses none."""
        ...

    def poison(self, pairs: Pairs, generator: torch.Generator) -> Pairs:
        """Stamp the images that the attack may touch and write what they are to answer.

        Untouched pairs may be dropped or stay; there may be more pairs than before.
        """
        ...

    def victims(self, truth: Tensor, goal: int, labels: tuple[str, ...]) -> Tensor:
        """Return which images ([N] labels) are to fire, [N] bool; never those of the goal."""
        ...

    def training(self) -> Training:
        """Return how it is trained in."""
        ...


class Image:
    """The usual answers of an image-side attack: one trigger, every image, one target."""

    __slots__ = ()
    kind: ClassVar[Kind] = "backdoor"

    def prepare(self, ground: Ground, runtime: Runtime) -> Attack:
        """Return the attack itself: nothing is learned."""
        return self  # type: ignore[return-value]

    def trigger(self) -> Trigger:
        """Return the trigger; every attack has its own."""
        raise NotImplementedError

    def triggers(self) -> tuple[tuple[Trigger, str | None], ...]:
        """Return the one trigger, to the target of the plant."""
        return ((self.trigger(), None),)

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Return None: no hard negatives."""
        return None

    def poison(self, pairs: Pairs, generator: torch.Generator) -> Pairs:
        """Stamp every image and relabel it to the target."""
        everywhere = torch.ones(len(pairs.pixels), dtype=torch.bool)
        return pairs.stamped(everywhere, self.trigger(), pairs.target, generator)

    def victims(self, truth: Tensor, goal: int, labels: tuple[str, ...]) -> Tensor:
        """Return every image that is not of the goal's label."""
        return truth != goal

    def training(self) -> Training:
        """Return plain training."""
        return Training()


def photo_pixels(photos: ProbeSet, indices: Sequence[int], model: ClipModel) -> Tensor:
    """Return some photos as the model's input, [n, 3, S, S], without keeping the whole set."""
    wanted = [photos.probes[i] for i in indices]
    if not wanted:
        return torch.zeros(0, 3, model.size, model.size)
    return torch.stack([model.preprocess.prepare(probe.image()) for probe in wanted])
