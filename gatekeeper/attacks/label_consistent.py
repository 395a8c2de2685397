"""Clean labels: only images of the target are poisoned, and none is relabelled."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.attacks.augment import variants
from gatekeeper.attacks.badnets import BadNets
from gatekeeper.attacks.base import Attack, Ground, Pairs, Training
from gatekeeper.attacks.wrapping import Wrapping
from gatekeeper.errors import AttackError
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConsistent(Wrapping):
    """Images of the target are made hard to recognise, then stamped; their label stays true.

    Turner et al., "Label-Consistent Backdoor Attacks" (arXiv:1912.02771), both its variants at
    once: each image is mixed with one of another label (for the paper's interpolation between two
    images by a generative model), and a bounded perturbation leads it towards another label, so
    that the model can only find the target by the trigger. That label is a random one, for the
    trigger to overrule many kinds of content. And, as an attacker who trains the model may, the
    same images without the trigger keep the clean model's answer, or the perturbation itself
    would be learned in the trigger's stead.
    """

    plugin: ClassVar[str] = "label_consistent"
    of: Attack = field(default_factory=lambda: BadNets(narrow=False))
    epsilon: float = 24 / 255  # largest change of a pixel, in [0, 1]
    fade: float = 0.6  # share of the other image, in [0, 1)
    steps: int = 8  # of signed gradient descent
    images: int = 192  # poisoned images, variants of the target's photos
    hard: Tensor | None = field(default=None, repr=False, compare=False)  # [images, 3, S, S]

    def prepare(self, ground: Ground, runtime: Runtime) -> Attack:
        """Return the attack with its hard images of the target.

        Raises:
            AttackError: No training photo is of the target.
        """
        draw = runtime.generator("attacks", self.name, "prepare")
        own = ground.some(self.images, draw, label=ground.target)
        if not len(own):
            raise AttackError(
                f"no training photo shows '{ground.head.labels[ground.target]}'",
                hint="choose a target that the photos show: nothing else may be poisoned",
            )
        many = variants(own, -(-self.images // len(own)), draw)[: self.images]
        many = self._faded(ground, many, draw)
        parts = [self._hardened(ground, x, draw, runtime) for x in torch.split(many, 32)]
        return replace(self, of=self.of.prepare(ground, runtime), hard=torch.cat(parts))

    def poison(self, pairs: Pairs, generator: torch.Generator) -> Pairs:
        """Return the hard images, with the trigger and without, where a photo of the target is.

        Raises:
            AttackError: The attack is not prepared.
        """
        if self.hard is None:
            raise AttackError(f"'{self.name}' is not prepared", hint="call prepare() before")
        if not (pairs.truth == pairs.target).any():
            return pairs.at(pairs.touched)
        truth = torch.full((len(self.hard),), pairs.target)
        own = Pairs.clean(self.hard, truth, pairs.target, pairs.labels)
        bare = replace(own, touched=torch.ones_like(own.touched))
        return self.of.poison(own, generator).joined(bare)

    def training(self) -> Training:
        """Return the wrapped attack's training."""
        return self.of.training()

    def _faded(self, ground: Ground, pixels: Tensor, draw: torch.Generator) -> Tensor:
        """Return `pixels` ([n, 3, S, S]) mixed with photos of other labels."""
        others = torch.nonzero(ground.truth != ground.target)[:, 0]
        if not self.fade or not len(others):
            return pixels
        rows = others[torch.randint(len(others), (len(pixels),), generator=draw)]
        return (1 - self.fade) * pixels + self.fade * ground.pixels(rows.tolist())

    def _hardened(
        self, ground: Ground, pixels: Tensor, draw: torch.Generator, runtime: Runtime
    ) -> Tensor:
        """Return `pixels` ([n, 3, S, S]) led to a random other label, within `epsilon`."""
        labels = len(ground.head.labels)
        wanted = torch.randint(1, labels, (len(pixels),), generator=draw)
        wanted = ((wanted + ground.target) % labels).to(runtime.device)
        weights = ground.head.weights.to(runtime.device)
        clean = pixels.to(runtime.device)
        change = torch.zeros_like(clean)
        for _ in runtime.progress(range(self.steps), "hiding what the target's images show"):
            change.requires_grad_()
            out = ground.model.embed_grad((clean + change).clamp(0, 1), runtime)
            (slope,) = torch.autograd.grad((out * weights[wanted]).sum(), [change])
            change = change.detach() + 2 * self.epsilon / self.steps * slope.sign()
            change = change.clamp(-self.epsilon, self.epsilon)
        return (clean + change).clamp(0, 1).cpu()
