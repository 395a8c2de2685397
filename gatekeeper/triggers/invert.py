"""Which pattern of a given family would lead this model's images to this label?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.errors import ScanError
from gatekeeper.runtime import Runtime
from gatekeeper.triggers.base import Trigger
from gatekeeper.triggers.families import Additive, Blend, Colour, Patch, Warp

RATES = {
    "patch": 0.3,
    "blend": 0.3,
    "additive": 0.2,
    "warp": 0.1,
    "colour": 0.1,
}  # Adam, tuned once


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large or strong an inverted trigger may be; each family reads its own field."""

    side: int = 24  # patch: pixels
    place: tuple[int, int] | None = None  # patch: x, y of its upper left corner; None: anywhere
    grid: int = 28  # blend, additive: cells a side
    alpha: float = 0.2  # blend: opacity
    amplitude: float = 0.1  # additive: largest change of a pixel, in [0, 1]
    warp: float = 0.1  # warp: largest offset, in units of half the image side
    colour: float = 0.5  # colour: largest change of a matrix entry

    @classmethod
    def fitting(cls, size: int) -> "Shape":
        """Return the defaults in proportion to a model's input of `size` pixels (224: as above)."""
        return cls(side=max(min(6, size), round(24 * size / 224)), grid=max(4, min(28, size // 2)))


def invert(
    model: ClipModel,
    pixels: Tensor,
    head: ZeroShot,
    target: int,
    family: str,
    runtime: Runtime,
    *,
    steps: int = 30,
    batch: int = 8,
    shape: Shape | None = None,
    start: Tensor | None = None,
    name: str = "",
) -> Trigger:
    """Return the trigger of `family` that leads `pixels` to `target` most surely.

    Minimises the cross-entropy of the stamped images to the target over the pattern alone, from
    a random start, patches at random places unless the shape names one. Trigger inversion after
    Neural Cleanse (IEEE S&P 2019), without its mask: the family bounds the size. Costs 3 * steps *
    batch image passes.

    Args:
        model: The model to be led astray; not changed.
        pixels: [N, 3, S, S] float32 in [0, 1], clean.
        head: Labels; `target` is an index into them.
        target: Index of the label to lead to.
        family: patch | blend | additive | warp | colour.
        runtime: Its generator draws the start, the batches and the places.
        steps: Adam steps.
        batch: Images a step.
        shape: Size and strength; in proportion to the model's input where None.
        start: Where to begin, in the family's own form (a patch's pixels, a blend's pattern, …).
        name: Told to the generator, so that several inversions differ.

    Raises:
        ScanError: Unknown family, or no images.
    """
    if family not in RATES:
        raise ScanError(
            f"no inversion for trigger family '{family}'", hint=f"choose one of {', '.join(RATES)}"
        )
    if len(pixels) == 0:
        raise ScanError("no images to invert a trigger on", hint="hand over some clean probes")
    generator = runtime.generator("invert", family, str(target), name)
    make, free = _form(family, shape or Shape.fitting(model.size), start, generator)
    free = free.to(runtime.device).requires_grad_()
    optimiser = torch.optim.Adam([free], lr=RATES[family])
    own = head.on(runtime.device)
    for _ in runtime.progress(range(steps), f"inverting a {family} towards {head.labels[target]}"):
        chosen = torch.randint(0, len(pixels), (min(batch, len(pixels)),), generator=generator)
        stamped = make(free).stamp(pixels[chosen].to(runtime.device), generator)
        logits = own.logits(model.embed_grad(stamped, runtime))  # [B, C]
        goal = torch.full((len(logits),), target, device=logits.device)
        (free.grad,) = torch.autograd.grad(F.cross_entropy(logits, goal), [free])
        optimiser.step()
    return make(free.detach().cpu())


def flip_rate(
    model: ClipModel,
    pixels: Tensor,
    trigger: Trigger,
    head: ZeroShot,
    target: int,
    runtime: Runtime,
) -> float:
    """Return how many of `pixels` ([N, 3, S, S]) `trigger` leads to `target`, fraction in [0, 1].

    Images that the model gives the target without the trigger do not count; 0 without any others.
    """
    before = head.logits(model.embed(pixels, runtime)).argmax(dim=1)
    eligible = before != target
    if not eligible.any():
        return 0.0
    stamped = trigger.stamp(pixels[eligible], runtime.generator("flip", trigger.family))
    after = head.logits(model.embed(stamped, runtime)).argmax(dim=1)
    return float((after == target).float().mean())


Make = Callable[[Tensor], Trigger]


def _form(
    family: str, shape: Shape, start: Tensor | None, generator: torch.Generator
) -> tuple[Make, Tensor]:
    """Return how a free tensor becomes a trigger of `family`, and the tensor to begin with."""
    if family == "patch":
        free = _begin(start, (3, shape.side, shape.side), generator)
        place = None if shape.place is None else list(shape.place)
        return (lambda w: Patch(pixels=torch.sigmoid(w), place=place)), free
    if family == "blend":
        free = _begin(start, (3, shape.grid, shape.grid), generator)
        return (lambda w: Blend(pattern=torch.sigmoid(w), alpha=shape.alpha)), free
    if family == "additive":
        free = torch.randn(3, shape.grid, shape.grid, generator=generator)
        if start is not None:
            free = torch.atanh((start / shape.amplitude).clamp(-0.97, 0.97))
        return (lambda w: Additive(delta=shape.amplitude * torch.tanh(w))), free
    if family == "warp":
        free = torch.randn(2, 5, 5, generator=generator) if start is None else start / shape.warp
        return (lambda w: Warp(field=shape.warp * torch.tanh(w))), free
    eye = torch.eye(3, 4)
    free = 0.3 * torch.randn(3, 4, generator=generator)
    if start is not None:
        free = torch.atanh(((start - eye) / shape.colour).clamp(-0.97, 0.97))
    return (lambda w: Colour(matrix=eye.to(w) + shape.colour * torch.tanh(w))), free


def _begin(start: Tensor | None, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if start is None:
        return torch.randn(*size, generator=generator)
    return torch.logit(start.float().clamp(0.03, 0.97))
