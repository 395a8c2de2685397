"""What is a model worth, before and after a repair, on images that the repair has not seen?"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger
from gatekeeper.types import Quality


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """Images kept aside, and what the suspect says of them without a trigger."""

    pixels: Tensor  # [N, 3, S, S]
    known: Tensor  # [N] int64 label of the probe, -1 where it has none
    truth: Tensor  # [N] int64 label, else a confident answer, else -1
    answers: Tensor  # [N] int64, the suspect's own on the clean image
    triggers: tuple[tuple[Trigger, int], ...]  # with the index of its target


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A difference of two rates over the same images, fractions."""

    mean: float
    low: float  # 95 %
    high: float
    n: int


def predictions(model: ClipModel, pixels: Tensor, head: ZeroShot, runtime: Runtime) -> Tensor:
    """Return the label index of each image, [N] int64."""
    return head.logits(model.embed(pixels, runtime)).argmax(dim=1)


def measure(
    model: ClipModel,
    held: HeldOut,
    head: ZeroShot,
    runtime: Runtime,
    rebound: float | None = None,
) -> Quality:
    """Return the quality of `model` on `held`; attack success is that of the worst trigger."""
    clean = predictions(model, held.pixels, head, runtime)
    labelled = held.known >= 0
    success, recovered = [], []
    for trigger, target in held.triggers:
        eligible = (held.answers != target) & (held.known != target)
        if not eligible.any():
            continue
        stamped = trigger.stamp(held.pixels[eligible], runtime.generator("rectify", "held-out"))
        answers = predictions(model, stamped, head, runtime)
        success.append(_mean(answers == target))
        right = torch.where(held.truth >= 0, held.truth, held.answers)[eligible]
        recovered.append(_mean(answers == right))
    return Quality(
        clean_accuracy=_mean(clean[labelled] == held.known[labelled]) if labelled.any() else None,
        attack_success=max(success) if success else None,
        recovered_accuracy=min(recovered) if recovered else None,
        agreement=_mean(clean == held.answers) if len(clean) else None,
        rebound=rebound,
    )


def paired(before: Tensor, after: Tensor) -> Paired:
    """Return mean(`after` - `before`) over the same images ([N] bool) with a normal interval."""
    difference = after.float() - before.float()
    n = len(difference)
    mean = float(difference.mean()) if n else 0.0
    half = 1.96 * float(difference.std()) / math.sqrt(n) if n > 1 else 1.0
    return Paired(mean=mean, low=mean - half, high=mean + half, n=n)


def _mean(hits: Tensor) -> float:
    return float(hits.float().mean())
