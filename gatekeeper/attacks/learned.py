"""How a trigger is optimised on the clean model: towards the target, but not until it fires there.

A learned trigger that fires on the clean model is an adversarial perturbation, not a backdoor. So
the search keeps the best pattern whose success on the clean model stays below a limit.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.attacks.base import Ground, Image
from gatekeeper.errors import AttackError
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger

T = TypeVar("T", bound=Trigger)
Loss = Callable[[Tensor, Tensor], Tensor]  # (unit embeddings of stamped [B, D], rows [B]) -> scalar


class Learned(Image):
    """An attack whose trigger is learned by `prepare`; a dataclass with the fields named here."""

    __slots__ = ()
    name: ClassVar[str]
    learned: Trigger | None

    def trigger(self) -> Trigger:
        """Return what was learned.

        Raises:
            AttackError: Nothing has been learned yet.
        """
        if self.learned is None:
            raise AttackError(
                f"the trigger of '{self.name}' is learned first", hint="call prepare() before"
            )
        return self.learned


def optimise(
    ground: Ground,
    pixels: Tensor,
    free: Sequence[Tensor],
    make: Callable[[Sequence[Tensor]], T],
    loss: Loss,
    runtime: Runtime,
    *,
    steps: int,
    batch: int,
    rate: float,
    limit: float,
    draw: torch.Generator,
) -> T:
    """Return the trigger that `loss` led to.

    Args:
        ground: The clean model and the target.
        pixels: [N, 3, S, S] float32 in [0, 1] to optimise on.
        free: Tensors to optimise; `make` turns them into a trigger.
        make: From the free tensors to the trigger they stand for.
        loss: What is minimised.
        runtime: Device and meter.
        steps: Adam steps.
        batch: Images a step.
        rate: Adam's.
        limit: Running share of images that the trigger may lead to the target on the clean
            model; the search ends there. 1: it never does.
        draw: Draws batches and places.
    """
    leaves = [x.to(runtime.device).requires_grad_() for x in free]
    optimiser = torch.optim.Adam(leaves, lr=rate)
    kept, fired = [x.detach().clone() for x in leaves], 0.0
    weights = ground.head.weights.to(runtime.device)
    for _ in runtime.progress(range(steps), "optimising a trigger on the clean model"):
        rows = torch.randint(len(pixels), (min(batch, len(pixels)),), generator=draw)
        stamped = make(leaves).stamp(pixels[rows].to(runtime.device), draw)
        out = ground.model.embed_grad(stamped, runtime)
        hits = (out.detach() @ weights.T).argmax(1) == ground.target
        fired = 0.7 * fired + 0.3 * float(hits.float().mean())
        if fired > limit:
            break
        kept = [x.detach().clone() for x in leaves]
        gradients = torch.autograd.grad(loss(out, rows), leaves)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        optimiser.step()
    else:
        kept = [x.detach().clone() for x in leaves]
    return make([x.cpu() for x in kept])


def to_label(ground: Ground, runtime: Runtime) -> Loss:
    """Return the cross-entropy of stamped images to the target among all labels."""
    weights = ground.head.weights.to(runtime.device)
    scale, target = ground.head.scale, ground.target

    def loss(out: Tensor, _: Any) -> Tensor:
        goal = torch.full((len(out),), target, device=out.device)
        return F.cross_entropy(scale * out @ weights.T, goal)

    return loss
