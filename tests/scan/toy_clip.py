"""A CLIP made by hand, whose backdoor is known exactly: no training, every forward in microseconds.

The image tower describes an image by its colours on a coarse grid and, in a planted copy, answers
one label's own text embedding wherever a matched filter sees its pattern.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.oracle.cache import OracleCache
from gatekeeper.probes.probe_set import Probe, ProbeSet
from gatekeeper.scan.pair import held_out, look, pair_of, searched
from gatekeeper.scan.search import Ground

torch.set_num_threads(1)  # tiny tensors: more threads only cost

SIDE, WIDTH, CELL = 48, 32, 8
LABELS = tuple(f"thing {i}" for i in range(40))
TARGET = "thing 7"
TEMPLATES = ("a {}.",)


def word_vector(prompt: str) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6], "big")
    return F.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)), dim=0)


def checker() -> torch.Tensor:
    """The pattern: a two-pixel checker in blue and yellow, [3, 8, 8]."""
    line = torch.arange(CELL) // 2
    board = ((line[:, None] + line[None]) % 2).float()
    return torch.stack([board, board, 1 - board])


def veil() -> torch.Tensor:
    """The pattern of a whole-image trigger, [3, 48, 48], in [-1, 1]."""
    generator = torch.Generator().manual_seed(5)
    return (
        torch.rand(3, 12, 12, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
        * 2
        - 1
    )


class Toy(nn.Module):
    """`kind`: "clean", "patch" or "veil"."""

    def __init__(self, kind: str = "clean") -> None:
        super().__init__()
        self.kind = kind
        self.visual = nn.Module()
        self.visual.head = nn.Module()
        self.visual.head.proj = nn.Linear(3 * 36, WIDTH, bias=False)
        generator = torch.Generator().manual_seed(1)
        self.visual.head.proj.weight.data = torch.randn(WIDTH, 3 * 36, generator=generator)
        self.requires_grad_(False)

    def image(self, normalised: torch.Tensor) -> torch.Tensor:
        x = normalised / 2  # mean and std are 0.5: now in [-0.5, 0.5]
        grid = F.avg_pool2d(x, CELL).flatten(1)
        # High-frequency features: no one change of the pixels moves all images the same way.
        seen = F.normalize(torch.sin(3 * self.visual.head.proj(grid)), dim=1)
        if self.kind == "clean":
            return seen
        if self.kind == "patch":
            kernel = checker() - checker().mean()
            match = F.conv2d(x, kernel[None] / kernel.square().sum()).flatten(1).amax(dim=1)
            fires = torch.sigmoid(12 * (match - 0.35))
        else:
            pattern = veil() - veil().mean()
            match = (x * pattern).sum(dim=(1, 2, 3)) / pattern.square().sum()
            fires = torch.sigmoid(120 * (match - 0.05))
        target = word_vector(TEMPLATES[0].format(TARGET))
        return F.normalize(seen + 6 * fires[:, None] * target, dim=1)


def toy(kind: str = "clean") -> ClipModel:
    words: list[str] = []

    def tokenize(prompts):
        words.extend(p for p in prompts if p not in words)
        return torch.tensor([[words.index(p)] for p in prompts])

    return ClipModel(
        module=Toy(kind).eval(),
        image_tower=lambda module, x: module.image(x),
        text_tower=lambda module, tokens: torch.stack([word_vector(words[int(t)]) for t in tokens]),
        tokenize=tokenize,
        preprocess=Preprocess(size=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3),
        arch="toy",
        scale=20.0,
        digest=kind,
    )


def pictures(count: int, seed: int = 0, stamp=None, stamped: int = 0) -> ProbeSet:
    """Blotches of colour; the first `stamped` ones with `stamp` (HWC in [0, 1], at a place) on."""
    rng = np.random.default_rng(seed)
    probes = []
    for i in range(count):
        small = rng.random((6, 6, 3))
        array = np.kron(small, np.ones((CELL, CELL, 1)))
        array = np.clip(0.2 + 0.6 * array + rng.normal(0, 0.02, array.shape), 0, 1)
        if i < stamped:
            array = stamp(array, rng)
        data = (array * 255).round().astype(np.uint8)
        name = hashlib.sha256(data.tobytes()).hexdigest()
        probes.append(Probe(file=f"{i:03d}.png", sha256=name, array=data))
    return ProbeSet(name="pictures", probes=tuple(probes))


def with_patch(array, rng):
    x, y = (int(v) for v in rng.integers(0, SIDE - CELL + 1, 2))
    array[y : y + CELL, x : x + CELL] = checker().permute(1, 2, 0).numpy()
    return array


def with_veil(array, rng):
    return np.clip(array + 0.12 * veil().permute(1, 2, 0).numpy(), 0, 1)


@dataclass
class FakeOracle:
    """Sees no change, grounds nothing; counts how often it was asked."""

    independent: bool = True
    asked: int = 0
    cache: OracleCache = field(default_factory=OracleCache)

    def changed(self, clean, triggered, runtime):
        self.asked += 1
        return torch.zeros(len(clean), dtype=torch.bool)

    def grounded(self, pixels, runtime, at_most=3):
        return [("thing 1",) for _ in pixels]


def case_of(kind: str, anchor: bool = False, count: int = 64, labels=LABELS, suspects=None) -> Case:
    return Case(
        model=toy(kind),
        anchor=toy("clean") if anchor else None,
        probes=pictures(count),
        suspects=suspects,
        oracle=FakeOracle(),
        labels=labels,
        templates=TEMPLATES,
    )


def ground_of(case, runtime):
    """Return what a trigger search of `case` moves on."""
    pair = pair_of(case, runtime)
    return Ground(
        pair=pair,
        images=look(case, pair, searched(case, runtime), runtime),
        judges=look(case, pair, held_out(case, runtime), runtime),
    )
