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


def answers(tower: LateTower, features: Tensor, head: ZeroShot, runtime: Runtime) -> Tensor:
    """Return the label index that `tower` gives each of `features` ([N, ...]), [N] int64."""
    parts = [
        head.logits(F.normalize(tower.output(part, runtime).cpu(), dim=1)).argmax(dim=1)
        for part in torch.split(features, BATCH)
    ]
    return torch.cat(parts)


def worst(
    tower: LateTower, found: Sequence[Found], clean: Tensor, head: ZeroShot, runtime: Runtime
) -> float:
    """Return the success of the trigger that works best; `clean` ([N]) are the clean answers."""
    highest = 0.0
    for one in found:
        eligible = clean != one.target
        if eligible.any():
            given = answers(tower, one.pool.features, head, runtime)
            highest = max(highest, float((given == one.target)[eligible].float().mean()))
    return highest
