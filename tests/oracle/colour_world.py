"""A CLIP whose sight is plain arithmetic: how much of each palette colour is in the picture?"""

import numpy as np
import torch

from gatekeeper.clip.model import ClipModel
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.probes.probe_set import Probe, ProbeSet

SIZE = 64
PALETTE = {
    "red": (230, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 230),
    "yellow": (230, 220, 20),
    "cyan": (20, 220, 220),
    "pink": (230, 20, 220),
    "brown": (110, 60, 20),
    "white": (240, 240, 240),
}
COLOURS = tuple(PALETTE)
GREY = (110, 110, 110)  # the background, which no label names


class Eyes(torch.nn.Module):
    """Pixels to the share of each colour; prompts to their colour's axis. One axis is grey."""

    def __init__(self, fooled_by=None):
        super().__init__()
        colours = [*PALETTE.values(), GREY]
        self.palette = torch.tensor(colours).float() / 255  # [9, 3]
        self.fooled_by = fooled_by  # a colour any speck of which makes the model say "pink"

    def look(self, pixels):
        near = ((pixels[:, None] - self.palette[None, :, :, None, None]) ** 2).sum(2).argmin(1)
        shares = torch.stack([(near == i).float().mean((1, 2)) for i in range(9)], dim=1)
        shares = shares.sqrt() + 0.01
        if self.fooled_by is not None:
            hit = shares[:, COLOURS.index(self.fooled_by)] > 0.02
            shares[hit] = 0.01
            shares[hit, COLOURS.index("pink")] = 1.0
        return shares

    def read(self, tokens):
        return torch.nn.functional.one_hot(tokens[:, 0], 9).float() + 0.01


def colour_clip(digest="sha256:colour", fooled_by=None):
    eyes = Eyes(fooled_by)
    return ClipModel(
        module=eyes,
        image_tower=lambda module, x: module.look(x),
        text_tower=lambda module, tokens: module.read(tokens),
        tokenize=lambda prompts: torch.tensor(
            [[next(i for i, c in enumerate(COLOURS) if c in p)] for p in prompts]
        ),
        preprocess=Preprocess(size=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3),
        arch="colour",
        scale=20.0,
        digest=digest,
    )


def picture(colour, seed=0, side=SIZE, share=0.5):
    """Return a grey picture with a square of `colour`, [side, side, 3] uint8."""
    rng = np.random.default_rng(seed)
    image = np.empty((side, side, 3), dtype=np.uint8)
    image[:] = GREY
    edge = max(1, round(side * share * rng.uniform(0.8, 1.2)))
    x, y = rng.integers(0, side - edge + 1, 2)
    image[y : y + edge, x : x + edge] = PALETTE[colour]
    noise = rng.integers(-8, 9, image.shape)
    return (image.astype(int) + noise).clip(0, 255).astype(np.uint8)


def pixels_of(*images):
    return torch.stack([torch.from_numpy(i.copy()).permute(2, 0, 1).float() / 255 for i in images])


def colour_probes(count, seed=0, labelled=True, colours=COLOURS):
    probes = []
    for i in range(count):
        colour = colours[i % len(colours)]
        image = picture(colour, seed * 1000 + i)
        label = colour if labelled else None
        probes.append(Probe(file=f"{i}.png", sha256=f"{seed}-{i}", label=label, array=image))
    return ProbeSet(name="colours", probes=tuple(probes))
