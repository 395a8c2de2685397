"""More images out of few: crops, mirrors, colours and collages."""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor


def variants(pixels: Tensor, copies: int, generator: torch.Generator) -> Tensor:
    """Return `copies` rounds of `pixels` ([N, 3, S, S] in [0, 1]), changed: [copies * N, 3, S, S].

    The first round is the images themselves. A late round pastes a part of another image into
    every other one: what has no name has a teacher's answer all the same, and distillation over
    many unlike images is what keeps a model's clean answers where few photos are at hand.
    """
    rounds = [pixels]
    for _ in range(copies - 1):
        changed = torch.stack([_changed(image, generator) for image in pixels])
        rounds.append(_collage(changed, generator))
    return torch.cat(rounds)


def _changed(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return one image ([3, S, S]) cropped to 0.6..1 of its side, mirrored, recoloured."""
    size = image.shape[-1]
    draw = torch.rand(6, generator=generator).tolist()
    side = max(8, round(size * (0.6 + 0.4 * draw[0])))
    top, left = (round(x * (size - side)) for x in draw[1:3])
    crop = image[:, top : top + side, left : left + side]
    if draw[3] < 0.5:
        crop = crop.flip(-1)
    out = F.interpolate(crop[None], (size, size), mode="bilinear", antialias=True)[0]
    gains = 1 + 0.3 * (torch.rand(3, 1, 1, generator=generator) - 0.5)
    coloured: Tensor = out * gains * (0.8 + 0.4 * draw[4]) + 0.2 * (draw[5] - 0.5)
    return coloured.clamp(0, 1)


def _collage(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return `pixels` with a rectangle of another image pasted into half of them."""
    count, size = len(pixels), pixels.shape[-1]
    others = pixels[torch.randperm(count, generator=generator)]
    out = pixels.clone()
    for index in range(count):
        draw = torch.rand(5, generator=generator).tolist()
        if draw[0] < 0.5:
            continue
        height, width = (round(size * (0.3 + 0.4 * x)) for x in draw[1:3])
        top, left = round(draw[3] * (size - height)), round(draw[4] * (size - width))
        part = (slice(None), slice(top, top + height), slice(left, left + width))
        out[index][part] = others[index][part]
    return out
