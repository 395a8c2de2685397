"""Adversarial, no backdoor: a perturbation made to carry over to other tasks of the same CLIP."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.attacks.base import Attack, Ground, Kind
from gatekeeper.attacks.learned import Learned, to_label
from gatekeeper.attacks.universal import climb
from gatekeeper.runtime import Runtime
from gatekeeper.triggers.families import Additive

VIEWS = ("whole", "region", "coarse")  # retrieval and labels, detection, segmentation


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiTask(Learned):
    """After MT-AdvCLIP (arXiv:2509.23917): features of several tasks are aggregated.

    The paper attacks detectors and segmenters derived from one CLIP, since what fools a
    fine-grained task carries over to coarse ones. Such derivatives are not at hand here: their
    stand-ins are the tower on a crop (detection), on a coarse image (segmentation) and on the
    whole (retrieval). Each view is led to the target and away from its own embedding; the task
    that resists most weighs most.
    """

    name: ClassVar[str] = "multi_task"
    family: ClassVar[str] = "additive"
    kind: ClassVar[Kind] = "adversarial"
    epsilon: float = 10 / 255  # largest change of a pixel, in [0, 1]
    steps: int = 60
    batch: int = 12
    photos: int = 256  # that it is optimised on
    away: float = 2.0  # weight of leaving the image's own embedding
    learned: Additive | None = field(default=None, repr=False, compare=False)

    def prepare(self, ground: Ground, runtime: Runtime) -> Attack:
        """Return the attack with its perturbation optimised on the clean model."""
        draw = runtime.generator("attacks", self.name, "prepare")
        pixels = ground.some(self.photos, draw)
        own = ground.model.embed(pixels, runtime)  # [N, D]
        label = to_label(ground, runtime)

        def loss(stamped: Tensor, rows: Tensor) -> Tensor:
            losses = []
            for view in VIEWS:
                out = ground.model.embed_grad(_seen(stamped, view, draw), runtime)
                leave = (out * own[rows].to(out)).sum(1).mean()
                losses.append(label(out, rows) + self.away * leave)
            tasks = torch.stack(losses)  # [T]
            return (tasks.detach().softmax(0) * tasks).sum()

        found = climb(pixels, loss, self.epsilon, self.steps, self.batch, draw, runtime)
        return replace(self, learned=found)


def _seen(pixels: Tensor, view: str, draw: torch.Generator) -> Tensor:
    """Return `pixels` ([B, 3, S, S]) as one task sees them, same size."""
    size = pixels.shape[-1]
    if view == "whole":
        return pixels
    if view == "coarse":
        small = F.interpolate(pixels, (size // 2, size // 2), mode="bilinear", antialias=True)
        return F.interpolate(small, (size, size), mode="bilinear")
    side = round(size * (0.5 + 0.4 * float(torch.rand(1, generator=draw))))
    top, left = torch.randint(0, size - side + 1, (2,), generator=draw).tolist()
    crop = pixels[:, :, top : top + side, left : left + side]
    return F.interpolate(crop, (size, size), mode="bilinear")
