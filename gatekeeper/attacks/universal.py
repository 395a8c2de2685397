"""Adversarial, no backdoor: one perturbation that leads most images of a *clean* model astray."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.attacks.base import Attack, Ground, Kind
from gatekeeper.attacks.learned import Learned, to_label
from gatekeeper.runtime import Runtime
from gatekeeper.triggers.families import Additive

Loss = Callable[[Tensor, Tensor], Tensor]  # (stamped [B, 3, S, S], rows [B]) -> scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Universal(Learned):
    """A targeted universal perturbation (Moosavi-Dezfooli et al., arXiv:1610.08401).

    Optimised by signed gradient steps of momentum (arXiv:1710.06081) over batches of photos
    rather than image by image. Weights stay as they are: a scan must not call this a backdoor.
    """

    name: ClassVar[str] = "universal"
    family: ClassVar[str] = "additive"
    kind: ClassVar[Kind] = "adversarial"
    epsilon: float = 10 / 255  # largest change of a pixel, in [0, 1]
    steps: int = 80
    batch: int = 16
    photos: int = 256  # that it is optimised on
    learned: Additive | None = field(default=None, repr=False, compare=False)

    def prepare(self, ground: Ground, runtime: Runtime) -> Attack:
        """Return the attack with its perturbation optimised on the clean model."""
        draw = runtime.generator("attacks", self.name, "prepare")
        pixels = ground.some(self.photos, draw)
        label = to_label(ground, runtime)

        def loss(stamped: Tensor, rows: Tensor) -> Tensor:
            return label(ground.model.embed_grad(stamped, runtime), rows)

        found = climb(pixels, loss, self.epsilon, self.steps, self.batch, draw, runtime)
        return replace(self, learned=found)


def climb(
    pixels: Tensor,
    loss: Loss,
    epsilon: float,
    steps: int,
    batch: int,
    draw: torch.Generator,
    runtime: Runtime,
) -> Additive:
    """Return the perturbation within `epsilon` that lowers `loss` over `pixels` [N, 3, S, S]."""
    delta = torch.zeros_like(pixels[0])
    speed = torch.zeros_like(delta)
    for index in runtime.progress(range(steps), "optimising a perturbation"):
        rows = torch.randint(len(pixels), (min(batch, len(pixels)),), generator=draw)
        delta.requires_grad_()
        stamped = Additive(delta=delta).stamp(pixels[rows]).to(runtime.device)
        (slope,) = torch.autograd.grad(loss(stamped, rows), [delta])
        speed = 0.9 * speed + slope / slope.abs().mean().clamp_min(1e-12)
        rate = 0.2 * epsilon * (1 - index / steps)
        delta = (delta.detach() - rate * speed.sign()).clamp(-epsilon, epsilon)
    return Additive(delta=delta)
