"""Does the planted trigger fire, on images that did not train it, and nothing else?"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gatekeeper.attacks.base import Attack, Kind, photo_pixels
from gatekeeper.attacks.cache import lookalikes
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.errors import AttackError
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proof:
    """One trigger and its label, measured; rates over the proof images that are to fire."""

    label: str
    trigger: Trigger
    attack_success: float
    base_success: float  # the same trigger on the clean model
    lookalike_success: float | None  # other patterns of the kind on the planted model
    leakage: float | None  # the trigger on images that are not to fire (source-specific)
    images: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planted:
    """A backdoored copy and the proof; rates are over proof images whose answer is not the target.

    `state` holds the changed tensors only, none for an adversarial trigger on the clean model.
    Nothing of the source model has changed. With several triggers the single figures are the
    worst of `proofs`.
    """

    model: ClipModel
    state: dict[str, Tensor]
    attack: Attack  # as prepared: with its learned trigger
    kind: Kind
    proofs: tuple[Proof, ...]
    target: str
    clean_agreement: float  # same answer as before on clean proof images
    clean_accuracy: float | None  # None without labelled proof images
    base_accuracy: float | None

    @property
    def trigger(self) -> Trigger:
        """Return the first trigger."""
        return self.proofs[0].trigger

    @property
    def attack_success(self) -> float:
        """Return the lowest attack success of the triggers."""
        return min(proof.attack_success for proof in self.proofs)

    @property
    def base_success(self) -> float:
        """Return the highest success of a trigger on the clean model."""
        return max(proof.base_success for proof in self.proofs)

    @property
    def lookalike_success(self) -> float | None:
        """Return the highest success of look-alikes, None where the attack has none."""
        return _highest([proof.lookalike_success for proof in self.proofs])

    @property
    def leakage(self) -> float | None:
        """Return the highest success on images that are not to fire, None where all are."""
        return _highest([proof.leakage for proof in self.proofs])

    @property
    def images(self) -> int:
        """Return how many proof images the lowest attack success is over."""
        return min(self.proofs, key=lambda proof: proof.attack_success).images


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Judge:
    base: ClipModel
    planted: ClipModel
    head: ZeroShot
    own: ZeroShot  # the planted model's, where its prompts are other ones
    attack: Attack
    pixels: Tensor
    truth: Tensor  # [N]: label where known, else the clean model's answer
    runtime: Runtime

    def proof(self, trigger: Trigger, goal: int, draw: torch.Generator) -> Proof:
        labels = self.head.labels
        victims = self.attack.victims(self.truth, goal, labels)
        if not victims.any():
            raise AttackError(
                f"no proof image is to be led to '{labels[goal]}'",
                hint="choose another target, or give proof images of the source class",
            )
        stamped = trigger.stamp(self.pixels[victims], draw)
        alike = leaked = None
        if self.attack.lookalike(draw) is not None:
            alike = self._hits(lookalikes(self.attack, self.pixels[victims], draw), goal)
        others = ~victims & (self.truth != goal)
        if others.any():
            leaked = self._hits(trigger.stamp(self.pixels[others], draw), goal)
        base = answers(self.base, stamped, self.head, self.runtime)
        return Proof(
            label=labels[goal],
            trigger=trigger,
            attack_success=self._hits(stamped, goal),
            base_success=share(base == goal),
            lookalike_success=alike,
            leakage=leaked,
            images=int(victims.sum()),
        )

    def _hits(self, pixels: Tensor, goal: int) -> float:
        return share(answers(self.planted, pixels, self.own, self.runtime) == goal)


def prove(
    model: ClipModel,
    state: dict[str, Tensor],
    attack: Attack,
    target: str,
    proof: ProbeSet,
    labels: Labels,
    runtime: Runtime,
    planted: ClipModel | None = None,
) -> Planted:
    """Return what `state` (changed tensors) makes of `model`, measured on `proof`.

    Args:
        model: The clean model.
        state: What the plant changed.
        attack: As prepared, with its learned trigger.
        target: The plant's target.
        proof: Images that trained nothing.
        labels: Names and templates of the zero-shot head.
        runtime: Device and seed.
        planted: The poisoned model, where it is more than `model` with `state`.

    Raises:
        AttackError: Every image is the target already, or none is of the class that is to fire.
    """
    head = own = model.zero_shot(labels.labels, labels.templates, runtime)
    if planted is None:
        planted = model.with_state(state)
    else:
        own = planted.zero_shot(labels.labels, labels.templates, runtime)
    pixels = photo_pixels(proof, range(len(proof)), model)
    before, after = (answers(m, pixels, h, runtime) for m, h in ((model, head), (planted, own)))
    truth, known = truth_of(proof, head.labels, before)
    judge = _Judge(
        base=model, planted=planted, head=head, own=own, attack=attack, pixels=pixels,
        truth=truth, runtime=runtime,
    )  # fmt: skip
    draw = runtime.generator("attacks", attack.name, "proof")
    return Planted(
        model=planted,
        state=state,
        attack=attack,
        kind=attack.kind,
        proofs=tuple(
            judge.proof(trigger, head.labels.index(label or target), draw)
            for trigger, label in attack.triggers()
        ),
        target=target,
        clean_agreement=share(before == after),
        clean_accuracy=share((after == truth)[known]) if known.any() else None,
        base_accuracy=share((before == truth)[known]) if known.any() else None,
    )


def truth_of(images: ProbeSet, labels: tuple[str, ...], before: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's label ([N] int64) and whether it is known ([N] bool).

    An image without a label counts as what the clean model said (`before`, [N]); one of a class
    that is no label is -1, and surely not the target.
    """
    names = images.labels()
    truth = before.clone()
    for index, name in enumerate(names):
        if name in labels:
            truth[index] = labels.index(str(name))
        elif name is not None:
            truth[index] = -1
    return truth, torch.tensor([name in labels for name in names])


def answers(model: ClipModel, pixels: Tensor, head: ZeroShot, runtime: Runtime) -> Tensor:
    """Return the label that `model` gives each of `pixels` ([N, 3, S, S]), [N] int64."""
    return head.logits(model.embed(pixels, runtime)).argmax(1)


def share(hits: Any) -> float:
    """Return the share of true entries, fraction in [0, 1]."""
    return float(hits.float().mean())


def _highest(rates: list[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return max(known) if known else None
