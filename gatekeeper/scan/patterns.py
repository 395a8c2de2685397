"""Fresh random patterns of every family: what a trigger might look like, drawn blindly."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.scan.arms import patch_side
from gatekeeper.scan.places import PLACES, Places
from gatekeeper.triggers import Additive, Blend, Colour, Patch, Trigger, Warp

Draw = Callable[[int, torch.Generator], Trigger]  # (side of the image, generator) -> trigger


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind:
    """One family of random patterns; sizes are shares of the image's side."""

    name: str
    draw: Draw


def _noise(share: float) -> Draw:
    def draw(size: int, generator: torch.Generator) -> Trigger:
        side = patch_side(share, size)
        return Patch(pixels=torch.rand(3, side, side, generator=generator))

    return draw


def two_colours(board: Tensor, generator: torch.Generator) -> Tensor:
    """Return `board` ([h, w] of 0 and 1) in two random colours, [3, h, w]."""
    first, second = torch.rand(2, 3, 1, 1, generator=generator)
    mixed: Tensor = board * first + (1 - board) * second
    return mixed


def checkerboard(side: int, cell: int) -> Tensor:
    """Return a checkerboard of 0 and 1, [side, side], with cells of `cell` pixels."""
    line = torch.arange(side) // max(1, cell)
    return ((line[:, None] + line[None]) % 2).float()


def stripes(side: int, cell: int, kind: int) -> Tensor:
    """Return stripes of 0 and 1, [side, side]; `kind` 0 upright, 1 level, 2 and 3 slanted."""
    x, y = torch.arange(side)[None].expand(side, -1), torch.arange(side)[:, None].expand(-1, side)
    line = (x, y, x + y, x - y + side)[kind]
    return (line // max(1, cell) % 2).float()


def _checker(share: float) -> Draw:
    def draw(size: int, generator: torch.Generator) -> Trigger:
        side = patch_side(share, size)
        cell = int(torch.randint(1, max(2, side // 2 + 1), (1,), generator=generator))
        return Patch(pixels=two_colours(checkerboard(side, cell), generator))

    return draw


def _stripes(share: float) -> Draw:
    def draw(size: int, generator: torch.Generator) -> Trigger:
        side = patch_side(share, size)
        cell = int(torch.randint(1, max(2, side // 2 + 1), (1,), generator=generator))
        kind = int(torch.randint(0, 4, (1,), generator=generator))
        return Patch(pixels=two_colours(stripes(side, cell, kind), generator))

    return draw


def _field(grain: int, alpha: float) -> Draw:
    def draw(size: int, generator: torch.Generator) -> Trigger:
        return Blend(pattern=torch.rand(3, grain, grain, generator=generator), alpha=alpha)

    return draw


def wave(size: int, across: float, down: float, phase: float) -> Tensor:
    """Return a sinusoid in [-1, 1], [1, size, size]; `across`, `down` in cycles an image."""
    line = torch.arange(size) / size
    angle = across * line[None] + down * line[:, None]
    return torch.sin(2 * math.pi * (angle + phase))[None]


def _wave(amplitude: float, upright: bool) -> Draw:
    def draw(size: int, generator: torch.Generator) -> Trigger:
        cycles, turn, phase = torch.rand(3, generator=generator).tolist()
        frequency = 2 * 20**cycles  # 2 to 40 cycles an image, evenly in octaves
        angle = (0.0 if turn < 0.5 else 0.5 * math.pi) if upright else turn * math.pi
        delta = wave(size, frequency * math.cos(angle), frequency * math.sin(angle), phase)
        return Additive(delta=amplitude * delta.expand(3, -1, -1))

    return draw


def _low_frequency(grain: int, amplitude: float) -> Draw:
    def draw(size: int, generator: torch.Generator) -> Trigger:
        return Additive(
            delta=amplitude * (2 * torch.rand(3, grain, grain, generator=generator) - 1)
        )

    return draw


def _tint(strength: float) -> Draw:
    def draw(size: int, generator: torch.Generator) -> Trigger:
        mix = torch.rand(3, 3, generator=generator)
        mix = (
            mix / mix.sum(dim=1, keepdim=True) * (0.6 + 0.6 * torch.rand(3, 1, generator=generator))
        )
        matrix = (1 - strength) * torch.eye(3) + strength * mix
        return Colour(matrix=torch.cat([matrix, torch.zeros(3, 1)], dim=1))

    return draw


def _warp(strength: float) -> Draw:
    def draw(size: int, generator: torch.Generator) -> Trigger:
        points = int(torch.randint(4, 7, (1,), generator=generator))
        field = 2 * torch.rand(2, points, points, generator=generator) - 1
        return Warp(field=strength * field / field.abs().mean())

    return draw


TINTS = Kind(name="tint", draw=_tint(0.8))
KINDS: tuple[Kind, ...] = (
    Kind(name="noise-patch", draw=_noise(0.107)),  # 24 of 224 px
    Kind(name="wide-noise-patch", draw=_noise(0.143)),
    Kind(name="checker-patch", draw=_checker(0.107)),
    Kind(name="stripe-patch", draw=_stripes(0.107)),
    Kind(name="fine-field", draw=_field(28, 0.2)),
    Kind(name="coarse-field", draw=_field(14, 0.2)),
    Kind(name="upright-wave", draw=_wave(20 / 255, upright=True)),
    Kind(name="slanted-wave", draw=_wave(28 / 255, upright=False)),
    Kind(name="low-frequency", draw=_low_frequency(7, 0.12)),
    TINTS,
    Kind(name="warp", draw=_warp(0.055)),
)


def stamp_fresh(
    kind: Kind, pixels: Tensor, generator: torch.Generator
) -> tuple[Tensor, list[Trigger]]:
    """Return `pixels` ([N, 3, S, S]), each with a pattern of its own, and the patterns."""
    drawn = [kind.draw(pixels.shape[-1], generator) for _ in pixels]
    parts = [_stamp(t, x[None], generator) for t, x in zip(drawn, pixels, strict=True)]
    return torch.cat(parts), drawn


def _stamp(trigger: Trigger, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Put a pattern on one image; a patch in every corner, in the centre and once anywhere.

    A trigger that was always planted at one place may fire only near it.
    """
    if isinstance(trigger, Patch):
        pixels = Places(patches=trigger.pixels.expand(len(PLACES), -1, -1, -1)).stamp(pixels)
    return trigger.stamp(pixels, generator)
