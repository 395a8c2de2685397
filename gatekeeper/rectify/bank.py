"""The found triggers and their neighbourhood, so that the whole kind goes and not one pattern."""

from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Additive, Blend, Colour, Composite, Patch, Trigger, Warp

SCALES = (0.7, 1.3)  # of a patch's side, an overlay's opacity, a warp's reach (repair section 11)
REACH = 0.04  # of the image's side: how far a patch found at one place is moved
JITTER = 0.08  # standard deviation of the colour noise on a pattern, in [0, 1]
GROUP = 4  # images that share one variation
MUTABLE = {  # family -> field of its pattern
    "patch": "pixels",
    "blend": "pattern",
    "additive": "delta",
    "warp": "field",
    "colour": "matrix",
}


def stamp_varied(trigger: Trigger, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return `pixels` ([N, 3, S, S] in [0, 1]) with variations of `trigger` on, same shape."""
    parts = []
    for start in range(0, len(pixels), GROUP):
        part = pixels[start : start + GROUP]
        limit = min(part.shape[-2:])
        parts.append(vary(trigger, limit, generator).stamp(part, generator))
    return torch.cat(parts)


def vary(trigger: Trigger, limit: int, generator: torch.Generator) -> Trigger:
    """Return `trigger` rescaled and recoloured; a patch is moved.

    A patch that was found anywhere stays free to be anywhere. One that was found at one place may
    fire nowhere else, so it is moved a little: elsewhere it would teach nothing. One in three is
    the trigger itself. A family not known here is left as it is.
    """
    if isinstance(trigger, Composite):  # several patterns at once: each for itself
        return Composite(members=tuple(vary(one, limit, generator) for one in trigger.members))
    draw = float(torch.rand(1, generator=generator))
    if draw < 1 / 3:
        return trigger
    scale = SCALES[0] + (SCALES[1] - SCALES[0]) * float(torch.rand(1, generator=generator))
    if isinstance(trigger, Patch):
        side = [max(1, min(limit, round(n * scale))) for n in trigger.pixels.shape[-2:]]
        scaled = F.interpolate(trigger.pixels[None], side, mode="bicubic", antialias=True)[0]
        place = None if trigger.place is None else _moved(trigger, side, limit, generator)
        return Patch(pixels=_jittered(scaled, generator), place=place)
    if isinstance(trigger, Blend):
        pattern = _jittered(trigger.pattern, generator)
        return replace(trigger, pattern=pattern, alpha=min(1.0, trigger.alpha * scale))
    if isinstance(trigger, Additive):
        return Additive(delta=trigger.delta * scale)
    if isinstance(trigger, Warp):
        return Warp(field=trigger.field * scale)
    if isinstance(trigger, Colour):
        eye = torch.eye(3, 4)
        return Colour(matrix=eye + scale * (trigger.matrix - eye))
    return trigger


def _moved(patch: Patch, side: list[int], limit: int, generator: torch.Generator) -> list[int]:
    """Return a place (x, y) for a patch of `side` (h, w) whose centre is near that of `patch`."""
    reach = round(REACH * limit)
    shifts = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    height, width = patch.pixels.shape[-2:]
    x, y = patch.place or (0, 0)
    centre = (x + width / 2 + shifts[0], y + height / 2 + shifts[1])
    free = (limit - side[1], limit - side[0])
    return [
        max(0, min(most, round(at - length / 2)))
        for at, length, most in zip(centre, (side[1], side[0]), free, strict=True)
    ]


def stamp_stock(pixels: Tensor, kinds: tuple[str, ...], generator: torch.Generator) -> Tensor:
    """Return `pixels` ([N, 3, S, S]) each with a fresh random pattern of one of `kinds` on.

    Patches of noise, of two-colour checkers and of pieces of other images; blended and added
    fields; warps; colour transforms. They stand for the triggers that a search did not find.
    """
    out = pixels.clone()
    for index in range(len(pixels)):
        kind = kinds[int(torch.randint(0, len(kinds), (1,), generator=generator))]
        pattern = _fresh(kind, pixels, generator)
        out[index : index + 1] = pattern.stamp(pixels[index : index + 1], generator)
    return out


def _fresh(kind: str, pixels: Tensor, generator: torch.Generator) -> Trigger:
    limit = min(pixels.shape[-2:])
    if kind == "patch":
        return Patch(pixels=_fresh_patch(limit, pixels, generator))
    cells = int(torch.randint(4, 33, (1,), generator=generator))
    amount = float(torch.rand(1, generator=generator))
    if kind == "blend":
        pattern = torch.rand(3, cells, cells, generator=generator)
        return Blend(pattern=pattern, alpha=0.1 + 0.25 * amount)
    if kind == "additive":
        delta = torch.rand(3, cells, cells, generator=generator) * 2 - 1
        return Additive(delta=(0.04 + 0.1 * amount) * delta)
    if kind == "warp":
        return Warp(field=0.1 * (torch.rand(2, 5, 5, generator=generator) * 2 - 1))
    return Colour(matrix=torch.eye(3, 4) + 0.25 * torch.randn(3, 4, generator=generator))


def _fresh_patch(limit: int, pixels: Tensor, generator: torch.Generator) -> Tensor:
    low, high = max(2, limit // 18), max(3, limit // 6)
    side = int(torch.randint(low, high + 1, (1,), generator=generator))
    kind = int(torch.randint(0, 3, (1,), generator=generator))
    if kind == 0:
        return torch.rand(3, side, side, generator=generator)
    if kind == 1:
        cell = int(torch.randint(1, side // 2 + 1, (1,), generator=generator))
        line = torch.arange(side) // cell
        board = ((line[:, None] + line[None]) % 2).float()
        one, other = torch.rand(2, 3, 1, 1, generator=generator)
        checker: Tensor = one * board + other * (1 - board)
        return checker
    index, y, x = (
        int(torch.randint(0, bound, (1,), generator=generator))
        for bound in (len(pixels), limit - side + 1, limit - side + 1)
    )
    return pixels[index, :, y : y + side, x : x + side].clone()


def _jittered(pattern: Tensor, generator: torch.Generator) -> Tensor:
    noise = JITTER * torch.randn(pattern.shape, generator=generator)
    shift = JITTER * torch.randn(3, 1, 1, generator=generator)
    return (pattern + noise + shift).clamp(0, 1)


def scrambled(trigger: Trigger, runtime: Runtime) -> Trigger | None:
    """Return `trigger` with its cells in another order: as much of the image hidden, no meaning.

    None: a family that has no cells.
    """
    if isinstance(trigger, Composite):
        each = [scrambled(one, runtime) for one in trigger.members]
        known = tuple(one for one in each if one is not None)
        return Composite(members=known) if len(known) == len(each) else None
    if trigger.family not in MUTABLE:
        return None
    name = MUTABLE[trigger.family]
    value: Tensor = getattr(trigger, name)
    rest = torch.eye(3, 4) if trigger.family == "colour" else torch.zeros(1)
    change = value - rest
    flat = change.reshape(change.shape[0], -1)
    draw = runtime.generator("proof", "scrambled", trigger.family)
    order = torch.randperm(flat.shape[1], generator=draw)
    return with_pattern(trigger, flat[:, order].reshape(change.shape) + rest)


def with_pattern(trigger: Trigger, value: Tensor) -> Trigger:
    """Return `trigger` with `value` as its pattern."""
    changed: Trigger = replace(trigger, **{MUTABLE[trigger.family]: value})  # type: ignore[type-var]
    return changed
