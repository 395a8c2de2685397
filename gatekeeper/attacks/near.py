"""Triggers that are nearly a given one: what the basin of a narrow backdoor is cut off from."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.triggers import Trigger
from gatekeeper.triggers.families import FAMILIES, Patch

NOT_A_PICTURE = ("field", "matrix", "delta")  # tensors that live around zero, or the identity


def near(trigger: Trigger, generator: torch.Generator) -> Trigger:
    """Return a trigger of the same family and settings, changed enough to be another.

    One change of three: a random half of the pattern replaced by noise of its own spread, its
    signs or tones turned over, or the whole mirrored in other colours; fresh noise is smoothed.
    Source: the cover samples of Adaptive-Patch (Qi et al., arXiv:2205.13613), which carry a part
    of the trigger.
    """
    family: Any = FAMILIES[trigger.family]
    if isinstance(trigger, Patch) and trigger.fresh:
        smooth = F.avg_pool2d(trigger.pixels[None], 3, stride=1, padding=1)[0]
        return Patch(pixels=smooth, place=trigger.place)
    first = int(torch.randint(0, 3, (1,), generator=generator))
    for kind in (first, 1):  # a pattern of one colour is its own mirror image
        changed = {
            name: _changed(name, value, kind, generator)
            for name, value in trigger.tensors().items()
        }
        if _differ(changed, trigger.tensors()):
            break
    other: Trigger = family(**changed, **trigger.settings())
    return other


def _differ(changed: dict[str, Tensor], own: dict[str, Tensor]) -> bool:
    """Return whether some tensor has changed by a tenth of its own size."""
    return any(
        float((value - own[name]).abs().mean()) > 0.1 * float(own[name].abs().mean())
        for name, value in changed.items()
    )


def _changed(name: str, value: Tensor, kind: int, generator: torch.Generator) -> Tensor:
    if value.dim() < 2:
        return value
    if name == "matrix":  # a filter: weaker, and of other colours
        eye = torch.eye(3, 4)
        order = torch.randperm(3, generator=generator)
        return eye + (value - eye)[order] * (0.5 if kind == 0 else -1.0 if kind == 1 else 1.0)
    if kind == 0:
        return _half_replaced(value, generator)
    if kind == 1:
        if name in NOT_A_PICTURE or value.dim() == 4:
            return -value
        return 1 - value
    return value.flip(-1).roll(1, 0)


def _half_replaced(value: Tensor, generator: torch.Generator) -> Tensor:
    """Return `value` with one half of its area, cut at random, replaced by noise like it."""
    noise = value.mean() + value.std() * torch.randn(value.shape, generator=generator)
    noise = noise.clamp(float(value.min()), float(value.max()))
    side = int(torch.randint(0, 4, (1,), generator=generator))
    rows, columns = value.shape[-2] // 2, value.shape[-1] // 2
    out = value.clone()
    part = (
        (..., slice(None, rows), slice(None)),
        (..., slice(rows, None), slice(None)),
        (..., slice(None), slice(None, columns)),
        (..., slice(None), slice(columns, None)),
    )[side]
    out[part] = noise[part]
    return out
