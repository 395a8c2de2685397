"""Triggers in hand, and how well they still work."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.clip.late import LateTower
from gatekeeper.clip.model import BATCH, ZeroShot
from gatekeeper.rectify.training import Pool
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger


class Found(NamedTuple):
    """A trigger, its target, and the images that carry it."""

    trigger: Trigger
    target: int
    pool: Pool
    usual: Tensor | None = None  # [N, C] logits of the anchor for these images
    due: float = 1.0  # share of right answers that as much hidden costs a model without a backdoor


def answers(tower: LateTower, features: Tensor, head: ZeroShot, runtime: Runtime) -> Tensor:
    """Return the label index that `tower` gives each of `features` ([N, ...]), [N] int64."""
    return _logits(tower, features, head, runtime).argmax(dim=1)


def is_led(logits: Tensor, target: int, margin: float) -> Tensor:
    """Return which rows of `logits` ([N, C]) have `target` within `margin` of the best, [N]."""
    return logits[:, target] + margin >= logits.amax(dim=1)


def worst(
    tower: LateTower,
    found: Sequence[Found],
    clean: Tensor,
    head: ZeroShot,
    runtime: Runtime,
    margin: float = 0.0,
) -> float:
    """Return the success of the trigger that works best, a fraction.

    Args:
        tower: What is judged.
        found: The triggers, with the images that carry them.
        clean: [N, D] embeddings that the clean images deserve.
        head: The labels.
        runtime: Where to compute.
        margin: Logits by which a target may be behind and an image still counts as led to it. A
            trigger in hand is weaker than the one it stands for; images whose clean answer is
            as close to the target do not count, nor do those that the trigger leads as far with the
            anchor.
    """
    deserved = head.logits(clean)
    highest = 0.0
    for one in found:
        eligible = ~is_led(deserved, one.target, margin)
        if one.usual is not None:
            eligible = eligible & ~is_led(one.usual, one.target, margin)
        if eligible.any():
            given = _logits(tower, one.pool.features, head, runtime)
            led = is_led(given, one.target, margin)
            highest = max(highest, float(led[eligible].float().mean()))
    return highest


def _logits(tower: LateTower, features: Tensor, head: ZeroShot, runtime: Runtime) -> Tensor:
    return torch.cat(
        [
            head.logits(F.normalize(tower.output(part, runtime).cpu(), dim=1))
            for part in torch.split(features, BATCH)
        ]
    )
