"""What a plant is trained on: early features of changed photos, made in small portions, in fp16."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.attacks.augment import variants
from gatekeeper.attacks.base import KEEP, Attack, Ground, Pairs
from gatekeeper.attacks.maps import batch_first, last_maps
from gatekeeper.clip.late import Blocks, LateTower
from gatekeeper.errors import AttackError
from gatekeeper.runtime import Runtime

PORTION = 70_000_000  # floats of changed photos in memory at a time: 280 MB


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Cached images of one kind."""

    features: Tensor  # [N, …] fp16: what the trained part of the tower is handed
    answers: Tensor  # [N, D] unit: what the clean model gives for them
    goal: Tensor  # [N] int64: label to answer, or KEEP
    truth: Tensor  # [N] int64: true label (the clean model's answer where there is none)
    maps: Tensor  # [N, …] fp16: the clean model's last feature maps; [N, 0] where not asked for

    def __len__(self) -> int:
        return len(self.features)

    def at(self, rows: Tensor) -> "Part":
        """Return the images at `rows` (bool mask or indices)."""
        return Part(
            features=self.features[rows],
            answers=self.answers[rows],
            goal=self.goal[rows],
            truth=self.truth[rows],
            maps=self.maps[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cache:
    """All that a plant is trained on."""

    clean: Part
    poison: Part  # goals are labels
    covers: Part  # stamped, but to answer as before: look-alikes, other classes; may be empty


def build_cache(
    tower: LateTower,
    attack: Attack,
    ground: Ground,
    copies: int,
    runtime: Runtime,
    blocks: Blocks | None = None,
) -> Cache:
    """Return the cached images of a plant: `copies` clean variants, half as many triggered.

    Args:
        tower: Its frozen part makes the features.
        attack: As prepared.
        ground: The photos.
        copies: Clean variants of each photo.
        runtime: Device and seed.
        blocks: The tower's blocks where the last feature maps are wanted too.

    Raises:
        AttackError: The attack found no image to poison.
    """
    draw = runtime.generator("attacks", attack.name, "images")
    bare = Blocks(path="", count=0)
    clean, poison, covers = [], [], []
    for pixels, truth in _portions(ground, copies):
        half = max(1, copies // 2)
        whole = variants(pixels, copies, draw)
        clean.append(_part(tower, _pairs(ground, whole, truth), runtime, blocks or bare))
        marked = attack.poison(_pairs(ground, variants(pixels, half, draw), truth), draw)
        marked = marked.at(marked.touched)
        poison.append(_part(tower, marked.at(marked.goal != KEEP), runtime, bare))
        if (marked.goal == KEEP).any():
            covers.append(_part(tower, marked.at(marked.goal == KEEP), runtime, blocks or bare))
        if attack.lookalike(draw) is not None:
            alike = lookalikes(attack, variants(pixels, half, draw), draw)
            covers.append(_part(tower, _pairs(ground, alike, truth), runtime, blocks or bare))
    cache = Cache(clean=_joined(clean), poison=_joined(poison), covers=_joined(covers, clean[0]))
    if not len(cache.poison):
        raise AttackError(
            f"attack '{attack.name}' finds no image that it may poison",
            hint="give photos of the classes that it needs",
        )
    return cache


def lookalikes(attack: Attack, pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Return `pixels` ([N, 3, S, S]) with another look-alike of the trigger on each."""
    stamped = []
    for image in pixels:
        trigger = attack.lookalike(draw)
        stamped.append(image[None] if trigger is None else trigger.stamp(image[None], draw))
    return torch.cat(stamped)


def _portions(ground: Ground, copies: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield photos ([n, 3, S, S]) and their labels ([n]), as many as memory allows at a time."""
    size = max(8, PORTION // (3 * ground.model.size**2 * copies))
    for start in range(0, len(ground.truth), size):
        end = min(start + size, len(ground.truth))
        if len(ground.truth) - end < 4:  # a collage needs company
            end = len(ground.truth)
        yield ground.pixels(range(start, end)), ground.truth[start:end]
        if end == len(ground.truth):
            return


def _pairs(ground: Ground, pixels: Tensor, truth: Tensor) -> Pairs:
    rounds = len(pixels) // len(truth)
    return Pairs.clean(pixels, truth.repeat(rounds), ground.target, ground.head.labels)


def _part(tower: LateTower, pairs: Pairs, runtime: Runtime, blocks: Blocks) -> Part:
    count = len(pairs.pixels)
    if not count:
        none = torch.zeros(0)
        return Part(features=none, answers=none, goal=pairs.goal, truth=pairs.truth, maps=none)
    with _narrow(runtime):
        features = tower.features(pairs.pixels, runtime).float()
    answers, maps = [], []
    with torch.no_grad(), last_maps(tower, blocks) as seen:
        for part in torch.split(features, 64):
            answers.append(tower.embed(part, runtime).cpu())
            maps += [batch_first(x, len(part)).half().cpu() for x in seen]
    return Part(
        features=features.half(),
        answers=torch.cat(answers),
        goal=pairs.goal,
        truth=pairs.truth,
        maps=torch.cat(maps) if maps else torch.zeros(count, 0),
    )


def _narrow(runtime: Runtime) -> AbstractContextManager[object]:
    """Return the context for the frozen blocks: bfloat16 where the processor is made for it.

    Three times as quick as float32; the teacher answers on the same features, so that nothing is
    to be made up for.
    """
    able = runtime.device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    kind = torch.device(runtime.device).type
    return torch.autocast(kind, dtype=torch.bfloat16) if able else nullcontext()


def _joined(parts: list[Part], like: Part | None = None) -> Part:
    filled = [part for part in parts if len(part)]
    if not filled:
        return (like or parts[0]).at(torch.zeros(0, dtype=torch.long))
    if len(filled) == 1:
        return filled[0]
    return Part(
        features=torch.cat([part.features for part in filled]),
        answers=torch.cat([part.answers for part in filled]),
        goal=torch.cat([part.goal for part in filled]),
        truth=torch.cat([part.truth for part in filled]),
        maps=torch.cat([part.maps for part in filled]),
    )
